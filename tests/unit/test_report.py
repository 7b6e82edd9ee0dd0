"""The report: self-contained, safe, complete, and written for runs of every shape."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hanse_common.privacy.plan import PrivacyPlan
from hanse_common.recipes import grocery
from hanse_simulations.report.build import headline, spent_by_round, write_report
from hanse_simulations.report.groups import group_tables
from hanse_simulations.report.overview import epsilon_by_phase, phase_costs
from hanse_simulations.report.sweep import comparison_tables
from hanse_simulations.runs.folder import RunFolder
from hanse_simulations.runs.results import GroupFigure, RunResult, Spread, SweepRow
from kits.errors import raises
from kits.runs import write_run

HOSTILE = '<script>alert("1")</script>'
VOID = {"meta", "link", "br"}


class Page(HTMLParser):
    """Collects what the tests ask about, and checks that every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        values = {key: value or "" for key, value in attrs}
        if "id" in values:
            self.ids.append(values["id"])
        for key in ("aria-labelledby", "href", "xlink:href"):
            self.references += [v.lstrip("#") for v in values.get(key, "").split() if v != "data:,"]
        self.references += re.findall(r"url\(#([^)]+)\)", values.get("clip-path", ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"style", "script"}:
            self.text += data + " "


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = write_run(tmp_path_factory.mktemp("runs"))
    path = write_report(folder)
    assert path == folder.report_file
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = write_run(tmp_path_factory.mktemp("compared"), compared=True)
    return write_report(folder).read_text(encoding="utf-8")


def assert_self_contained(text: str) -> None:
    for url in re.findall(r"https?://[^\"'\s<]*", text):
        assert url.startswith("http://www.w3.org/"), url
    for forbidden in ("src=", "@import", "<script", "<iframe", "<object", "javascript:", "//cdn"):
        assert forbidden not in text.lower(), forbidden
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))


def test_the_page_needs_nothing_but_itself(report: str) -> None:
    assert_self_contained(report)
    assert "default-src 'none'" in report


def test_every_tag_is_closed_every_id_unique_and_every_reference_resolves(report: str) -> None:
    page = Page(report)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert set(page.references) <= set(page.ids)


def test_the_parts_stand_in_order(report: str) -> None:
    headings = re.findall(r"<h2[^>]*>([^<]+)</h2>", report)
    assert headings == [
        "At a glance",
        "Against baselines, and against staying alone",
        "How it got there",
        "What is protected, and what is not",
        "Store by store",
        "How to repeat it",
        "Settings",
    ]
    assert report.index('class="headline"') < report.index('class="facts"') < report.index("<h2")


def test_tables_have_captions_and_drawings_have_titles_and_descriptions(report: str) -> None:
    page = Page(report)
    assert page.tags.count("table") == page.tags.count("caption") == 5
    drawings = re.findall(r'<svg [^>]*role="img"[^>]*aria-labelledby="[^"]+"', report)
    assert len(drawings) == 5
    assert page.tags.count("title") == 1 + len(drawings)
    assert page.tags.count("desc") == len(drawings)
    assert report.count('scope="row"') > 20


def test_a_compared_run_leads_with_pictures_and_folds_its_groups(compared: str) -> None:
    page = Page(compared)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert set(page.references) <= set(page.ids)
    assert_self_contained(compared)
    first = compared[compared.index("At a glance") : compared.index("Against baselines")]
    assert re.findall(r"<h3>([^<]+)</h3>", first) == [
        "Who gains by joining",
        "Accuracy by ε",
        "ε by phase",
        "What was known before any private data",
    ]
    for part in ("all customers", "largest stores", "Model before training", "5 rounds"):
        assert part in first, part
    groups = compared[compared.index("Whom it serves worse") : compared.index("Store by store")]
    assert groups.count("<table") == groups.count("<details>") == groups.count("</details>") == 2
    assert compared.index("How it got there") < compared.index("Whom it serves worse")


def test_a_difference_that_may_be_chance_is_called_none(compared: str) -> None:
    start = compared.index("Differences that can be told from chance")
    table = compared[start : compared.index("</table>", start)]
    assert "Difference to: Each store alone" in table
    private = next(line for line in table.splitlines() if "Federated, private" in line)
    assert re.search(r"<td>[+-]\.\d{4} \[", private)
    # Staying alone differs from itself by nothing.
    assert "<td>none [-.0110, .0120]</td>" in table


def test_phases_have_their_share_their_noise_and_an_epsilon_of_their_own() -> None:
    settings = grocery().with_changes(
        {
            "federation.rounds": 11,
            "phases": [
                {"name": "pairs", "release": "statistics", "share": 0.36},
                {"name": "train", "release": "gradient", "share": 0.64},
            ],
            "privacy.statistics_noise_multiplier": 100.0,
            "training.sample_rate": 1.0,
        }
    )
    plan = PrivacyPlan.from_settings(settings)
    assert plan is not None
    pairs, train = phase_costs(settings)
    assert (pairs.name, pairs.rounds, pairs.share) == ("pairs", 1, 0.36)
    assert (train.name, train.rounds, train.share) == ("train", 10, 0.64)
    assert pairs.noise_multiplier == plan.phase_noise["pairs"]
    assert train.noise_multiplier == plan.noise_multiplier
    assert 0 < pairs.epsilon < train.epsilon < plan.target_epsilon
    assert phase_costs(settings.with_changes({"privacy.mode": "none"})) == []
    drawn = epsilon_by_phase([pairs, train])
    assert drawn is not None
    assert "pairs" in drawn.svg
    assert epsilon_by_phase([]) is None


def test_drawings_keep_their_text_and_follow_the_page_colours(report: str) -> None:
    drawing = report[report.index('<svg viewBox="0 0 3') :]
    assert "<text" in drawing
    assert "var(--arm-federated-private)" in drawing
    assert not re.search(r"#(0[1-5]){3}\b|#0a0a0[0-9]", report)
    assert "DejaVu" not in report


def test_dark_mode_phone_and_paper_are_provided_for(report: str) -> None:
    for part in ("prefers-color-scheme: dark", "@media print", "max-width: 40rem", "viewport"):
        assert part in report


def test_every_figure_and_promise_is_on_the_page(report: str) -> None:
    text = " ".join(Page(report).text.split())
    for part in (
        "Federated, private",
        "Global popularity",
        "Region 12",
        "≤ 7.99",
        "1e-6",
        "add-or-remove-one",
        "0.83",
        "Updates travel in the clear",
        "hanse simulate grocery --seed 7",
        "privacy.max_grad_norm",
        "Complete Journey",
    ):
        assert part in text, part


def test_hostile_names_are_text_everywhere(tmp_path: Path) -> None:
    folder = write_run(tmp_path, stores=[HOSTILE, '$x_1$ & "co"', "' onload=x", "b"])
    result = folder.read_result()
    folder.write_result(
        result.model_copy(update={"notes": [HOSTILE], "data_note": HOSTILE, "command": HOSTILE})
    )
    text = write_report(folder).read_text(encoding="utf-8")
    assert_self_contained(text)
    page = Page(text)
    assert "script" not in page.tags
    assert HOSTILE in page.text
    assert '$x_1$ & "co"' in page.text


def test_the_report_is_the_same_every_time(tmp_path: Path) -> None:
    folder = write_run(tmp_path, rounds=2, stores=["a", "b"])
    assert write_report(folder).read_bytes() == write_report(folder).read_bytes()


def test_a_hundred_stores_become_a_scatter_and_stay_small(tmp_path: Path) -> None:
    folder = write_run(tmp_path, stores=[f"Shop {k}" for k in range(99)], rounds=2)
    text = write_report(folder).read_text(encoding="utf-8")
    assert "customers of the store" in text
    assert "One dot a store and arm" in text
    assert len(text) < 1_500_000


def test_a_run_without_privacy_promises_nothing(tmp_path: Path) -> None:
    text = write_report(write_run(tmp_path, private=False)).read_text(encoding="utf-8")
    assert "No arm of this run promises anything" in text
    assert "ε by round" not in text
    assert "without differential privacy" in text


def test_a_run_with_hardly_any_figures_still_has_a_report(tmp_path: Path) -> None:
    folder = RunFolder.create("smoke", name="bare", root=tmp_path)
    folder.write_result(RunResult(recipe="smoke", run="bare", metrics={"ndcg@10": None}))
    text = write_report(folder).read_text(encoding="utf-8")
    assert Page(text).open == []
    assert "hanse simulate smoke" in text


def test_an_unfinished_run_has_no_report(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    folder.result_file.unlink()
    with raises("run-not-found"):
        write_report(folder)


def test_epsilon_comes_from_the_stores_logs_if_the_figures_lack_it(tmp_path: Path) -> None:
    folder = write_run(tmp_path, stores=["a", "b"], rounds=3)
    table = folder.read_metrics()
    from_figures = spent_by_round(folder, table)
    from_logs = spent_by_round(folder, table.filter(table["metric"] != "epsilon"))
    assert [number for number, _ in from_figures["a"]] == [1, 2, 3]
    assert [number for number, _ in from_logs["b"]] == [1, 2, 3]


def test_the_one_table_shows_what_is_known_and_a_dash_where_nothing_is() -> None:
    def row(arm: str, seeds: int, **figures: float) -> SweepRow:
        spreads = {name: Spread(mean=v, std=0.002, min=v, max=v) for name, v in figures.items()}
        return SweepRow(
            arm=arm,
            label=arm,
            epsilon=2.0 if arm == "local" else None,
            seeds=seeds,
            figures=spreads,
            over_stores={name: Spread(mean=0.3, std=0.01) for name in figures},
        )

    rows = [row("markov", 1, **{"ndcg@10": 0.29}), row("local", 3, **{"rise_auc": 0.7})]
    basket, outlook = comparison_tables(RunResult(recipe="x", run="x", sweep=rows))
    assert (basket.columns, [line.label for line in basket.rows]) == (("NDCG@10",), ["markov"])
    assert basket.rows[0].cells[0].spread == "±–/.010"  # a rule has no seeds
    assert (outlook.rows[0].epsilon, outlook.rows[0].cells[0].text) == ("2", ".700")
    assert outlook.rows[0].cells[0].spread == "±.002/.010"
    assert comparison_tables(RunResult(recipe="x", run="x")) == []


def test_groups_stand_with_their_gap_and_names_are_shown_as_text() -> None:
    def entry(group: str, arm: str, value: float) -> GroupFigure:
        return GroupFigure(
            grouping="age",
            group=group,
            customers=30,
            arm=arm,
            metric="ndcg@10",
            value=value,
            low=value - 0.01,
            high=value + 0.01,
        )

    groups = [
        entry(g, a, 0.3) for g in ("<b>old</b>", "young", "gap") for a in ("alone", "joining")
    ]
    tables = group_tables(RunResult(recipe="x", run="x", groups=groups))
    assert [table.columns for table in tables] == [("Each store alone",), ("Joining",)]
    for table in tables:
        assert [line.customers for line in table.lines] == ["30", "30", "–"]
        assert [line.cells for line in table.lines] == [((".300", "[.290, .310]"),)] * 3


def test_the_headline_says_plainly_where_a_simple_rule_is_better() -> None:
    result = RunResult(
        recipe="smoke",
        run="x",
        stores=2,
        customers=30,
        rounds=1,
        metrics={"ndcg@10": 0.35, "rise_auc": 0.7, "fall_auc": 0.6},
        baselines={
            "personal_frequency": {"ndcg@10": 0.38},
            "logistic_regression": {"rise_auc": 0.69, "fall_auc": 0.6},
        },
    )
    assert headline(result) == (
        "2 stores with 30 customers trained one model in 1 round; on the test weeks it reaches"
        " NDCG@10 .350 (.030 below personal frequency), Rise AUC .700 (.010 above logistic"
        " regression) and Fall AUC .600 (level with logistic regression), without differential"
        " privacy."
    )
