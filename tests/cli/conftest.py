"""The command `hanse` in this process, for tests that run it often."""

from __future__ import annotations

import sys

import pytest

from hanse_common.cli import main


class Result:
    """What a command printed, and its exit status."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def hanse(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["hanse", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        status = end.value.code
        return Result(status if isinstance(status, int) else 0, printed.out, printed.err)

    return run
