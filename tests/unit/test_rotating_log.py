"""The SuperLink's output lies in files of bounded size, and none of it is lost before that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hanse_server.deployment.rotating_log import RotatingLog


def run(log: RotatingLog, program: str) -> None:
    try:
        subprocess.run([sys.executable, "-c", program], stdout=log.writing, stderr=log.writing)
    finally:
        log.handed_over()
    log.flush(30)


def test_full_files_are_kept_up_to_a_number(tmp_path):
    path = tmp_path / "superlink.log"
    run(RotatingLog(path, largest=1000, earlier=2), "for n in range(1000): print(f'line {n:04}')")
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "superlink.log",
        *(f"superlink.log.{n}" for n in (1, 2)),
    ]
    files = [tmp_path / name for name in ("superlink.log.2", "superlink.log.1", "superlink.log")]
    assert all(file.stat().st_size <= 1000 for file in files)
    lines = "".join(file.read_text() for file in files).splitlines()
    assert lines == [f"line {n:04}" for n in range(1000 - len(lines), 1000)]


def test_a_later_start_goes_on_in_the_same_file(tmp_path):
    path = tmp_path / "superlink.log"
    for word in ("first", "second"):
        run(RotatingLog(path), f"import sys; print({word!r}); print('err', file=sys.stderr)")
    assert sorted(path.read_text().split()) == ["err", "err", "first", "second"]


def test_bytes_that_are_no_text_and_lines_without_end_are_copied(tmp_path):
    path = tmp_path / "superlink.log"
    run(RotatingLog(path), r"import os; os.write(1, b'\xff' + b'x' * 200_000)")
    assert path.read_text().replace("\n", "") == "\\xff" + "x" * 200_000


def test_a_file_that_cannot_be_written_does_not_block_the_program(tmp_path):
    path = tmp_path / "superlink.log"
    log = RotatingLog(path)
    full = Path("/dev/full")
    if full.exists():
        log._handler.stream.close()
        log._handler.stream = full.open("w")
    run(log, "print('x' * 300_000)")
