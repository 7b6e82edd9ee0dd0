"""Assertions on the code of an error, which stays, and not on its words, which may change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hanse_common.errors import HanseError


@contextmanager
def raises(*codes: str, match: str | None = None) -> Iterator[pytest.ExceptionInfo[HanseError]]:
    """Expect an error with one of these codes.

    Args:
        codes: Codes, any of which will do.
        match: A pattern for the words, where these are what is tested: a value that is quoted,
            or a name.
    """
    with pytest.raises(HanseError, match=match) as caught:
        yield caught
    assert caught.value.code in codes, caught.value
