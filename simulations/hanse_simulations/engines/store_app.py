"""The ClientApp of a simulated store: the production app, and actions for the analyst only.

An enrolled store answers with the production app, behind its guard. In addition, a simulation's
stores evaluate a model on their own customers, train alone, and, where masks are off for a
comparison, send unmasked updates. A deployed store does none of these: it runs
`hanse_client.app`, which has no such message types.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, cast

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from hanse_client.app import app as production
from hanse_client.app import open_node
from hanse_client.deployment.leave import check_staying
from hanse_client.node import Node, Randomness
from hanse_common.config import RunSettings
from hanse_common.errors import PrivacyError
from hanse_common.instructions import PROXIMAL_MU, ROUND, SETTINGS, SPLIT
from hanse_common.paths import OWN_MODEL_FILE
from hanse_common.vector import released_array
from hanse_server.checkpoint import write_arrays

ALONE = "train.alone"


class SimulatedStoreApp(ClientApp):
    """The production ClientApp with the actions of a simulated store."""

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer a message; the engine reports errors."""
        node, kind = open_node(context), message.metadata.message_type
        member = node.enrolment
        if kind == ALONE:
            return _train_alone(message, node)
        # Without noised evaluation sums the manifest grants none; an analyst may measure at home.
        if kind == "evaluate" and (member is None or not member.manifest.evaluation):
            return _measure(message, node)
        if member is not None:
            return production(message, context)
        if kind == "train":
            return _unmasked_update(message, node)
        return _reply(message, {"config": ConfigRecord({"store": node.name})})


app = SimulatedStoreApp()


def _unmasked_update(message: Message, node: Node) -> Message:
    """Train one round, or sum the customers' statistics, and return the result without a mask."""
    from hanse_client.rounds.local_update import base_model
    from hanse_client.training.statistics import statistics_sum
    from hanse_client.training.train import train_round
    from hanse_common.privacy.plan import PrivacyPlan

    settings, config = _settings(message), _config(message)
    plan, number, before = PrivacyPlan.from_settings(settings), _number(message), _arrays(message)
    if settings.privacy.mode == "distributed":
        raise PrivacyError(
            f"{node.name!r} has no masks, and its share of the noise alone is too little",
            hint="enrol the store, or train in mode 'local'",
        )
    phase = settings.schedule.at(number)
    if phase.release == "statistics":
        total = statistics_sum(node, base_model(node, settings), settings, before, number)
        deviation = 0.0
        charge = None if plan is None else plan.charge(phase.name)
        if plan is not None and charge is not None:
            deviation = plan.phase_noise[phase.name]
            noise = node.generator(number, Randomness.RELEASE_NOISE)
            total += noise.normal(0.0, deviation, len(total))
            node.charge(charge.of(round=number))
        array = Array(released_array(total, deviation))
        return _reply(
            message, {"arrays": ArrayRecord({phase.array: array}), "metrics": _public_weight()}
        )
    pull = float(cast(float, config.get(PROXIMAL_MU, 0.0)))
    trained = train_round(
        node, base_model(node, settings), settings, before, number, proximal_mu=pull
    )
    if plan is not None:
        # Charged before the update leaves; a failure before this has released nothing.
        node.charge(plan.round_charge().of(round=number))
    # What is sent comes back: released sums as they are, trained arrays moved.
    moved = {**before, **{name: before[name] + move for name, move in trained.update.items()}}
    record = ArrayRecord({name: Array(array) for name, array in moved.items()})
    return _reply(message, {"arrays": record, "metrics": _public_weight()})


def _measure(message: Message, node: Node) -> Message:
    """Evaluate the global model; the metrics stay in the store's folder."""
    from hanse_client.rounds.local_update import base_model
    from hanse_client.training.evaluate import evaluate_round

    settings, number = _settings(message), _number(message)
    check_staying(node.folder, number)
    split, model = str(_config(message)[SPLIT]), base_model(node, settings)
    evaluate_round(node, model, settings, _arrays(message), split=split, number=number)
    return _reply(message, {"metrics": _public_weight()})


def _train_alone(message: Message, node: Node) -> Message:
    """Train and evaluate a model of this store's own."""
    from hanse_client.rounds.local_update import base_model
    from hanse_client.tasks import task_of
    from hanse_client.training.evaluate import evaluate_round
    from hanse_client.training.statistics import absorb_own_statistics, exchanged_arrays
    from hanse_client.training.train import load_arrays, train_alone

    settings = _settings(message)
    model = base_model(node, settings)
    load_arrays(model, _arrays(message))
    absorb_own_statistics(node, model, settings)
    train_alone(node, model, settings)
    rounds = settings.federation.rounds
    own = exchanged_arrays(task_of(settings.task), model, settings)
    # The model before the test metrics: a store that has these is not trained again.
    write_arrays(node.folder / OWN_MODEL_FILE, own)
    for split in ("validate", "test"):
        evaluate_round(node, model, settings, own, split=split, number=rounds)
    return _reply(message, {"metrics": _public_weight()})


@lru_cache(maxsize=4)
def _parsed(settings: str) -> RunSettings:
    return RunSettings.from_json(settings)


def _settings(message: Message) -> RunSettings:
    return _parsed(str(_config(message)[SETTINGS]))


def _number(message: Message) -> int:
    return int(cast(int, _config(message)[ROUND]))


def _config(message: Message) -> ConfigRecord:
    return cast(ConfigRecord, message.content["config"])


def _arrays(message: Message) -> dict[str, Any]:
    record = cast(ArrayRecord, message.content["arrays"])
    return {name: array.numpy() for name, array in record.items()}


def _public_weight() -> MetricRecord:
    """The weight that Flower expects in a reply; equal for all stores, so no size leaves one."""
    return MetricRecord({"num-examples": 1})


def _reply(message: Message, records: Mapping[str, Any]) -> Message:
    return Message(content=RecordDict(dict(records)), reply_to=message)
