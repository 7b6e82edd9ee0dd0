"""`hanse audit report` from outside: the page that people sign, and the page that they must not."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hanse_common.audit.cli import app
from hanse_common.audit.crosscheck import LogAudit
from hanse_common.audit.evidence import find
from hanse_common.audit.report import sentences
from hanse_common.audit.report.chart import MOST_LINES, lines_of
from hanse_common.audit.report.content import Report, Rounds
from hanse_common.audit.report.files import digests
from hanse_common.audit.report.gather import gather
from hanse_common.audit.report.meaning import meaning
from hanse_common.audit.report.page import render
from hanse_common.audit.spending import rounds_of
from hanse_common.audit.terms import Finding
from hanse_common.audit.verify import verify_all
from hanse_common.errors import AuditFailed, ConfigError, LedgerError
from hanse_common.identity import fingerprint
from hanse_common.privacy.ledger_file import head_path
from hanse_common.roundlog.checkpoint import Checkpoint
from hanse_common.wording import epsilon
from kits.audit import AuditedRun
from kits.ledger import put, rows

cli = CliRunner()
STORE = "luebeck"
HOSTILE = "<script>alert('x')<!-- \u202e&amp;"
VOID = {"meta", "link", "br"}


class Page(HTMLParser):
    """A page's texts by section, its tags, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.sections: dict[str, str] = {"": ""}
        self._section = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        found = dict(attrs)
        if "id" in found:
            self.ids.append(found["id"])
        if tag not in VOID:
            self.open.append(tag)
        for name in found.get("aria-labelledby", "").split():
            self.references.append(name)
            if tag == "section":
                self._section = name
                self.sections[name] = ""

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ("td", "th", "p", "li"):
            self.handle_data(" ")
        if tag == "section":
            self._section = ""

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.sections[self._section] += data

    def text(self, section: str | None = None) -> str:
        parts = self.sections.values() if section is None else [self.sections[section]]
        return " ".join(" ".join(parts).split())


@pytest.fixture
def run(tmp_path: Path) -> AuditedRun:
    return AuditedRun(tmp_path / "run")


def make(run: AuditedRun, *more: str, failed: bool = False) -> tuple[Page, dict, str]:
    """The page, and the same as JSON, of one call."""
    target = run.folder.parent / "page.html"
    words = ["report", str(run.folder), "--no-second-opinion", "--format", "json", *more]
    done = cli.invoke(app, [*words, "--output", str(target)])
    assert isinstance(done.exception, AuditFailed) == failed, done.output
    text = target.read_text(encoding="utf-8")
    return Page(text), json.loads(done.stdout), text


def known(run: AuditedRun) -> list[str]:
    return ["--authority", run.authority.public.hex()]


# What each section says


def test_the_sections_stand_in_the_order_of_the_questions(run):
    page, found, text = make(run)
    headings = re.findall(r"<h2[^>]*>([^<]+)</h2>", text)
    assert headings == [
        "1. Statement",
        "2. Whose privacy, and who counts as a neighbour",
        "3. Epsilon and delta",
        "4. Mechanism and noise",
        "5. Composition",
        "6. Trust model and assumptions",
        "7. What was verified, and what was not",
        "8. Evidence",
        "9. Signatures",
    ]
    assert found["status"] == "incomplete"
    assert "not everything could be verified" in page.text("")


def test_the_statement_names_the_protected_the_adversary_the_amount_and_the_time(run):
    page, found, _ = make(run)
    spent = run.entries(STORE)[-1].epsilon_after
    text = page.text("statement")
    for part in (
        "2 stores of the federation baltic charged 2 rounds of training",
        "any one customer, with everything they did at a store",
        "against everybody who sees what left the customer's store",
        f"ε is at most {epsilon(spent)} at δ = 1e-06 for a customer of one store",
        f"right at most {sentences.percent(spent, 1e-6)} times in 100",
        "It does not expire",
        "Nothing that could be verified is wrong",
    ):
        assert part in text, part
    assert " ".join(found["statement"]) in text
    for note in found["unverified"]:
        assert note["text"] in text


def test_unit_and_neighbouring_relation_are_named(run):
    page, _, _ = make(run)
    text = page.text("unit")
    assert "The unit of privacy is the customer" in text
    assert "add or remove one" in text


def test_epsilon_stands_per_store_and_for_a_person_at_one_two_and_four_stores(run):
    page, found, _ = make(run)
    text = page.text("parameters")
    assert [figures["store"] for figures in found["figures"]] == ["bremen", STORE]
    for figures in found["figures"]:
        assert list(figures["at_stores"]) == ["1", "2", "4"]
        assert figures["epsilon"] == run.entries(figures["store"])[-1].epsilon_after
        for value in [*figures["at_stores"].values(), figures["spent"]]:
            assert f"{value:.4f}" in text
        assert figures["left"] == pytest.approx(4.0 - figures["spent"])
    for one in found["meaning"].values():
        assert epsilon(one["epsilon"]) in text
    assert "at 2 stores" in text


def test_figures_of_the_page_are_those_of_the_other_commands(run):
    _, found, _ = make(run)
    done = cli.invoke(app, ["budget", str(run.folder), "--format", "json"])
    for figures, budget in zip(found["figures"], json.loads(done.stdout)["stores"], strict=True):
        for name in ("spent", "limit", "left", "rounds_left", "covers_stores", "at_stores"):
            assert figures[name] == budget[name], name
        assert figures["epsilon"] == budget["spent_ever"]
    done = cli.invoke(app, ["rounds", str(run.folder), "--format", "json"])
    listed = {row["store"]: [] for row in json.loads(done.stdout)["rounds"]}
    for row in json.loads(done.stdout)["rounds"]:
        listed[row["store"]].append({**row, "store": ""})
    (group,) = found["rounds"]
    assert group["stores"] == ["bremen", STORE]
    assert group["rows"] == listed["bremen"] == listed[STORE]


def test_mechanism_noise_and_terms_are_named(run):
    page, found, _ = make(run)
    text = page.text("mechanism")
    (terms,) = found["terms"]
    assert (terms["digest"], terms["mode"]) == (run.manifest.digest().hex(), "local")
    for part in ("Terms of baltic", terms["digest"], "ε ≤ 3 at δ = 1e-06", "Poisson", "Clip 0.5"):
        assert part in text, part
    (charged,) = found["mechanisms"]
    assert (charged["charges"], charged["stores"], charged["steps"]) == (4, 2, 2)


def test_composition_lists_every_round_and_two_accountants(run):
    target = run.folder.parent / "both.html"
    done = cli.invoke(app, ["report", str(run.folder), "--format", "json", "--output", str(target)])
    found = json.loads(done.stdout)
    text = Page(target.read_text(encoding="utf-8")).text("composition")
    assert found["second_accountant"].startswith("Opacus PRV ")
    for part in (found["accountant"], found["second_accountant"], "Entries of both stores"):
        assert part in text, part
    for figures in found["figures"]:
        assert f"{figures['second_epsilon']:.4f}" in text
    for row in found["rounds"][0]["rows"]:
        assert f"{row['cumulative']:.4f}" in text


def test_the_drawing_has_a_title_a_description_and_names_its_lines(run):
    run.charge(STORE, 2, 2, run=2)
    page, found, text = make(run)
    drawing = text[text.index("<svg ") : text.index("</svg>")]
    assert 'role="img" aria-labelledby="spent-title spent-desc"' in drawing
    for figures in found["figures"]:
        assert f"{figures['store']}: {figures['epsilon']:.4f}" in drawing
        assert f">{figures['store']}</text>" in drawing
    dashes = re.findall(r'stroke-width="2" stroke-dasharray="([^"]+)"', drawing)
    assert len(set(dashes)) == 2
    assert set(page.references) <= set(page.ids)


def test_of_many_different_ledgers_the_largest_and_the_smallest_are_drawn(run):
    rows = tuple(rounds_of(find(run.store(STORE))[0]))
    groups = [
        Rounds(
            stores=(f"store-{number:02}",),
            rows=tuple(replace(row, cumulative=row.cumulative * number) for row in rows),
        )
        for number in range(1, 12)
    ]
    drawn = [line.label for line in lines_of(groups)]
    assert len(drawn) == MOST_LINES
    assert (drawn[0], drawn[-1]) == ("store-11", "store-01")


def test_in_mode_local_nobody_need_be_trusted_and_in_mode_distributed_masks_bear_the_load(
    run, tmp_path
):
    text = make(run)[0].text("trust")
    assert "need to trust only their own store" in text
    assert "load-bearing" not in text
    for part in ("Data collection", "Access control", "Side channels", "Utility and bias"):
        assert part in text
    found = gathered(run)
    shared = [replace(one, mode="distributed") for one in found.mechanisms]
    terms = [replace(one, mode="distributed") for one in found.terms]
    first, second, *_ = sentences.assumptions(shared, terms)
    assert first.startswith("The masks are load-bearing")
    assert "at most 1 may work with the coordinator" in second

    def said(terms):
        return sentences.statement("verified", found.figures, terms, shared, 0, simulated=False)[1]

    assert "against the coordinator, also if it works with up to 1 store" in said(terms)
    # Terms that some charges do not name say nothing of who may collude there.
    for unknown in ([], [replace(terms[0], charges=terms[0].charges - 1)]):
        assert "not all of which were handed over" in said(unknown)
        rests = " ".join(sentences.assumptions(shared, unknown))
        assert "not known for all charges" in rests


def test_what_was_verified_and_what_was_not_is_what_verify_says(run):
    page, found, _ = make(run, *known(run))
    done = cli.invoke(
        app, ["verify", str(run.folder), "--no-second-opinion", "--format", "json", *known(run)]
    )
    store = json.loads(done.stdout)["stores"][0]
    assert [note["text"] for note in found["verified"]] == store["verified"]
    told = [note["text"] for note in found["unverified"]]
    assert told == [
        *store["unverified"],
        "evidence of riga, visby: everything missing (named by the manifest)",
        "what left a store without a charge: no log of rounds was handed over",
    ]
    for text in [*store["verified"], *told]:
        assert text in page.text("checked")


def test_evidence_names_files_heads_authority_and_the_command_that_repeats_it(run):
    page, found, _ = make(run, *known(run))
    text = page.text("evidence")
    digests = {(row["store"], row["file"]): row["sha256"] for row in found["files"]}
    for store in ("bremen", STORE):
        for name in ("ledger.sqlite", "ledger.head", "enrolment/certificate"):
            data = (run.store(store) / name).read_bytes()
            assert digests[store, name] == hashlib.sha256(data).hexdigest()
            assert digests[store, name] in text
        assert run.entries(store)[-1].hash.hex() in text
    lines = "".join(f"{row['sha256']} {row['store']}/{row['file']}\n" for row in found["files"])
    assert found["evidence_digest"] == hashlib.sha256(lines.encode()).hexdigest()
    assert found["evidence_digest"] in text
    assert found["evidence_digest"] in page.text("signatures")
    assert fingerprint(run.authority.public) in text
    assert "as the auditor knows it" in text
    words = shlex.split(found["command"])
    assert words[:2] == ["hanse", "audit"]
    again = cli.invoke(app, [*words[2:], "--format", "json"])
    repeated = json.loads(again.stdout)
    assert {**repeated, "made": 0} == {**found, "made": 0}


def test_three_people_sign(run):
    page, _, _ = make(run)
    assert page.text("signatures").count("Signature") == 4  # the heading, too
    for role in ("For the law", "For security", "For the data"):
        assert role in page.text("signatures")


# Failing


def test_a_failed_audit_says_so_at_the_top_with_store_entry_and_problem_and_is_not_signed(run):
    run.charge(STORE, 2, 2, run=2, noise_multiplier=3.9)
    page, found, text = make(run, failed=True)
    top = page.text("")
    assert top.startswith("FAILED: Privacy audit")
    assert "FAILED luebeck: entry 3 is against the manifest: it charges noise_multiplier=3.9" in top
    assert text.index(">FAILED<") < text.index("<h2")
    assert (found["ok"], found["status"]) == (False, "failed")
    (problem,) = found["problems"]
    assert (problem["store"], problem["entry"]) == (STORE, 3)
    assert "Nothing on this page is a promise" in page.text("statement")
    assert "A failed audit is not signed." in page.text("signatures")
    assert "Place and date" not in text


def test_no_figure_of_a_ledger_that_failed_is_on_the_page(run):
    run.charge(STORE, 2, 2, run=2, noise_multiplier=3.9)
    _, found, text = make(run, failed=True)
    assert [figures["store"] for figures in found["figures"]] == ["bremen"]
    assert [group["stores"] for group in found["rounds"]] == [["bremen"]]
    for entry in run.entries(STORE)[2:]:
        assert f"{entry.epsilon_after:.4f}" not in text
        assert entry.hash.hex() not in text


def test_the_command_ends_as_verify_does_and_names_the_page(run):
    run.charge(STORE, 2, 2, run=2, noise_multiplier=3.9)
    target = run.folder.parent / "page.html"
    words = [str(run.folder), "--no-second-opinion"]
    done = cli.invoke(app, ["report", *words, "--output", str(target)])
    assert done.stdout.strip() == str(target)
    assert f"SHA-256 of {target}: {hashlib.sha256(target.read_bytes()).hexdigest()}" in done.stderr
    verified = cli.invoke(app, ["verify", *words])
    assert isinstance(done.exception, AuditFailed)
    assert str(done.exception) == str(verified.exception)


@pytest.mark.parametrize("how", ["altered", "no ledger", "no database", "all"])
def test_a_page_is_written_whatever_is_wrong(how, run, tmp_path):
    earlier = tmp_path / "earlier.json"
    done = cli.invoke(app, ["verify", str(run.folder), "--format", "json", "--no-second-opinion"])
    earlier.write_text(done.stdout)
    stores = ("bremen", STORE) if how == "all" else (STORE,)
    for store in stores:
        if how == "no ledger":
            run.ledger(store).unlink()
        elif how == "no database":
            run.ledger(store).write_bytes(b"no database")
        else:
            first, second = rows(run.ledger(store))
            put(run.ledger(store), [first, replace(second, hash=bytes(32))])
    page, found, _ = make(run, "--remembered", str(earlier), failed=True)
    assert [problem["store"] for problem in found["problems"]] == list(stores)
    assert page.open == []


def test_a_store_that_is_gone_since_the_last_audit_fails_it(run, tmp_path):
    earlier = tmp_path / "earlier.json"
    done = cli.invoke(app, ["verify", str(run.folder), "--format", "json", "--no-second-opinion"])
    earlier.write_text(done.stdout)
    run.store(STORE).rename(tmp_path / "elsewhere")
    _, found, _ = make(run, "--remembered", str(earlier), failed=True)
    assert [(p["store"], p["problem"]) for p in found["problems"]] == [
        (STORE, "the ledger is gone")
    ]


def test_a_store_that_never_charged_is_no_promise_and_no_failure(run):
    for store in ("bremen", STORE):
        put(run.ledger(store), [])
        head_path(run.ledger(store)).unlink()
    page, found, _ = make(run)
    assert found["status"] == "incomplete"
    assert "no promise to judge" in page.text("statement")
    assert "nothing charged" in page.text("parameters")


# The round log


def gathered(run: AuditedRun, *logs: LogAudit) -> Report:
    found = verify_all(run.folder, authority=run.authority.public, second_opinion=False)
    return gather(
        run.folder,
        replace(found, logs=logs),
        digests(run.folder),
        authority=run.authority.public,
        stores=(1, 2, 4),
        command="hanse audit report",
        now=1_750_000_000,
    )


def log_of(run: AuditedRun, fault: Finding | None = None) -> LogAudit:
    return LogAudit(
        log=run.folder / "roundlog.sqlite",
        records=5,
        announced=2,
        summed=2,
        published=1,
        checkpoint=Checkpoint(log_key=b"k" * 32, size=5, root=b"\xab" * 32),
        cosigned_by=("bremen", STORE),
        receipts=4,
        matched=4,
        heads={},
        fault=fault,
        verified=("the log is that of the signed checkpoint of 5 records",),
        unverified=("the authority is the one that a store names: give --authority",),
    )


def test_a_round_log_has_its_section_and_answers_what_left_without_a_charge(run):
    report = gathered(run, log_of(run))
    page = Page(render(report))
    text = page.text("round-log")
    for part in (
        "8. Round log",
        "nothing wrong",
        "2 attempts announced, 2 of them summed; 1 model published",
        "ab" * 32,
        "bremen, luebeck",
        "4 of 4",
    ):
        assert part in text, part
    for note in (*log_of(run).verified, *log_of(run).unverified):
        assert f"{note} (roundlog.sqlite)" in page.text("checked")
    assert "no log of rounds" not in page.text()
    assert "no log of rounds" in Page(render(gathered(run))).text("checked")


def test_a_fault_of_the_round_log_fails_the_audit(run):
    fault = Finding(sequence=2, problem="altered", detail="it is signed by nobody")
    report = gathered(run, log_of(run, fault))
    page = Page(render(report))
    assert report.status == "failed"
    assert "Round log roundlog.sqlite: record 2 is altered: it is signed by nobody" in page.text("")
    assert "A failed audit is not signed." in page.text("signatures")


# The page itself


def test_the_page_needs_nothing_but_itself(run):
    page, _, text = make(run)
    assert "default-src 'none'" in text
    for tag, name, value in page.attributes:
        assert name not in ("src", "srcset", "action") and not name.startswith("on"), (tag, name)
        if name == "href":
            assert value == "data:,"
    assert not {"script", "iframe", "object", "form", "img"} & set(page.tags)
    assert "@import" not in text
    assert "url(" not in text
    urls = re.findall(r"https?://[^\"'\s<]*", text)
    assert set(urls) == {"http://www.w3.org/2000/svg"}


def test_every_tag_is_closed_every_id_unique_and_every_table_has_a_caption(run):
    page, _, _ = make(run)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert page.tags.count("table") == page.tags.count("caption")


def test_hostile_names_and_texts_stay_text(run):
    def hostile(entries):
        return [
            replace(entry, accountant=HOSTILE, release=replace(entry.release, kind=HOSTILE))
            for entry in entries
        ]

    run.forge("bremen", hostile)
    run.store("bremen").rename(run.folder / "stores" / HOSTILE.replace("/", ""))
    # A charge of an unknown kind fails; without terms to compare with, it is shown.
    for failed in (True, False):
        _, _, text = make(run, failed=failed)
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert(" in text
        assert "\u202e" not in text
        assert "\\u202e" in text
        for store in (STORE, HOSTILE.replace("/", "")):
            (run.store(store) / "enrolment" / "manifest.json").unlink(missing_ok=True)


# Mistakes


def test_mistakes_are_errors_of_the_tree(run, tmp_path):
    error = cli.invoke(app, ["report", str(tmp_path / "none")]).exception
    assert isinstance(error, LedgerError)
    nowhere = str(tmp_path / "none" / "page.html")
    words = ["report", str(run.folder), "--no-second-opinion", "--output", nowhere]
    assert isinstance(cli.invoke(app, words).exception, ConfigError)


def test_json_alone_writes_no_page_and_loads_no_torch(run, tmp_path):
    code = (
        "import sys; from hanse_common.audit.cli import app\n"
        f"app(['report', {str(run.folder)!r}, '--no-second-opinion', '--format', 'json'],"
        " standalone_mode=False)\n"
        "print([m for m in ('torch', 'opacus', 'flwr', 'polars', 'jinja2') if m in sys.modules],"
        " file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stderr.strip() == "[]"
    assert [*tmp_path.glob("*.html"), *run.folder.glob("*.html")] == []


@pytest.mark.parametrize("evidence", ["", "stores/luebeck", "stores/luebeck/ledger.sqlite"])
def test_a_page_that_nobody_names_goes_beside_the_evidence(run, tmp_path, monkeypatch, evidence):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    path = run.folder / evidence
    before = digests(path)
    done = cli.invoke(app, ["report", str(path), "--no-second-opinion"])
    page = (path.parent if path.is_file() else path) / "audit-report.html"
    assert done.stdout.strip() == str(page)
    assert f"SHA-256 of {page}: {hashlib.sha256(page.read_bytes()).hexdigest()}" in done.stderr
    assert list(Path().iterdir()) == []
    assert digests(path) == before, "the page is no evidence"


# What a figure means


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, 4.0, 20.0, 900.0])
def test_the_meaning_of_epsilon_is_the_best_test_between_the_two_worlds(value):
    """The worst mechanism at (epsilon, delta) is known: its best tests are computed here."""
    found, target_delta = meaning(value, 1e-3), 1e-3
    factor = found.factor
    # It tells the truth with chance delta, and else answers by randomized response.
    truth = (1 - target_delta) * factor / (1 + factor)
    assert found.right_at_even_odds == pytest.approx(target_delta + truth)
    wrong = (1 - target_delta) / (1 + factor)
    if wrong >= 0.01:
        noticed = target_delta + truth * 0.01 / wrong
    else:
        rest = (0.01 - wrong) / truth
        noticed = min(1.0, target_delta + truth + rest * wrong)
    assert found.noticed_at_one_percent == pytest.approx(noticed)
