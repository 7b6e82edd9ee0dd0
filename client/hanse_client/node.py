"""A store's node on disk: what it is called, where its histories lie, what it has spent.

    <folder>/node.json         name, prepared histories, base model
    <folder>/accountant.json   every private step ever charged, written before it is taken
    <folder>/log.jsonl         losses and epsilon by step, for the store's own eyes
    <folder>/evaluations/      figures of each evaluation, for the store's own eyes
    <folder>/secagg/           what waits between two messages of one exchange

Nothing here is sent. `Context.state` would be gone after a restart, so a budget cannot live
there.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hanse_client.enrolment import Enrolment
from hanse_client.histories import Histories
from hanse_common.config import Settings, parse_settings
from hanse_common.errors import ConfigError, DataError, PrivacyError
from hanse_common.privacy.accounting import SampledGaussianSteps, epsilon
from hanse_common.privacy.randomness import fresh_key, keystream, repeatable_key

NODE_FILE = "node.json"


class NodeSettings(Settings):
    """`node.json`: what a node must know before it hears from a coordinator."""

    name: str
    histories: Path
    base_model: Path
    """Folder of the frozen start, as `save_pretrained` wrote it; messages carry only what
    is trained."""
    enrolment: Path | None = None
    """Folder of what makes the store a member of a federation; see `enrolment.py`. A node
    without one sends its updates open."""
    seed: int | None = None
    """Simulations only: makes sampling and noise repeatable, and so predictable. A node at a
    real store leaves it out and draws from the operating system."""


class Node:
    """One store's folder."""

    def __init__(self, folder: Path) -> None:
        """Open a node.

        Raises:
            ConfigError: The folder holds no readable `node.json`.
        """
        self.folder = folder
        try:
            table = json.loads((folder / NODE_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{folder} is no store's node: {error}", hint="prepare the store first"
            ) from error
        self.settings = parse_settings(NodeSettings, table)

    @property
    def name(self) -> str:
        """What the federation calls the store."""
        return self.settings.name

    @cached_property
    def histories(self) -> Histories:
        """The store's prepared histories."""
        return Histories.load(self.settings.histories)

    @cached_property
    def enrolment(self) -> Enrolment | None:
        """The store's membership in a federation, if it has one."""
        folder = self.settings.enrolment
        return None if folder is None else Enrolment(folder)

    def generator(self, *purpose: int) -> np.random.Generator:
        """A cryptographic generator with a fresh key, or a repeatable one in a simulation.

        Args:
            purpose: Numbers that tell this use from every other, e.g. exchange and use.
        """
        seed = self.settings.seed
        return keystream(fresh_key() if seed is None else repeatable_key(seed, *purpose))

    def spent(self) -> list[SampledGaussianSteps]:
        """All private steps ever charged at this node, over every round and restart.

        Raises:
            PrivacyError: The record is damaged; a node that cannot tell what it has spent
                must not spend more.
        """
        path = self.folder / "accountant.json"
        if not path.exists():
            return []
        try:
            return [SampledGaussianSteps(**row) for row in json.loads(path.read_text("utf-8"))]
        except (OSError, ValueError, TypeError) as error:
            raise PrivacyError(
                f"cannot read what {self.name} has spent from {path}: {error}",
                hint="restore the file from a backup no older than the last round",
            ) from error

    def check_affordable(
        self, steps: SampledGaussianSteps, *, target_delta: float, limit: float
    ) -> None:
        """Refuse what would take this node beyond a limit.

        Raises:
            PrivacyError: Epsilon with these steps would exceed `limit`, or the record of
                what was spent is damaged.
        """
        total = epsilon([*self.spent(), steps], target_delta=target_delta)
        if total > limit:
            raise PrivacyError(
                f"{self.name} would have spent epsilon={total:.3f}, its policy allows {limit:g}",
                hint="nothing was computed or sent; leave the federation, or raise max_epsilon",
            )

    def charge(self, steps: SampledGaussianSteps, *, target_delta: float, number: int) -> float:
        """Write steps down as spent, durably, before what they cost leaves the store.

        A crash after this and before the update leaves over-counts; nothing under-counts.

        Args:
            steps: What is spent.
            target_delta: At which epsilon is read.
            number: The round, for the store's log.

        Returns:
            Epsilon of everything spent at this node so far, at `target_delta`.
        """
        spent = _merged([*self.spent(), steps])
        rows = [asdict(steps) for steps in spent]
        self.write("accountant.json", json.dumps(rows, indent=1))
        total = epsilon(spent, target_delta=target_delta)
        self.log(round=number, epsilon=total)
        return total

    def write(self, name: str, content: str | bytes, *, mode: int = 0o644) -> None:
        """Replace a file of this node's folder before anything that rests on it leaves.

        A simulation's node does not wait for the disk, which would take longer than its
        training: its machine fails as a whole, and nobody is protected by it.
        """
        write_durably(self.folder / name, content, mode=mode, sync=self.settings.seed is None)

    def log(self, **line: Any) -> None:
        """Append a line to the store's own log."""
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({**line, "time": time.time()}) + "\n")

    def evaluation(self, split: str, number: int) -> Path:
        """Where the figures of an evaluation lie."""
        return self.folder / "evaluations" / f"{split}-{number:05d}.npz"


def _merged(steps: list[SampledGaussianSteps]) -> list[SampledGaussianSteps]:
    """Join neighbours with the same terms, so that the record does not grow with rounds."""
    merged: list[SampledGaussianSteps] = []
    for step in steps:
        last = merged[-1] if merged else None
        if last and replace(last, count=0) == replace(step, count=0):
            merged[-1] = replace(last, count=last.count + step.count)
        else:
            merged.append(step)
    return merged


def write_durably(
    path: Path, content: str | bytes, *, mode: int = 0o644, sync: bool = True
) -> None:
    """Replace a file so that after a crash it holds the old or the new content, never less.

    Args:
        path: The file.
        content: All of it.
        mode: Of a file that is new.
        sync: Wait for the disk, so that this holds for a power failure too.
    """
    partial = path.with_name(path.name + ".partial")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        if sync:
            os.fsync(file.fileno())
    partial.replace(path)
    if not sync:
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def list_nodes(federation: Path) -> list[Path]:
    """Folders of a federation's nodes on one machine, in the order of their names.

    Raises:
        DataError: There are none.
    """
    folders = sorted(path.parent for path in federation.glob(f"*/{NODE_FILE}"))
    if not folders:
        raise DataError(f"{federation} holds no store's node", hint="prepare the stores first")
    return folders
