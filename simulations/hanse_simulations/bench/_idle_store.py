"""A store that does almost no work, so that a run measures the engine's own cost."""

from __future__ import annotations

from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """Reply with the store's name."""
    name = f"store-{int(context.node_config['partition-id']):04d}"
    return Message(RecordDict({"config": ConfigRecord({"store": name})}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Add a constant that depends on the store, so that equal models prove equal aggregation."""
    step = np.float32(1 + int(context.node_config["partition-id"]))
    arrays = cast(ArrayRecord, message.content["arrays"])
    moved = ArrayRecord({name: Array(array.numpy() + step) for name, array in arrays.items()})
    metrics = MetricRecord({"num-examples": 1})
    return Message(RecordDict({"arrays": moved, "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Reply without an evaluation."""
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1})}), reply_to=message)
