"""Which runs go on by themselves: the whole table of how a run can have ended."""

from __future__ import annotations

import fcntl
from contextlib import contextmanager

import pytest

from hanse_common import errors
from hanse_common.errors import families
from hanse_common.identity import AuthorityKey
from hanse_common.manifest import SignedManifest
from hanse_common.manifest_terms import planned_manifest
from hanse_common.paths import MANIFEST_FILE, SETTINGS_FILE, UP_PID_FILE
from hanse_common.privacy.plan import solved
from hanse_common.recipes import synthetic
from hanse_server.checkpoint import RunCheckpoint, save_checkpoint, significant_settings
from hanse_server.deployment.folder import FederationFolder
from hanse_server.deployment.recovery import Keeper
from hanse_server.deployment.run_record import RunRecord
from hanse_server.deployment.run_state import MOST_TRIES, state_of
from hanse_server.stage_log import ExchangeResult, Progress, StageLog
from kits.deployment import found

SETTINGS = synthetic().with_changes({"privacy.mode": "distributed", "federation.rounds": 4})
PASSING = {
    errors.RoundFailed.code,
    errors.FederationError.code,
    errors.SuperLinkDown.code,
    errors.RunDirectoryError.code,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A federation's folder without any process."""
    path = tmp_path_factory.mktemp("f") / "f"
    found(path)
    return FederationFolder(path)


@pytest.fixture
def run_dir(folder, tmp_path):
    """A run of twelve stores that begins with ten, and has no finished round."""
    path = folder.runs / tmp_path.name
    path.mkdir(parents=True)
    settings = solved(SETTINGS)
    (path / SETTINGS_FILE).write_text(settings.model_dump_json())
    terms = planned_manifest(settings, 100, 12)
    signed = SignedManifest.sign(terms, AuthorityKey.generate())
    (path / MANIFEST_FILE).write_bytes(signed.encode())
    RunRecord(runs=(1,), stopped=False).write(path)
    return path


@contextmanager
def up(folder):
    """Another holder of the lock that `hanse server up` holds."""
    folder.state.mkdir(exist_ok=True)
    with (folder.state / UP_PID_FILE).open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fail(run_dir, code, refusals=None):
    """End a run with an error, after a round in which some stores refused."""
    error = families().get(code, errors.HanseError)("it ended", code=code)
    if refusals:
        result = ExchangeResult(refusals=refusals, error=error)
        StageLog(run_dir, -1).append(1, "train", result)
    Progress(run_dir).failed(error)


@pytest.mark.parametrize("code", sorted(families()))
def test_only_what_may_pass_by_itself_is_tried_again(folder, run_dir, code):
    fail(run_dir, code)
    with up(folder):
        state = state_of(folder, run_dir)
    assert state.state == ("recovering" if code in PASSING else "failed")
    assert ("goes on by itself" in state.failure["hint"]) == (code in PASSING)


def test_a_process_that_ended_without_an_error_is_tried_again(folder, run_dir):
    assert state_of(folder, run_dir).state == "lost", "nothing looks after it"
    with up(folder):
        state = state_of(folder, run_dir)
    assert state.state == "recovering"
    assert "without an error message" in state.failure["message"]


@pytest.mark.parametrize(("refusing", "expected"), [(2, "recovering"), (3, "failed")])
def test_stores_that_refuse_are_not_waited_for(folder, run_dir, refusing, expected):
    """Two of twelve may be away; a third that refuses would refuse every repetition."""
    why = "at stage 'hello': [policy-violation] too much"
    refusals = {f"store-{number}": why for number in range(refusing)}
    fail(run_dir, errors.RoundFailed.code, refusals | {"silent": "no reply in time"})
    with up(folder):
        assert state_of(folder, run_dir).state == expected


def test_a_run_is_given_up_after_tries_in_vain_and_a_new_round_counts_anew(folder, run_dir):
    fail(run_dir, errors.FederationError.code)
    RunRecord(runs=(1,), stopped=False, tried_at=0, tries=MOST_TRIES).write(run_dir)
    with up(folder):
        state = state_of(folder, run_dir)
        assert (state.state, "in vain" in state.failure["hint"]) == ("failed", True)
        checkpoint = RunCheckpoint(
            round=1, arrays={}, strategy={}, settings=significant_settings(SETTINGS)
        )
        save_checkpoint(run_dir, checkpoint)
        assert state_of(folder, run_dir).state == "recovering"


@pytest.mark.parametrize("stopped", [True, None])
def test_a_stopped_run_and_one_of_an_older_version_wait_for_their_operator(
    folder, run_dir, stopped
):
    fail(run_dir, errors.FederationError.code)
    RunRecord(runs=(1,), stopped=stopped).write(run_dir)
    with up(folder):
        assert state_of(folder, run_dir).state == "failed"


def test_the_keeper_waits_longer_after_every_try_and_counts_them_on_disk(folder, run_dir):
    """Here every try is in vain, as there is no SuperLink; the last one ends the run."""
    fail(run_dir, errors.FederationError.code)
    keeper, now, pauses = Keeper(folder), 0.0, []
    with up(folder):
        assert keeper.look(now=now) is None
        for tries in range(1, MOST_TRIES + 1):
            begun = now
            while RunRecord.read(run_dir).tries < tries:
                now += 0.5
                try:
                    keeper.look(now=now)
                except errors.HanseError as error:
                    assert error.code == "superlink-down"
            pauses.append(now - begun)
        assert state_of(folder, run_dir).state == "failed"
    assert pauses == sorted(pauses) and pauses[-1] > 3 * pauses[0]


def test_a_damaged_record_of_a_run_is_an_empty_one(tmp_path):
    for content in (b"", b"[]", b'{"runs": "x"}', b'{"runs": [true]}', b"\xff"):
        (tmp_path / "flower.json").write_bytes(content)
        assert RunRecord.read(tmp_path) == RunRecord()
    RunRecord(runs=(3, 4), stores=5, stopped=True).write(tmp_path)
    assert RunRecord.read(tmp_path) == RunRecord(runs=(3, 4), stores=5, stopped=True)
