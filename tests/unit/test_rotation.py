"""Every log has a bounded size, and those who read one read its earlier files too."""

from __future__ import annotations

import subprocess
import sys

from hanse_client.deployment import alerts, metrics
from hanse_client.node import append_log
from hanse_common import rotation
from hanse_common.paths import STORE_LOG_FILE


def test_a_stores_log_is_rotated_and_read_over_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr("hanse_client.node.LARGEST", 500)
    for number in range(12):
        append_log(tmp_path, round=number, error=f"[budget-spent] {'x' * 80}")
    files = rotation.files_of(tmp_path / STORE_LOG_FILE)
    assert len(files) == 4 and all(file.stat().st_size <= 500 for file in files)
    lines = list(rotation.all_json_lines(tmp_path / STORE_LOG_FILE))
    assert [line["round"] for line in lines] == list(range(12))
    codes, last = metrics._refusals(tmp_path)
    assert (dict(codes), last) == ({"budget-spent": 12}, lines[-1]["time"])
    # The newest file may hold a single line.
    append_log(tmp_path, round=12, error="[budget-spent]")
    assert len(alerts._last_lines(tmp_path / STORE_LOG_FILE)) > 3


def test_a_simulations_log_keeps_every_line(tmp_path, monkeypatch):
    monkeypatch.setattr("hanse_client.node.LARGEST", 500)
    for number in range(12):
        append_log(tmp_path, rotate=False, step=number, text="x" * 80)
    assert rotation.files_of(tmp_path / STORE_LOG_FILE) == [tmp_path / STORE_LOG_FILE]


def test_a_log_that_a_process_has_open_is_emptied_and_goes_on(tmp_path):
    path = tmp_path / "up.log"
    program = "import sys; [print(line.strip() * 300, flush=True) for line in sys.stdin]"
    with path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=log, text=True
        )
    assert process.stdin is not None
    process.stdin.write("ab\n")
    process.stdin.flush()
    while path.stat().st_size < 601:
        pass
    rotation.empty_if_full(path, largest=700)
    assert rotation.files_of(path) == [path]
    rotation.empty_if_full(path, largest=600)
    process.communicate("cd\n")
    assert path.read_text() == "cd" * 300 + "\n"
    assert path.with_name("up.log.1").read_text() == "ab" * 300 + "\n"
    rotation.begin_anew(path)
    assert [file.name for file in rotation.files_of(path)] == ["up.log.2", "up.log.1"]
