"""Figures of a store's budget are composed once for each state of its ledger, policy and terms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hanse_client.deployment import budget
from hanse_client.deployment.budget import budget_row, evidence_of, read_row, spending
from hanse_client.deployment.budget_refresh import BudgetRefresh, compute
from hanse_client.deployment.doctor import _budget
from hanse_client.deployment.folder import StoreFolder
from hanse_client.deployment.metrics import read_health, read_metrics
from hanse_common.paths import BUDGET_FILE, LEDGER_HEAD_FILE
from hanse_common.privacy import accounting
from kits.aged_store import aged_store

MANIFESTS, CHARGES = 5, 500


@pytest.fixture(scope="module")
def aged(tmp_path_factory) -> StoreFolder:
    """A store with five manifests and five hundred charges."""
    return aged_store(tmp_path_factory.mktemp("aged"), manifests=MANIFESTS, charges=CHARGES)


@pytest.fixture
def compositions(monkeypatch) -> list[object]:
    """What was composed by the accountant since the test began."""
    done: list[object] = []
    real = accounting._compose

    def counted(accountant, composed, target_delta):
        done.append(composed)
        return real(accountant, composed, target_delta)

    monkeypatch.setattr(accounting, "_compose", counted)
    return done


def forget() -> None:
    """What a new process does not know."""
    budget._row.cache_clear()
    accounting._pld_epsilon.cache_clear()


def test_all_commands_together_compose_once(aged, compositions):
    (aged.path / BUDGET_FILE).unlink(missing_ok=True)
    forget()
    first = spending(aged)
    assert len(compositions) > 0 and first["spent"] > 1
    compositions.clear()
    for command in (
        spending,
        _budget,
        lambda s: list(read_metrics(s.path)),
        lambda s: read_health(s.path),
    ):
        forget()
        command(aged)
    assert compositions == []
    assert spending(aged) == first
    assert (aged.path / BUDGET_FILE).stat().st_mode & 0o077 == 0


def test_a_change_of_policy_terms_or_ledger_is_composed_anew(aged, compositions):
    before = budget_row(evidence_of(aged.node()))
    assert before is not None and before.limit == 60.0
    kept = aged.policy.read_text()
    aged.policy.write_text(kept.replace("max_epsilon = 60.0", "max_epsilon = 70.0"))
    forget()
    after = budget_row(evidence_of(aged.node()))
    aged.policy.write_text(kept)
    assert after is not None and (after.limit, after.spent) == (70.0, before.spent)
    assert compositions
    compositions.clear()
    terms = aged.manifest.read_bytes()
    earlier = next(aged.enrolment.glob("manifest.*.json"))
    aged.manifest.write_bytes(earlier.read_bytes())
    forget()
    assert budget_row(evidence_of(aged.node())) is not None and compositions
    aged.manifest.write_bytes(terms)
    forget()
    assert budget_row(evidence_of(aged.node())) == before


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"key": 1}', b'{"row": {"at_stores": 3}}', b'{"row": {}}']
)
def test_a_damaged_file_of_figures_is_as_good_as_none(aged, content):
    before = spending(aged)
    (aged.path / BUDGET_FILE).write_bytes(content)
    forget()
    assert spending(aged) == before
    assert json.loads((aged.path / BUDGET_FILE).read_text())["row"]["store"] == "luebeck"


def test_figures_of_another_state_are_not_read(aged):
    spending(aged)
    table = json.loads((aged.path / BUDGET_FILE).read_text())
    assert read_row(aged.path / BUDGET_FILE, table["key"]) is not None
    assert read_row(aged.path / BUDGET_FILE, "0" * 64) is None


def test_a_node_composes_when_its_ledger_has_been_quiet_for_a_minute(aged, monkeypatch):
    started: list[Path] = []
    refresh = BudgetRefresh(aged.path)

    class Inline:
        def __init__(self, *, target, args, daemon) -> None:
            self._work = (target, args)

        def start(self) -> None:
            started.append(self._work[1][0])

        def is_alive(self) -> bool:
            return False

    context = type("Context", (), {"Process": Inline})
    monkeypatch.setattr("multiprocessing.get_context", lambda kind: context)
    assert not refresh(now=0.0), "it may be in mid-run"
    assert not refresh(now=30.0), "not a minute yet"
    assert refresh(now=61.0) and started == [aged.path]
    assert not refresh(now=200.0), "nothing has changed"
    head = aged.path / LEDGER_HEAD_FILE
    kept = head.read_bytes()
    head.write_bytes(kept + b" ")
    assert not refresh(now=300.0) and refresh(now=400.0)
    head.write_bytes(kept)


def test_the_nodes_own_process_writes_the_figures(aged, monkeypatch):
    monkeypatch.setattr("os.nice", lambda step: 0)
    (aged.path / BUDGET_FILE).unlink()
    forget()
    compute(aged.path)
    assert (aged.path / BUDGET_FILE).exists()
