"""Phases in a whole run: statistics and gradients, masked, noised, charged, audited, resumed."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from hanse_common.audit.cli import app
from hanse_common.paths import GLOBAL_FILE
from hanse_common.privacy.accounting import epsilon
from hanse_common.privacy.plan import PrivacyPlan
from hanse_server.checkpoint import latest_checkpoint, read_arrays
from hanse_server.rounds import run_rounds
from hanse_server.stage_log import read_stages
from kits.apps import counting_task
from kits.apps.counting_task import PHASE
from kits.errors import raises

ARRAY = f"released.{PHASE}"


def exact_sum(federation):
    """The sum of all stores' rows, which nobody but this test sees."""
    task = counting_task.CountingTask()
    model = task.load_model(federation.nodes()[0].settings.base_model)
    total = 0.0
    for node in federation.nodes():
        data = task.training_data(task.load_data(node), federation.settings)
        rows = task.contributions(PHASE, data, model, federation.settings)
        total = total + rows.sum(data.active())
    return total


def round_of(message):
    """The round that a message orders; None if it orders none."""
    return dict(message.content.get("config", {})).get("server-round")


def run(federation, **options):
    return run_rounds(
        federation.grid(),
        federation.folder.path,
        federation.settings,
        **options,
    )


def test_without_privacy_the_released_sum_is_exact(counting):
    federation = counting("none")
    array = run(federation)[ARRAY]
    np.testing.assert_allclose(array[:-1], exact_sum(federation), atol=1e-3)
    assert array[-1] == 0


@pytest.mark.parametrize("mode", ["distributed", "local"])
def test_the_released_sum_has_the_noise_that_is_written_beside_it(counting, mode):
    federation = counting(mode)
    array = run(federation)[ARRAY]
    noise = (array[:-1] - exact_sum(federation)) / array[-1]
    # Chi-square of about 200 classes: five standard deviations either way.
    assert abs(np.mean(noise**2) - 1) < 5 * (2 / len(noise)) ** 0.5
    plan = PrivacyPlan.from_settings(federation.settings)
    stores, honest = 5, 3
    least = plan.phase_noise[PHASE] * (stores / honest if mode == "distributed" else stores) ** 0.5
    assert least <= array[-1] <= 1.1 * least


def test_every_store_pays_for_each_phase_what_the_plan_says(counting):
    federation = counting()
    run(federation)
    plan = PrivacyPlan.from_settings(federation.settings)
    for node in federation.nodes():
        spent = node.spent()
        kinds = [entry.release.kind for entry in node.ledger if entry.spends]
        assert kinds == [PHASE, "train", "train"]
        assert epsilon(spent, target_delta=plan.target_delta) == pytest.approx(
            plan.epsilon_after(rounds=3)
        )
    assert plan.epsilon_after(rounds=3) <= plan.target_epsilon


def test_the_sum_reaches_the_stores_in_the_rounds_after_its_release(counting):
    federation = counting()
    sent = []

    def to_store(store, message):
        if message.metadata.message_type == "train":
            sent.append((round_of(message), ARRAY in message.content["arrays"]))
        return message

    federation.faults.to_store = to_store
    run(federation)
    assert set(sent) == {(1, False), (2, True), (3, True)}


def test_an_audit_recomputes_the_charges_of_every_phase(counting):
    federation = counting()
    run(federation)
    verified = CliRunner().invoke(app, ["verify", str(federation.folder.path), "--format", "json"])
    assert verified.exit_code == 0, verified.output
    uses = [use for store in json.loads(verified.stdout)["stores"] for use in store["exchanges"]]
    assert {(use["kind"], use["granted"]) for use in uses} >= {(PHASE, 1), ("train", 3)}


def test_a_resumed_run_equals_one_that_was_never_stopped(counting):
    whole = counting(name="whole", **{"federation.average_last": 0.9})
    run(whole)
    stopped = counting(name="stopped", **{"federation.average_last": 0.9})

    class Stop(Exception):
        pass

    def stop_in_round_2(store, message):
        if round_of(message) == 3:
            raise Stop
        return message

    stopped.faults.to_store = stop_in_round_2
    with pytest.raises(Stop):
        run(stopped)
    assert latest_checkpoint(stopped.folder.path).round == 2
    stopped.faults.heal()
    run(stopped, resume=True)
    # Noise is drawn from each federation's own keys: without it they agree to the byte.
    assert (
        read_arrays(stopped.folder.path / GLOBAL_FILE).keys()
        == read_arrays(whole.folder.path / GLOBAL_FILE).keys()
    )
    kinds = [e.release.kind for e in stopped.nodes()[0].ledger if e.spends]
    assert kinds == [PHASE, "train", "train"]


def test_a_store_that_drops_out_costs_the_release_nothing(counting):
    federation = counting()
    lost = federation.names[0]

    def lose_its_vector(store, message):
        return None if store == lost and message.metadata.message_type == "train.mask" else message

    federation.faults.to_store = lose_its_vector
    array = run(federation)[ARRAY]
    assert array[-1] > 0
    line = next(line for line in read_stages(federation.folder.path) if line["round"] == 1)
    assert line["outcome"] == "summed" and lost in line["refusals"]


def test_a_lost_release_leaves_the_public_prior_and_the_run_goes_on(counting):
    federation = counting(**{"federation.rounds": 4})
    gone = set(federation.names[:3])

    def lose_the_first_round(store, message):
        return None if store in gone and round_of(message) == 1 else message

    federation.faults.to_store = lose_the_first_round
    arrays = run(federation, timeout=0.05)
    assert not arrays[ARRAY].any()
    lines = read_stages(federation.folder.path)
    assert [line["outcome"] for line in lines if line["stage"] == "train"].count("summed") == 3


def test_a_second_sum_of_the_same_statistics_is_refused(counting):
    """A store has one release of statistics to give, whatever run number asks for it."""
    federation = counting()
    run(federation)
    store = federation.names[0]
    reply = federation.tell(store, **{"run": 99})
    assert reply.has_error() or "budget" in str(reply.content)
    kinds = [e.release.kind for e in federation.node(store).ledger if e.spends]
    assert kinds.count(PHASE) == 1


def test_a_task_that_breaks_its_bound_sends_noise_alone(counting):
    federation = counting(task=counting_task.BoundlessTask)
    array = run(federation)[ARRAY]
    total = exact_sum(federation)
    noise = array[:-1] / array[-1]
    assert abs(np.mean(noise**2) - 1) < 5 * (2 / len(noise)) ** 0.5
    # Had the rows been sent, the same test would have seen them.
    assert np.mean((total / array[-1]) ** 2) > 2
    logs = [(node.folder / "log.jsonl").read_text() for node in federation.nodes()]
    errors = [json.loads(line).get("error", "") for text in logs for line in text.splitlines()]
    assert sum("norm above 1" in error for error in errors) == 5


def test_statistics_that_a_task_cannot_bound_are_refused_before_anything_runs(counting):
    other = [{"name": "secrets", "release": "statistics", "share": 0.5}, {"share": 0.5}]
    with raises("unproven-statistics", match="secrets"):
        counting(phases=other)
