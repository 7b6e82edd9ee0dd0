"""The store's Flower ClientApp, the same in a simulation and at a real store.

One exchange with a member of a federation, from top to bottom: `train` or `evaluate` (stage
0), then `share`, `mask`, `confirm`, `unmask`. Heavy packages are imported by the actions that
need them, so that a message which trains nothing is answered at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from hanse_client.exchange.answering import answering
from hanse_client.exchange.secure import Answer, SecureExchange
from hanse_client.leaving import check_staying
from hanse_client.node import Node, list_nodes
from hanse_common.config import RunSettings
from hanse_common.errors import ConfigError, OutOfTurn, PrivacyError
from hanse_common.instructions import MESSAGE, PROXIMAL_MU, ROUND, SPLIT, Instructions, Kind
from hanse_common.roundlog.evidence import LOG_SIZE

if TYPE_CHECKING:
    from torch import nn

app = ClientApp()


_MODS = [answering(lambda context: open_node(context))]


@app.query("describe", mods=_MODS)
def describe(message: Message, context: Context) -> Message:
    """Say what the store is called, and how much of the round log it has seen.

    One that has left says that.
    """
    from hanse_client.exchange.witness import Witness

    node = open_node(context)
    check_staying(node.folder, 0)
    seen = None if node.enrolment is None else Witness(node, node.enrolment).seen
    size = 0 if seen is None else seen.size
    return _reply(message, {"config": ConfigRecord({"store": node.name, LOG_SIZE: size})})


@app.train(mods=_MODS)
def train(message: Message, context: Context) -> Message:
    """Train one round; a member offers the update for masking, others return it open."""
    node, settings = open_node(context), _settings(message)
    if node.enrolment is not None:
        return _offer(message, node, settings, "train")
    from hanse_client.training.train import train_round
    from hanse_common.privacy.entry import Release
    from hanse_common.privacy.plan import PrivacyPlan

    config, plan = _config(message), PrivacyPlan.from_settings(settings)
    if settings.privacy.mode == "distributed":
        raise PrivacyError(
            f"{node.name!r} has no masks to hide a sum with too little noise behind",
            hint="enrol the store, or train in mode 'local'",
        )
    number, before = int(str(config[ROUND])), _arrays(message)
    trained = train_round(
        node,
        base_model(node, settings),
        settings,
        before,
        number,
        proximal_mu=float(str(config.get(PROXIMAL_MU, 0.0))),
    )
    if plan is not None:
        # Charged before it leaves; what fails before this has shown nothing to anybody.
        node.charge(
            plan.round_cost(),
            target_delta=plan.target_delta,
            number=number,
            release=Release(
                kind="train", mode=plan.mode, max_grad_norm=plan.max_grad_norm, round=number
            ),
        )
    moved = {name: before[name] + change for name, change in trained.update.items()}
    return _reply(message, {"arrays": _record(moved), "metrics": _public_weight()})


@app.train("share", mods=_MODS)
def share(message: Message, context: Context) -> Message:
    """Stage 1 of secure aggregation: check the roster, deal shares."""
    return _protocol(message, _exchange(context).share)


@app.train("mask", mods=_MODS)
def mask(message: Message, context: Context) -> Message:
    """Stage 2: check the shares, charge the upload, send the masked vector."""
    return _protocol(message, _exchange(context).mask)


@app.query("confirm", mods=_MODS)
def confirm(message: Message, context: Context) -> Message:
    """Stage 3: sign the list of survivors, once."""
    return _protocol(message, _exchange(context).confirm)


@app.query("unmask", mods=_MODS)
def unmask(message: Message, context: Context) -> Message:
    """Stage 4: give one share per peer, if enough survivors signed the same list."""
    return _protocol(message, _exchange(context).unmask)


@app.train("alone", mods=_MODS)
def alone(message: Message, context: Context) -> Message:
    """Train and judge a model of this store's own; nothing of it leaves the store."""
    from hanse_client.figures.evaluate import evaluate_round
    from hanse_client.training.train import load_arrays, train_alone, trained_arrays

    node, settings = open_node(context), _settings(message)
    model = base_model(node, settings)
    load_arrays(model, _arrays(message))
    train_alone(node, model, settings)
    rounds = settings.federation.rounds
    own = trained_arrays(model)
    for split in ("validate", "test"):
        evaluate_round(node, model, settings, own, split=split, number=rounds)
    return _reply(message, {"metrics": _public_weight()})


@app.evaluate(mods=_MODS)
def evaluate(message: Message, context: Context) -> Message:
    """Judge the global model; sums are offered for masking if the manifest says so."""
    node, settings, config = open_node(context), _settings(message), _config(message)
    check_staying(node.folder, int(str(config[ROUND])))
    if node.enrolment is not None and node.enrolment.manifest.evaluation:
        return _offer(message, node, settings, "evaluate")
    from hanse_client.figures.evaluate import evaluate_round

    evaluate_round(
        node,
        base_model(node, settings),
        settings,
        _arrays(message),
        split=str(config[SPLIT]),
        number=int(str(config[ROUND])),
    )
    return _reply(message, {"metrics": _public_weight()})


def open_node(context: Context) -> Node:
    """Find the store that this process answers for.

    A SuperNode says so with `--node-config 'node="…"'`. Flower's own simulation can only
    number its nodes; then `HANSE_FEDERATION` names a folder of them.

    Raises:
        ConfigError: Neither is set.
    """
    folder = context.node_config.get("node")
    if folder is not None:
        return _node(Path(str(folder)))
    federation = os.environ.get("HANSE_FEDERATION")
    index = context.node_config.get("partition-id")
    if federation is None or index is None:
        raise ConfigError(
            "this node does not know its store", hint="start it with --node-config 'node=\"DIR\"'"
        )
    return _node(list_nodes(Path(federation))[int(index)])


def _offer(message: Message, node: Node, settings: RunSettings, kind: Kind) -> Message:
    from hanse_client.exchange.offers import offer

    if node.enrolment is None:
        raise OutOfTurn("this store is not enrolled in a federation")
    arrays = _arrays(message)
    told = Instructions.read(dict(_config(message)), arrays, kind=kind)
    answer = offer(node, node.enrolment, told, settings, base_model(node, settings), arrays)
    return _reply(message, {"config": ConfigRecord({**answer})})


def _exchange(context: Context) -> SecureExchange:
    node = open_node(context)
    if node.enrolment is None:
        raise OutOfTurn(
            f"{node.name!r} is not enrolled in a federation",
            hint="set enrolment in its node.json",
        )
    return SecureExchange(node, node.enrolment)


def _protocol(message: Message, stage: Callable[[bytes], Answer]) -> Message:
    data = _config(message)[MESSAGE]
    if not isinstance(data, bytes):
        raise ConfigError("the message carries no bytes of the protocol")
    return _reply(message, {"config": ConfigRecord({**stage(data)})})


@lru_cache(maxsize=16)
def _node(folder: Path) -> Node:
    return Node(folder)


def base_model(node: Node, settings: RunSettings) -> nn.Module:
    """The frozen start of the task's model; its trained parameters come with each message."""
    return _base_model(node.settings.base_model, settings.task)


@lru_cache(maxsize=1)
def _base_model(folder: Path, task: str) -> nn.Module:
    from transformers.utils.logging import disable_progress_bar

    from hanse_client.tasks import task_of

    disable_progress_bar()
    return task_of(task).load_model(folder)


@lru_cache(maxsize=4)
def _parsed(settings: str) -> RunSettings:
    return RunSettings.model_validate_json(settings)


def _settings(message: Message) -> RunSettings:
    return _parsed(str(_config(message)["settings"]))


def _config(message: Message) -> ConfigRecord:
    record = message.content["config"]
    if not isinstance(record, ConfigRecord):
        raise ConfigError("the message carries no configuration")
    return record


def _arrays(message: Message) -> dict[str, Any]:
    record = message.content["arrays"]
    if not isinstance(record, ArrayRecord):
        raise ConfigError("the message carries no model")
    return {name: array.numpy() for name, array in record.items()}


def _record(arrays: Mapping[str, Any]) -> ArrayRecord:
    from flwr.app import Array

    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def _public_weight() -> MetricRecord:
    """What Flower weighs a reply by: the same for every store, so that no size leaves it."""
    return MetricRecord({"num-examples": 1})


def _reply(message: Message, records: dict[str, Any]) -> Message:
    return Message(content=RecordDict(records), reply_to=message)
