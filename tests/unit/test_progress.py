"""Following a run: tailing logs that grow, time left, live table and plain lines."""

from __future__ import annotations

import io
import json
import re
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from hanse_simulations.monitoring.progress import Progress, _Lines, live_table
from hanse_simulations.monitoring.tail import ArmWatch, JsonLines
from hanse_simulations.runs.folder import ArmFolder
from kits.runs import append_stage, append_step


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def drawn(watch: ArmWatch, height: int = 40) -> str:
    page = io.StringIO()
    Console(file=page, width=100).print(live_table(watch, height=height))
    return page.getvalue()


def test_lines_are_read_once_and_a_half_written_one_later(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = JsonLines(path)
    assert lines.new() == []
    path.write_text('{"a": 1}\n{"a": 2}\n{"a"')
    assert lines.new() == [{"a": 1}, {"a": 2}]
    assert lines.new() == []
    with path.open("a") as file:
        file.write(': "ä"}\n')
    assert lines.new() == [{"a": "ä"}]


def test_broken_lines_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'nonsense\n[1]\n\xff\xfe\n\n{"a": 1}\n')
    assert JsonLines(path).new() == [{"a": 1}]


def test_a_file_that_became_shorter_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n')
    lines = JsonLines(path)
    lines.new()
    path.write_text('{"a": 3}\n')
    assert lines.new() == [{"a": 3}]


def test_a_file_that_was_replaced_is_read_again_even_if_it_is_longer(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"a": 1}\n')
    lines = JsonLines(path)
    lines.new()
    (tmp_path / "new").write_text('{"a": 2}\n{"a": 3}\n')
    (tmp_path / "new").replace(path)
    assert lines.new() == [{"a": 2}, {"a": 3}]


def test_the_watch_knows_round_step_loss_and_epsilon(tmp_path: Path) -> None:
    folder = ArmFolder(tmp_path)
    watch = ArmWatch("federated_private", tmp_path, 5)
    append_step(folder, "Lübeck", 1, 3, 1.25)
    assert watch.look() == []
    store = watch.stores["Lübeck"]
    assert (watch.round, store.round, store.step, store.steps, store.epsilon) == (1, 1, 3, 4, 1.25)
    append_stage(folder, 0, "evaluate", 12, 1.0)
    append_stage(folder, 1, "train", 12, 2.0)
    append_stage(folder, 1, "evaluate", 12, 1.0)
    (end,) = watch.look()
    assert (end.round, end.seconds, end.replies) == (1, 2.0, 12)
    assert (watch.rounds_done, watch.round, watch.finished) == (1, 2, False)
    append_stage(folder, 5, "done", 0, 0.0)
    assert watch.look() == []
    assert watch.finished


def test_time_left_follows_the_mean_round(tmp_path: Path) -> None:
    clock, folder = Clock(), ArmFolder(tmp_path)
    watch = ArmWatch("federated", tmp_path, 4, clock)
    assert watch.left is None
    for number in (1, 2):
        clock.now += 10.0
        append_stage(folder, number, "train", 3, 10.0)
        watch.look()
    assert watch.left == pytest.approx(20.0)
    clock.now += 4.0
    assert watch.left == pytest.approx(16.0)
    clock.now += 100.0
    assert watch.left == 0.0


def test_stores_that_train_by_themselves_have_done_the_mean_of_their_rounds(tmp_path: Path) -> None:
    clock, folder = Clock(), ArmFolder(tmp_path)
    (folder.stores_dir / "not yet begun").mkdir(parents=True)
    watch = ArmWatch("alone", tmp_path, 4, clock)
    append_step(folder, "done", 4, 4, 1.0)
    append_step(folder, "half-way", 3, 2, 1.0)
    clock.now += 10.0
    assert watch.look() == []
    assert (watch.rounds_done, watch.left) == (2, pytest.approx(10.0))


def test_rounds_of_an_earlier_sitting_say_nothing_about_the_pace(tmp_path: Path) -> None:
    clock, folder = Clock(), ArmFolder(tmp_path)
    for number in (1, 2):
        append_stage(folder, number, "train", 3, 1000.0)
    watch = ArmWatch("federated", tmp_path, 4, clock)
    assert (watch.rounds_done, watch.left) == (2, None)
    clock.now += 5.0
    append_stage(folder, 3, "train", 3, 5.0)
    watch.look()
    assert watch.left == pytest.approx(5.0)


def test_the_live_table_shows_every_store_of_a_few(tmp_path: Path) -> None:
    folder = ArmFolder(tmp_path)
    for k in range(12):
        append_step(folder, f"Region {k}", 2, 1, 1.5)
    page = drawn(ArmWatch("federated_private", tmp_path, 5))
    assert "Federated, private" in page
    assert "round 2 of 5" in page
    assert all(f"Region {k}" in page for k in range(12))
    assert "1.50" in page
    assert "more store" not in page


def test_of_many_stores_the_busiest_are_shown_and_the_rest_summed_up(tmp_path: Path) -> None:
    folder = ArmFolder(tmp_path)
    for k in range(99):
        append_step(folder, f"Shop {k:02}", 1, 4 if k != 57 else 2, 1.5 + k / 1000)
    page = drawn(ArmWatch("federated_private", tmp_path, 5))
    assert "Shop 57" in page
    assert "and 91 more stores" in page
    assert "ε at most 1.60" in page
    assert drawn(ArmWatch("federated_private", tmp_path, 5), height=12).count("Shop") == 3


def test_without_a_terminal_there_is_one_plain_line_a_round(tmp_path: Path) -> None:
    page, folder = io.StringIO(), ArmFolder(tmp_path)
    with Progress(console=Console(file=page, width=40), interval=0.01) as progress:
        progress.note("reading 3 stores")
        progress.arm("federated_private", tmp_path, 2)
        for number in (1, 2):
            append_step(folder, "a", number, 4, 1.25 * number)
            append_stage(folder, number, "train", 3, 1.5)
    lines = page.getvalue().splitlines()
    assert "\x1b" not in page.getvalue()
    assert lines[0] == "reading 3 stores"
    assert lines[1].startswith("Federated, private: round 1/2, loss ")
    assert "3 stores, 1.5 s" in lines[1]
    assert lines[2].startswith("Federated, private: round 2/2, loss 1.540, ε 2.50")
    assert lines[3].startswith("Federated, private: 2 of 2 rounds in ")
    assert len(lines) == 4


def lines_of(folder: Path, rounds: int, *, seconds: float, clock: Clock) -> list[str]:
    """What is printed of an arm whose rounds take so long each."""
    page = io.StringIO()
    lines = _Lines(Console(file=page, width=40), clock)
    watch = ArmWatch("federated", folder, rounds, clock)
    for number in range(1, rounds + 1):
        clock.now += seconds
        append_stage(ArmFolder(folder), number, "train", 3, seconds)
        lines.rounds(watch, watch.look())
    lines.end(watch)
    return page.getvalue().splitlines()


def test_of_many_rounds_a_tenth_has_a_line_without_a_terminal(tmp_path: Path) -> None:
    printed = lines_of(tmp_path, 80, seconds=1.0, clock=Clock())
    named = [int(number) for line in printed for number in re.findall(r"round (\d+)/80", line)]
    assert named == [1, 10, 20, 30, 40, 50, 60, 70]
    assert printed[-1].startswith("Federated, no privacy: 80 of 80 rounds in ")


def test_a_slow_arm_is_not_silent_for_longer_than_a_round_and_a_minute(tmp_path: Path) -> None:
    printed = lines_of(tmp_path, 12, seconds=25.0, clock=Clock())
    named = [int(number) for line in printed for number in re.findall(r"round (\d+)/12", line)]
    assert named == [1, 4, 7, 10]


def test_a_refusal_is_explained_once(tmp_path: Path) -> None:
    page = io.StringIO()
    with Progress(console=Console(file=page), interval=0.01) as progress:
        progress.arm("federated", tmp_path, 2)
        stages = [
            {"round": n, "stage": "train", "replies": 10, "refusals": {"S [b]": "no budget"}}
            for n in (1, 2)
        ]
        (tmp_path / "rounds.jsonl").write_text("".join(json.dumps(s) + "\n" for s in stages))
    assert page.getvalue().count("10 of 11 stores") == 2
    assert page.getvalue().count("S [b] took no part in round 1: no budget") == 1
    assert page.getvalue().count("took no part") == 1


def test_on_a_terminal_the_table_is_live_and_a_line_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, folder = io.StringIO(), ArmFolder(tmp_path / "a")
    console = Console(file=page, force_terminal=True, width=100, height=40, _environ={})
    with Progress(console=console, interval=0.01) as progress:
        progress.arm("alone", folder, 1)
        append_step(folder, "Region 1", 1, 2, None)
        deadline = time.monotonic() + 5.0
        while "Region 1" not in page.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "2/4" in page.getvalue()
        append_stage(folder, 1, "train", 1, 1.0)
        progress.arm("federated", tmp_path / "b", 1)
        print("data")
    assert "Each store alone: 1 of 1 round in" in page.getvalue()
    assert capsys.readouterr().out == "data\n"


def test_by_default_it_goes_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        progress.note("hello")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "hello\n")


def test_quiet_says_nothing_and_starts_no_thread(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = threading.active_count()
    with Progress(quiet=True) as progress:
        assert threading.active_count() == before
        progress.note("hello")
        progress.arm("federated", tmp_path, 3)
    assert capsys.readouterr() == ("", "")


def test_an_interrupted_run_leaves_the_terminal_and_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    page = io.StringIO()
    console = Console(file=page, force_terminal=True, width=80, height=24, _environ={})
    with pytest.raises(KeyboardInterrupt), Progress(console=console, interval=0.01) as progress:
        progress.arm("federated", tmp_path, 3)
        raise KeyboardInterrupt
    assert threading.active_count() == before
    assert page.getvalue().rindex("\x1b[?25h") > page.getvalue().index("\x1b[?25l")
