"""The coordinator's page, from folders: what it shows, what it advises, and what it never shows."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hanse_common.pages.live.parts import render
from hanse_server.deployment.admit import revoke
from hanse_server.deployment.folder import FederationFolder
from hanse_server.deployment.status import read_status
from hanse_server.deployment.watch.certificates import endings
from hanse_server.deployment.watch.exchanges import last_exchanges, under_way
from hanse_server.deployment.watch.page import coordinator_page
from hanse_server.stage_log import Progress
from kits.watched import NAMES, line, made_federation, run, sign

HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e"
DAY = 86_400


@pytest.fixture
def folder(tmp_path: Path) -> FederationFolder:
    return made_federation(tmp_path)


def shown(folder: FederationFolder) -> dict[str, str]:
    """The HTML of each part, by name."""
    page = coordinator_page(folder.path)
    return {part.name: render(part, page.environment) for part in page.parts()}


def advised(folder: FederationFolder) -> str:
    return shown(folder)["next"]


def test_a_federation_without_a_run_is_told_how_to_go_up(folder):
    parts = shown(folder)
    assert "The coordinator is down: no store can connect." in parts["now"]
    assert f"hanse server up --folder {folder.path}" in parts["next"]
    assert all(name in parts["stores"] for name in NAMES)
    assert "No round has ended yet" in parts["rounds"]
    assert "ε ≤ 4 at δ = 1e-6, mode local" in parts["terms"]
    assert "64 train" in parts["terms"]
    assert all("cannot be read" not in html for html in parts.values())


def test_exchanges_show_their_losses_with_reasons_and_no_sum_of_a_vector(folder):
    lost = {"riga": "at stage 'mask': no reply in time"}
    run(
        folder,
        "first",
        line(1),
        line(2, replies=4, refusals=lost, attempts=2, deadlines=1),
        line(3, outcome="round-failed", replies=0, noise_share=None, note="too few stores"),
        line(3, stage="evaluate", split="validate", noise_share=None),
        at=2,
    )
    parts = shown(folder)
    rounds = " ".join(parts["rounds"].split())
    assert "<strong>riga</strong> at mask" in rounds
    assert "no-reply" in rounds and "no reply in time" in rounds
    assert "attempt 2" in rounds
    assert "lost: round-failed" in rounds and "too few stores" in rounds
    assert "evaluated (validate)" in rounds
    assert '4<span class="muted"> of 5</span>' in rounds
    assert "101.0 %" in parts["now"]
    everything = "".join(parts.values())
    assert "77.1" not in everything and "4321" not in everything and "4,321" not in everything


def test_the_last_fifty_rounds_are_shown_over_several_runs(folder):
    one = run(folder, "one", *(line(n) for n in range(1, 31)))
    two = run(folder, "two", *(line(n) for n in range(1, 31)))
    found = last_exchanges([one, two])
    assert len(found) == 50
    assert (found[0].run, found[0].round) == ("two", 30)
    assert (found[-1].run, found[-1].round) == ("one", 11)


def test_a_failed_run_is_said_with_its_reason_and_the_command_that_resumes_it(folder):
    run_dir = run(folder, "first", line(1), at=1)
    table = {"code": "noise-missing", "message": "a store adds no noise", "hint": "ask them"}
    (run_dir / "failure.json").write_text(json.dumps(table))
    parts = shown(folder)
    assert "Run first has failed after round 1." in parts["now"]
    assert "a store adds no noise [noise-missing]. Ask them." in parts["next"]
    assert f"hanse server resume --name first --folder {folder.path}" in parts["next"]


def test_a_finished_run_is_exported_next(folder):
    run(folder, "first", line(60), line(60, stage="done"), at=60)
    parts = shown(folder)
    assert "Run first is finished after 60 rounds." in parts["now"]
    assert "hanse model export" in parts["next"]


def test_terms_that_no_longer_fit_the_members_are_said(folder):
    sign(folder, NAMES[:4])
    revoke(folder, "bremen")
    told = advised(folder)
    assert "do not name rostock" in told
    assert "still name bremen, which is revoked" in told
    assert "manifest sign" in told


def test_certificates_are_listed_by_their_end_and_asked_for_in_time(folder):
    assert "The certificate of" not in advised(folder)
    page = shown(folder)["certificates"]
    assert page.index("membership of bremen") < page.index("TLS root in the invitation")
    late = endings(folder, now=time.time() + 340 * DAY)
    assert {one.tone for one in late if one.store} == {"warn"}
    over = endings(folder, now=time.time() + 400 * DAY)
    assert {one.tone for one in over if one.store} == {"bad"}


def test_releases_are_shown_and_a_store_of_another_protocol_is_told_to_upgrade(folder, monkeypatch):
    found = read_status(folder)
    rows = {row.store: row for row in found.stores}
    rows["riga"] = replace(rows["riga"], release="0.1.0", protocol=1)
    rows["danzig"] = replace(rows["danzig"], release="", protocol=1)
    rows["bremen"] = replace(
        rows["bremen"],
        release="0.0.9",
        protocol=0,
        connection="other version",
        upgrade="upgrade store 'bremen'",
    )
    now = replace(found, stores=tuple(rows.values()))
    monkeypatch.setattr("hanse_server.deployment.watch.page.read_status", lambda _: now)
    parts = shown(folder)
    cells = " ".join(parts["stores"].split())
    assert '<td role="cell" data-label="release">0.1.0</td>' in cells
    assert '<td role="cell" data-label="release">earlier</td>' in cells
    assert "0.0.9, protocol 0" in cells
    assert "Now: </strong>upgrade store &#39;bremen&#39;." in parts["next"]


def test_little_noise_is_a_warning(folder):
    run(folder, "first", line(1, noise_share=0.8), at=1)
    assert "in round 1 the sum has 80% of what the terms promise." in advised(folder)


def test_what_stores_write_is_shown_as_text(folder):
    run_dir = run(folder, "first", line(1, refusals={"riga": HOSTILE}, note=HOSTILE), at=1)
    (run_dir / "failure.json").write_text(
        json.dumps({"code": HOSTILE, "message": HOSTILE, "hint": HOSTILE})
    )
    everything = "".join(shown(folder).values())
    assert "&lt;script&gt;" in everything
    assert "<script" not in everything
    assert "\x1b" not in everything and "\u202e" not in everything


@pytest.mark.parametrize(
    ("damaged", "content", "parts", "words"),
    [
        ("blame.json", "{", set(), "This page is not complete: cannot read"),
        ("tls/server.crt", "x", {"certificates"}, "server.crt"),
        ("manifest.json", "{}", {"terms"}, "[bad-manifest]"),
        ("runs/first/rounds.jsonl", '{"stage": "train"}\n', None, "KeyError"),
        ("roundlog.sqlite", "SQLite format 3\0" + "x" * 5000, set(), "roundlog.sqlite"),
    ],
)
def test_a_damaged_file_is_said_in_its_parts_and_the_others_go_on(
    folder, damaged, content, parts, words
):
    run(folder, "first", line(1), at=1)
    (folder.path / damaged).write_text(content)
    found = shown(folder)
    broken = {name for name, html in found.items() if "This cannot be read" in html}
    assert parts is None or parts <= broken
    assert "certificates" not in broken or damaged.startswith("tls")
    assert broken < set(found)
    assert any(words in html for html in found.values())


def test_the_exchange_under_way_shows_stage_and_stores(tmp_path):
    progress = Progress(tmp_path)
    progress.stage(7, "train", 2, "train.mask", NAMES)
    progress.answered("bremen")
    progress.answered("riga", "at stage 'mask': no reply in time")
    view = under_way("first", 60, json.loads((tmp_path / "progress.json").read_text()))
    assert view is not None
    assert (view.round, view.attempt, view.stage) == (7, 2, "mask")
    assert view.waiting == ("danzig", "luebeck", "rostock")
    assert view.answered == ("bremen",)
    assert [(gone.store, gone.at, gone.code) for gone in view.lost] == [
        ("riga", "mask", "no-reply")
    ]
    assert [state for _, state in view.stages] == ["done", "done", "now", "later", "later"]
    progress.absent(8, "train", ["riga"])
    view = under_way("first", 60, json.loads((tmp_path / "progress.json").read_text()))
    assert view is not None and view.connecting and view.waiting == ("riga",)
    assert under_way("first", 60, {}) is None
