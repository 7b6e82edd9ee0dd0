"""The table at the end of a run, as plain text and on a terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from hanse_simulations.report import tables as table
from hanse_simulations.report.wording import epsilon, figure
from hanse_simulations.runs.folder import compare, list_runs
from hanse_simulations.runs.results import RunResult
from kits.runs import write_run


def text_of(result: RunResult) -> str:
    page = io.StringIO()
    table.print_result(result, file=page)
    return page.getvalue()


def test_plain_text_has_a_fixed_width_and_no_escape_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = write_run(tmp_path).read_result()
    pages = []
    for columns in ("40", "300"):
        monkeypatch.setenv("COLUMNS", columns)
        pages.append(text_of(result))
    assert pages[0] == pages[1]
    assert "\x1b" not in pages[0]
    assert max(map(len, pages[0].splitlines())) <= table.PLAIN_WIDTH


def test_baselines_stand_before_models_and_each_task_has_its_own_rules(tmp_path: Path) -> None:
    page = text_of(write_run(tmp_path).read_result())
    basket, outlook = page.split("Outlook")
    order = ["Personal frequency", "Each store alone", "Federated, no privacy"]
    assert sorted(order, key=basket.index) == order
    assert "Logistic regression" in outlook
    assert "Logistic regression" not in basket
    assert "Markov chain" not in outlook


def test_the_best_figure_of_a_column_is_starred() -> None:
    page = text_of(
        RunResult(
            recipe="smoke",
            run="mine",
            metrics={"ndcg@10": 0.3, "hr@10": 0.9},
            baselines={"markov": {"ndcg@10": 0.4, "hr@10": None}},
        )
    )
    markov = next(line for line in page.splitlines() if "Markov" in line)
    assert markov.split()[-2:] == ["*.400", "–"]
    assert "*.300" not in page


def test_equal_figures_are_both_the_best() -> None:
    rows = {"a": {"ndcg@10": 0.38001}, "b": {"ndcg@10": 0.37999}, "c": {"ndcg@10": 0.1}}
    assert table.best_arms(rows, "ndcg@10") == {"a", "b"}
    assert table.best_arms({"a": {"ndcg@10": 0.38}}, "ndcg@10") == set()


def test_the_note_states_the_whole_promise_and_its_limits(tmp_path: Path) -> None:
    page = " ".join(text_of(write_run(tmp_path).read_result()).split())
    for part in ("ε ≤ 7.99", "δ = 1e-6", "customer", "add-or-remove-one", "mode local"):
        assert part in page
    assert "computed without noise" in page
    assert "Updates travel in the clear" in page


def test_a_run_without_privacy_says_so(tmp_path: Path) -> None:
    page = text_of(write_run(tmp_path, private=False).read_result())
    assert "no arm of this run promises anything" in page
    assert "ε ≤" not in page


def test_a_terminal_gets_bold_and_a_narrow_one_stacks_the_spread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for variable in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    page = Terminal()
    table.print_result(write_run(tmp_path).read_result(), file=page)
    assert "\x1b[1m" in page.getvalue()
    plain = Console(file=io.StringIO()).render_str(page.getvalue()).plain
    assert any(line.strip(" \x1b[0m").count("±") > 3 for line in plain.splitlines())
    assert "*." not in page.getvalue()


def test_names_with_brackets_are_text_not_markup(tmp_path: Path) -> None:
    result = write_run(tmp_path).read_result().model_copy(update={"notes": ["[bold]x[/bold]"]})
    assert "[bold]x[/bold]" in text_of(result)


def test_an_empty_result_prints_a_headline() -> None:
    assert "smoke" in text_of(RunResult(recipe="smoke", run="mine"))


def test_lists_and_comparisons_print_one_line_or_column_a_run(tmp_path: Path) -> None:
    write_run(tmp_path, "a")
    write_run(tmp_path, "b", private=False, **{"data.level": "type"})
    page = io.StringIO()
    table.print_runs(list_runs(tmp_path), file=page)
    table.print_comparison(compare(["a", "b"], root=tmp_path), file=page)
    text = page.getvalue()
    assert text.count("finished") == 2
    assert "data.level" in text
    assert "cannot be compared" in text
    assert "privacy.mode" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.38, ".380"), (1.0, "1.000"), (0.9996, "1.000"), (-0.5, "-.500"), (float("nan"), "–")],
)
def test_figures_are_written_without_a_leading_zero(value: float, text: str) -> None:
    assert figure(value) == text


@pytest.mark.parametrize(("value", "text"), [(7.9801, "7.99"), (8.0, "8.00"), (0.0, "0.00")])
def test_epsilon_is_never_rounded_down(value: float, text: str) -> None:
    assert epsilon(value) == text
