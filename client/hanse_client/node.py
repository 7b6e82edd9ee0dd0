"""A store's node on disk: what it is called, where its histories lie, what it has spent.

    <folder>/node.json         name, prepared histories, base model
    <folder>/ledger.sqlite     every charge and refusal, written before what it costs leaves
    <folder>/ledger.head       how far the ledger goes, so that an older one is noticed
    <folder>/ledger.salt       secret behind the ledger's commitments to vectors (0600)
    <folder>/log.jsonl         losses and epsilon by step, for the store's own eyes
    <folder>/evaluations/      figures of each evaluation, for the store's own eyes
    <folder>/secagg/           what waits between two messages of one exchange

Nothing here is sent. `Context.state` would be gone after a restart, so a budget cannot live
there.
"""

from __future__ import annotations

import json
import logging
import time
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar, cast

import numpy as np

from hanse_client.enrolment import Enrolment
from hanse_client.features.histories import Histories
from hanse_common.config import Settings, parse_settings
from hanse_common.decoding import decoding, json_object
from hanse_common.durable import write_durably
from hanse_common.errors import ConfigError, DataError
from hanse_common.paths import EVALUATIONS_FOLDER, LEDGER_FILE, NODE_FILE, STORE_LOG_FILE
from hanse_common.privacy.accounting import SampledGaussianSteps
from hanse_common.privacy.budget import Budget, Grant
from hanse_common.privacy.charge import Charge
from hanse_common.privacy.entry import Entry
from hanse_common.privacy.ledger import Ledger
from hanse_common.privacy.randomness import fresh_key, keystream, repeatable_key

_log = logging.getLogger(__name__)


_LONGEST_TEXT = 2000


class Randomness(IntEnum):
    """What a draw of a node's generator is for: each use has a stream of its own."""

    EXAMPLES = 0
    """What is random about the examples of a step."""
    SAMPLE = 1
    """Which customers are in a step."""
    STEP_NOISE = 2
    """Noise on the gradients of a step, in mode local."""
    RELEASE_NOISE = 3
    """Noise on what leaves the store."""
    ROUNDING = 4
    """Rounding to integers."""
    EXACTNESS_CHECK = 5
    """Which customers clipping is checked on."""


class Loadable(Protocol):
    """Prepared data of some task."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read them from one file."""
        ...


LoadableT = TypeVar("LoadableT", bound=Loadable)


class NodeSettings(Settings):
    """`node.json`: what a node must know before it hears from a coordinator.

    Paths are relative to its folder.
    """

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
        self._prepared: dict[type, Loadable] = {}
        with decoding(folder / NODE_FILE, ConfigError, hint="prepare the store first"):
            table = json_object((folder / NODE_FILE).read_bytes())
        found = parse_settings(NodeSettings, table)
        self.settings = found.model_copy(
            update={
                "histories": folder / found.histories,
                "base_model": folder / found.base_model,
                "enrolment": None if found.enrolment is None else folder / found.enrolment,
            }
        )

    @property
    def name(self) -> str:
        """What the federation calls the store."""
        return self.settings.name

    @cached_property
    def histories(self) -> Histories:
        """The store's prepared histories."""
        return Histories.load(self.settings.histories)

    def prepared(self, kind: type[LoadableT]) -> LoadableT:
        """The store's prepared data, of a task that reads them in another form; read once."""
        if kind not in self._prepared:
            self._prepared[kind] = kind.load(self.settings.histories)
        return cast(LoadableT, self._prepared[kind])

    @cached_property
    def enrolment(self) -> Enrolment | None:
        """The store's membership in a federation, if it has one."""
        folder = self.settings.enrolment
        return None if folder is None else Enrolment(folder)

    def generator(self, number: int, use: Randomness, *, attempt: int = 1) -> np.random.Generator:
        """A cryptographic generator with a fresh key, or a repeatable one in a simulation.

        Args:
            number: The round, or the exchange.
            use: What is drawn.
            attempt: At that exchange; a second one draws everything again.
        """
        seed = self.settings.seed
        if seed is None:
            return keystream(fresh_key())
        again = (attempt,) if attempt > 1 else ()
        return keystream(repeatable_key(seed, number, use, *again))

    @cached_property
    def ledger(self) -> Ledger:
        """What the store has spent; signed if the store is a member of a federation.

        Raises:
            LedgerError: It is damaged, or went back; a node that cannot tell what it has
                spent must not spend more.
        """
        key = None if self.enrolment is None else self.enrolment.key
        return Ledger.open(self.folder / LEDGER_FILE, key, sync=self._waits_for_disk)

    def spent(self) -> list[SampledGaussianSteps]:
        """All private steps ever charged at this node, over every round and restart.

        Raises:
            LedgerError: See `ledger`.
        """
        return self.ledger.spent()

    def check_affordable(
        self, charge: Charge, *, budget: Budget, grant: Grant | None = None
    ) -> None:
        """Refuse what would take this node beyond its budget or grant, and write that down.

        Raises:
            BudgetSpent: Epsilon with this charge would exceed the budget, or what was charged
                under the manifest its grant.
            LedgerError: See `ledger`.
        """
        self.ledger.check_affordable(charge, budget=budget, grant=grant)

    def charge(
        self,
        charge: Charge,
        *,
        budget: Budget | None = None,
        grant: Grant | None = None,
        vector: bytes | None = None,
    ) -> Entry:
        """Write a charge down as spent, durably, before what they cost leaves the store.

        A crash after this and before the update leaves over-counts; nothing under-counts.

        Args:
            charge: What is spent, and what will leave for it.
            budget: The store's limit, if it has one.
            grant: What the manifest lets it spend.
            vector: What will be masked, for the ledger to commit to.

        Returns:
            The entry; its `epsilon_after` is of everything spent at this node so far.

        Raises:
            BudgetSpent: It would exceed budget or grant.
            LedgerError: It could not be written down, and nothing may leave.
        """
        entry = self.ledger.charge(charge, budget=budget, grant=grant, vector=vector)
        number = charge.release.round
        self.log(round=number, epsilon=entry.epsilon_after)
        _log.info(
            "charged",
            extra={"store": self.name, "round": number, "epsilon": round(entry.epsilon_after, 6)},
        )
        return entry

    def write(self, name: str, content: str | bytes, *, mode: int = 0o644) -> None:
        """Replace a file of this node's folder before anything that rests on it leaves."""
        write_durably(self.folder / name, content, mode=mode, sync=self._waits_for_disk)

    @property
    def _waits_for_disk(self) -> bool:
        """Not in a simulation, where that would take longer than training.

        Its machine fails as a whole, and nobody is protected by it.
        """
        return self.settings.seed is None

    def log(self, **line: Any) -> None:
        """Append a line to the store's own log."""
        append_log(self.folder, **line)

    def evaluation(self, split: str, number: int) -> Path:
        """Where the figures of an evaluation lie."""
        return self.folder / EVALUATIONS_FOLDER / f"{split}-{number:05d}.npz"


def append_log(node: Path, **line: Any) -> None:
    """Append a line to the log in a node's folder, whatever else is wrong with the folder.

    Texts are cut: an error may quote what somebody else sent, and would fill the disk.
    """
    line = {k: v[:_LONGEST_TEXT] if isinstance(v, str) else v for k, v in line.items()}
    with (node / STORE_LOG_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps({**line, "time": time.time()}) + "\n")


def list_nodes(federation: Path) -> list[Path]:
    """Folders of a federation's nodes on one machine, in the order of their names.

    Raises:
        DataError: There are none.
    """
    folders = sorted(path.parent for path in federation.glob(f"*/{NODE_FILE}"))
    if not folders:
        raise DataError(f"{federation} holds no store's node", hint="prepare the stores first")
    return folders
