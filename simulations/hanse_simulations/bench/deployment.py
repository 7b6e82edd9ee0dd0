"""Compare a deployment's private round with a plain round of Flower on this machine.

Both are complete deployments on loopback with TLS and node authentication, with the same
stores, the same model and the same training:

- private: `hanse server up`, one `hanse store join` per store, five stages per round, with the
  round log;
- plain: the same SuperLink, Flower's own SuperNode per store, one train message per round,
  updates in the clear.

Both have the same coordinator, so that the difference is how stores are reached and what
secrecy adds. Seconds are wall-clock time: compare them only with each other.

    rows = deployment(stores=3, rounds=3)
    rich.print(render(rows))
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from hanse_common.errors import ConfigError, FederationError
from hanse_common.flower import environment
from hanse_common.paths import FLOWER_FOLDER, INITIAL_FILE, NODE_FILE, NODE_KEY_FILE, SETTINGS_FILE
from hanse_server.deployment import run, run_state, up
from hanse_server.deployment.control import Control
from hanse_server.deployment.folder import FederationFolder
from hanse_server.stage_log import read_progress, read_stages
from hanse_simulations.bench._deployed import Deployed, free_ports, make_deployment

STAGES = ("train", "train.share", "train.mask", "query.confirm", "query.unmask")
_HANSE = "from hanse_common.cli import main; main()"
OPEN_STORE = "hanse_simulations.engines.store_app:app"
"""Trains the same and replies in the clear, which a deployed store's app refuses to do."""
_CONNECT_SECONDS = 240.0
_LOOK_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class DeploymentRow:
    """Duration of one stage or of a complete round."""

    deployment: str
    """`private` or `plain`."""
    part: str
    """A stage's message type, or `round`."""
    seconds: float
    """Median over the rounds after the first."""
    of_plain_round: float
    """Duration as a multiple of a plain round of Flower."""


def deployment(
    stores: int = 3, rounds: int = 3, *, progress: Callable[[str], None] = lambda _: None
) -> list[DeploymentRow]:
    """Measure both deployments, one after the other.

    Args:
        stores: Number of stores.
        rounds: Rounds of each run; the first is left out of the medians.
        progress: Called with a line before each measurement.

    Returns:
        A row per stage of the private round, then one for each deployment's round.

    Raises:
        ConfigError: There are too few stores or rounds.
        FederationError: A run failed; the error quotes its message.
    """
    if rounds < 2:
        raise ConfigError(f"rounds={rounds}: the first is measured apart, so take at least 2")
    if stores < 3:
        raise ConfigError(f"stores={stores}: an update hides among at least 3")
    with tempfile.TemporaryDirectory(prefix="hanse-bench-") as folder, ExitStack() as ending:
        progress(f"admitting {stores} stores to a federation")
        made = make_deployment(Path(folder), stores=stores, rounds=rounds)
        up.detach(made.federation)
        ending.callback(up.take_down, made.federation)
        progress(f"{rounds} private rounds")
        stages, private = _private(made)
        progress(f"{rounds} plain rounds of Flower")
        plain = _plain(made)
    return rows_of(stages, private=private, plain=plain)


def rows_of(
    stages: Mapping[str, Sequence[float]], *, private: Sequence[float], plain: Sequence[float]
) -> list[DeploymentRow]:
    """Make rows of the seconds of each private stage by round, and of complete rounds."""
    reference = statistics.median(plain[1:])
    parts = [("private", name, statistics.median(stages[name][1:])) for name in STAGES]
    parts += [("private", "round", statistics.median(private[1:])), ("plain", "round", reference)]
    return [
        DeploymentRow(
            deployment=kind,
            part=part,
            seconds=round(seconds, 2),
            of_plain_round=round(seconds / reference, 2),
        )
        for kind, part, seconds in parts
    ]


def _private(made: Deployed) -> tuple[dict[str, list[float]], list[float]]:
    """Seconds of each stage, and of each round."""
    command = [sys.executable, "-c", _HANSE, "store", "join", "--folder"]
    with _nodes(made, lambda store: [*command, str(store)]):
        run_dir = Path(run.start(made.federation, name="private").folder)
        seconds = _stage_seconds(made.federation, run_dir)
    return seconds, _rounds(run_dir)


def _stage_seconds(federation: FederationFolder, run_dir: Path) -> dict[str, list[float]]:
    """Seconds of each training stage by round, timed by watching the run's progress file."""
    begun: dict[tuple[int, str], float] = {}
    last_check = 0.0
    while True:
        progress = read_progress(run_dir)
        if progress.get("kind") == "train":
            begun.setdefault((progress["round"], progress["stage"]), time.time())
        # The state costs a call to the SuperLink, which would slow down what is measured.
        if time.monotonic() - last_check > 1.0:
            state = run_state.state_of(federation, run_dir)
            if state.state != "underway":
                break
            last_check = time.monotonic()
        time.sleep(_LOOK_SECONDS)
    if state.state != "finished":
        raise FederationError(f"the private run {state.state}: {state.failure}")
    ends = {line["round"]: line["time"] for line in _trained(run_dir)}
    seconds: dict[str, list[float]] = {name: [] for name in STAGES}
    for number, end in sorted(ends.items()):
        # A stage that was too short to be seen begins where the next one does, and takes no time.
        marks = [end]
        for name in reversed(STAGES):
            marks.insert(0, begun.get((number, name), marks[0]))
        for name, first, last in zip(STAGES, marks, marks[1:], strict=False):
            seconds[name].append(last - first)
    return seconds


def _plain(made: Deployed) -> list[float]:
    """Seconds of each round, with updates in the clear and Flower's own SuperNodes."""
    federation = made.federation
    run_dir = federation.run("plain")
    run_dir.mkdir()
    shutil.copyfile(federation.run("private") / INITIAL_FILE, run_dir / INITIAL_FILE)
    open_ = made.settings.with_changes({"federation.secure_aggregation": False})
    (run_dir / SETTINGS_FILE).write_text(open_.model_dump_json(), encoding="utf-8")
    # Without enrolment a node takes part in the clear; the guard would refuse the messages.
    for store in made.stores:
        node = json.loads((store / NODE_FILE).read_text(encoding="utf-8"))
        (store / NODE_FILE).write_text(json.dumps(node | {"enrolment": None}), encoding="utf-8")

    def supernode(store: Path) -> list[str]:
        return [
            str(Path(sys.executable).parent / "flower-supernode"),
            *("--superlink", federation.file.fleet.address),
            *("--root-certificates", str(federation.resolve(federation.file.fleet.ca))),
            *("--auth-supernode-private-key", str(store / NODE_KEY_FILE)),
            *("--node-config", f'node="{store}"'),
            *("--host", "127.0.0.1", "--port", str(free_ports(1)[0])),
        ]

    with _nodes(made, supernode), Control(federation) as control:
        config: dict[str, str | int | float] = {
            "run-dir": str(run_dir),
            "federation": str(federation.path),
            "stores": len(made.stores),
        }
        run_id = control.start(config, client=OPEN_STORE)
        while True:
            run = next(each for each in control.runs() if each.run_id == run_id)
            if run.status == "finished":
                break
            time.sleep(1.0)
    if run.outcome != "completed":
        raise FederationError(f"the plain run {run.outcome}: {run.details}")
    return _rounds(run_dir)


def _rounds(run_dir: Path) -> list[float]:
    return [float(line["seconds"]) for line in _trained(run_dir)]


def _trained(run_dir: Path) -> list[dict[str, Any]]:
    return [line for line in read_stages(run_dir) if line["stage"] == "train"]


@contextmanager
def _nodes(made: Deployed, command: Callable[[Path], list[str]]) -> Iterator[None]:
    """Start a node for each store, wait until all are connected, and end them after the block."""
    processes = []
    try:
        for store in made.stores:
            with (store / "node.log").open("ab") as log:
                processes.append(
                    subprocess.Popen(
                        command(store),
                        env=environment(store / FLOWER_FOLDER),
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )
        _wait_until_online(made)
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_online(made: Deployed) -> None:
    deadline = time.monotonic() + _CONNECT_SECONDS
    with Control(made.federation) as control:
        while [node.status for node in control.nodes()] != ["online"] * len(made.stores):
            if time.monotonic() > deadline:
                raise FederationError(f"not all stores connected within {_CONNECT_SECONDS:g} s")
            time.sleep(0.2)


def render(rows: Sequence[DeploymentRow]) -> Table:
    """Lay the rows out as a table for people."""
    table = Table(title="A deployment's round, and a plain train message of Flower's")
    for heading in ("deployment", "part"):
        table.add_column(heading)
    for heading in ("seconds", "of a plain round"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(row.deployment, row.part, f"{row.seconds:.2f}", f"{row.of_plain_round:.2f}x")
    return table
