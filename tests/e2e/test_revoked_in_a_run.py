"""A store that is revoked while a run goes on: left out at once, and said so."""

from __future__ import annotations

import json

import pytest

from hanse_common.errors import ProtocolError
from hanse_server.app import secure_grid
from hanse_server.stage_log import Progress, read_failure, read_progress
from hanse_server.store_grid import StoreGrid


class Closed:
    """A gate that some stores do not pass."""

    def __init__(self) -> None:
        self.out: set[str] = set()

    def __call__(self, certificate) -> None:
        if certificate.store_id in self.out:
            raise ProtocolError(
                f"certificate of {certificate.store_id!r} was revoked", code="bad-certificate"
            )


@pytest.fixture
def run(federation):
    gate, run_dir = Closed(), federation.folder.path
    grid = secure_grid(
        StoreGrid(federation.faults, expected_stores=5),
        run_dir,
        run_dir,
        stage_seconds=0.5,
        gate=gate,
        progress=Progress(run_dir),
    )
    return federation, grid, gate


def test_the_sum_goes_on_without_it_and_says_why(run):
    federation, grid, gate = run
    messages = federation.messages()
    assert len(grid.exchange(messages, timeout=30).survivors) == 5
    gate.out = {federation.nodes()[0].enrolment.certificate.store_id}
    again = federation.messages(**{"server-round": 2})
    result = grid.exchange(again, timeout=30)
    assert len(result.replies) == 1 and len(result.survivors) == 4
    refusals = result.refusals
    assert list(refusals) == [federation.names[0]]
    assert "[bad-certificate]" in refusals[federation.names[0]]
    # It trained before it was turned away, as any store may; it was asked for nothing else.
    later = [kind for store, kind in federation.faults.asked if store == federation.names[0]]
    assert later.count("train") == 2 and later.count("train.mask") == 1


def test_progress_says_who_was_asked_and_who_refused(run):
    federation, grid, gate = run
    gate.out = {federation.nodes()[0].enrolment.certificate.store_id}
    list(grid.send_and_receive(federation.messages(), timeout=30))
    progress = read_progress(federation.folder.path)
    assert progress["stage"] == "query.unmask" and progress["round"] == 1
    assert sorted(progress["answered"]) == federation.names[1:] and not progress["waiting"]
    assert list(progress["refusals"]) == [federation.names[0]]


def test_a_failure_is_kept_until_the_next_process(tmp_path):
    Progress(tmp_path).failed(ProtocolError("gone", code="bad-certificate", hint="come back"))
    assert read_failure(tmp_path) == {
        "code": "bad-certificate",
        "message": "gone",
        "hint": "come back",
    }
    json.loads((tmp_path / "failure.json").read_text())
    Progress(tmp_path)
    assert read_failure(tmp_path) == {}
