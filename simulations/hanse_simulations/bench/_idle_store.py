"""A store that does next to nothing, so that only the engine's own cost is measured."""

from __future__ import annotations

from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """Say the store's name."""
    name = f"store-{int(context.node_config['partition-id']):04d}"
    return Message(RecordDict({"config": ConfigRecord({"store": name})}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Move the model by a step that depends on the store."""
    step = np.float32(1 + int(context.node_config["partition-id"]))
    arrays = cast(ArrayRecord, message.content["arrays"])
    moved = ArrayRecord({name: Array(array.numpy() + step) for name, array in arrays.items()})
    metrics = MetricRecord({"num-examples": 1})
    return Message(RecordDict({"arrays": moved, "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Do nothing."""
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1})}), reply_to=message)
