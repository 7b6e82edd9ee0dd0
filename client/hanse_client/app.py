"""The store's Flower ClientApp, the same in a simulation and at a real store.

Heavy packages are imported by the actions that need them, so that a message which trains
nothing is answered at once.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from hanse_client.node import Node, list_nodes
from hanse_common.config import RunSettings
from hanse_common.errors import ConfigError

if TYPE_CHECKING:
    from hanse_common.model import InterestModel

app = ClientApp()


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """Say what the store is called."""
    return _reply(message, {"config": ConfigRecord({"store": open_node(context).name})})


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one round and return the trained parameters, nothing else."""
    from hanse_client.train import train_round

    node, settings = open_node(context), _settings(message)
    config = _config(message)
    arrays = train_round(
        node,
        base_model(node),
        settings,
        _arrays(message),
        int(str(config["server-round"])),
        proximal_mu=float(str(config.get("proximal-mu", 0.0))),
    )
    return _reply(message, {"arrays": _record(arrays), "metrics": _public_weight()})


@app.train("alone")
def alone(message: Message, context: Context) -> Message:
    """Train and judge a model of this store's own; nothing of it leaves the store."""
    from hanse_client.evaluate import evaluate_histories
    from hanse_client.train import load_arrays, train_alone

    node, settings = open_node(context), _settings(message)
    model = base_model(node)
    load_arrays(model, _arrays(message))
    train_alone(node, model, settings)
    rounds = settings.federation.rounds
    for split in ("validate", "test"):
        figures = evaluate_histories(node.histories, model, settings, split)
        figures.save(node.evaluation(split, rounds))
    return _reply(message, {"metrics": _public_weight()})


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Judge the global model; the figures stay here."""
    from hanse_client.evaluate import evaluate_round

    node, settings, config = open_node(context), _settings(message), _config(message)
    evaluate_round(
        node,
        base_model(node),
        settings,
        _arrays(message),
        split=str(config["split"]),
        number=int(str(config["server-round"])),
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


@lru_cache(maxsize=16)
def _node(folder: Path) -> Node:
    return Node(folder)


def base_model(node: Node) -> InterestModel:
    """The frozen start of the model; its trained parameters come with each message."""
    return _base_model(node.settings.base_model)


@lru_cache(maxsize=1)
def _base_model(folder: Path) -> InterestModel:
    from transformers.utils.logging import disable_progress_bar

    from hanse_common.model import InterestModel

    disable_progress_bar()
    model: InterestModel = InterestModel.from_pretrained(folder)
    return model


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


def _record(arrays: dict[str, Any]) -> ArrayRecord:
    from flwr.app import Array

    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def _public_weight() -> MetricRecord:
    """What Flower weighs a reply by: the same for every store, so that no size leaves it."""
    return MetricRecord({"num-examples": 1})


def _reply(message: Message, records: dict[str, Any]) -> Message:
    return Message(content=RecordDict(records), reply_to=message)
