"""A store that needs no torch: it pulls the model towards a target of its own.

Its behaviour is set by the store's folder: a file `refuse`, `crash`, `die`, `slow`, `nan`,
`greedy` or `shuffle` in it changes what it does, from the round in the file on.
"""

import os
import signal
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from hanse_common.errors import EmptyStore

app = ClientApp()


def store_folder(context: Context) -> Path:
    federation = Path(os.environ["HANSE_FEDERATION"])
    stores = sorted(entry for entry in federation.iterdir() if entry.is_dir())
    return stores[int(context.node_config["partition-id"])]


def _told(folder: Path, what: str, number: int) -> bool:
    path = folder / what
    return path.exists() and number >= int(path.read_text() or 0)


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    folder = store_folder(context)
    if (folder / "anonymous").exists():
        raise EmptyStore("it has no events", hint="give it some")
    config = ConfigRecord({"store": folder.name})
    return Message(RecordDict({"config": config}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    folder = store_folder(context)
    number = int(message.content["config"]["server-round"])
    if _told(folder, "refuse", number):
        raise EmptyStore(f"{folder.name} has no events", hint="give it some")
    if _told(folder, "crash", number):
        raise ZeroDivisionError("a bug")
    if _told(folder, "die", number):
        os.kill(os.getpid(), signal.SIGKILL)
    if (folder / "slow").exists():
        time.sleep(float((folder / "slow").read_text()))
    calls = context.state.setdefault("calls", MetricRecord({"n": 0}))
    calls["n"] += 1
    # Node ids differ between engines; a store's name and the round do not.
    seed = [number, *folder.name.encode()]
    draw = np.random.default_rng(seed)
    trained = {}
    for name, array in message.content["arrays"].items():
        values = array.numpy()
        target = draw.normal(size=values.shape).astype(np.float32)
        trained[name] = np.asarray(values + np.float32(0.3) * (target - values))
    if _told(folder, "nan", number):
        next(iter(trained.values())).flat[0] = np.nan
    names = list(trained)
    if _told(folder, "shuffle", number):
        names.reverse()
    record = ArrayRecord({name: Array(trained[name]) for name in names})
    weight = 1000 if _told(folder, "greedy", number) else 1
    (folder / "calls").write_text(f"{calls['n']} {os.getpid()}")
    return Message(
        RecordDict({"arrays": record, "metrics": MetricRecord({"num-examples": weight})}),
        reply_to=message,
    )


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    folder = store_folder(context)
    config = message.content["config"]
    total = sum(float(array.numpy().sum()) for array in message.content["arrays"].values())
    line = f"{config['server-round']} {config['split']} {total!r}\n"
    with (folder / "evaluations").open("a") as file:
        file.write(line)
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1})}), reply_to=message)
