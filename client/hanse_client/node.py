"""A store's node on disk: its name, its prepared histories and its privacy ledger.

    <folder>/node.json         name, prepared histories, base model
    <folder>/ledger.sqlite     every charge and refusal; a charge is written before the upload
    <folder>/ledger.head       the ledger's last entry, so that an older ledger is noticed
    <folder>/ledger.salt       secret salt of the ledger's commitments to vectors (0600)
    <folder>/log.jsonl         losses and epsilon by step; never leaves the store
    <folder>/evaluations/      metrics of each evaluation; never leave the store
    <folder>/secagg/           the state between two messages of one exchange

None of these files is sent. The budget cannot be in Flower's `Context.state`, which is lost at
a restart.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar, cast

import numpy as np

from hanse_client.enrolment import Enrolment
from hanse_client.features.histories import Histories
from hanse_common.decoding import decoding, json_object
from hanse_common.durable import write_durably
from hanse_common.errors import ConfigError, DataError
from hanse_common.paths import (
    EVALUATIONS_FOLDER,
    HISTORIES_FILE,
    LEDGER_FILE,
    NODE_FILE,
    STORE_LOG_FILE,
)
from hanse_common.privacy.accounting import SampledGaussianSteps
from hanse_common.privacy.budget import Budget, Grant
from hanse_common.privacy.charge import Charge
from hanse_common.privacy.entry import Entry
from hanse_common.privacy.ledger import Ledger
from hanse_common.privacy.randomness import fresh_key, keystream, repeatable_key
from hanse_common.rotation import LARGEST, append
from hanse_common.settings_files import Settings, parse_settings

_log = logging.getLogger(__name__)


_LONGEST_TEXT = 2000
"""Characters of a text in `log.jsonl`."""


class Randomness(IntEnum):
    """The purposes of a node's generators; every purpose has a stream of its own.

    The numbers go into the key of a seeded generator: a simulation with the same seed repeats
    its figures only as long as they stay.
    """

    EXAMPLES = 0
    """What is random in the examples of a step, such as moments of prediction."""
    SAMPLE = 1
    """The Poisson sample of customers of a step."""
    STEP_NOISE = 2
    """Noise on the gradients of a step, in mode `local`."""
    RELEASE_NOISE = 3
    """Noise on a vector that leaves the store."""
    ROUNDING = 4
    """Stochastic rounding to integers."""
    EXACTNESS_CHECK = 5
    """The customers on whom the exactness of clipping is checked."""


class _Loadable(Protocol):
    """Prepared data of a task."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the data from one file."""
        ...


_LoadableT = TypeVar("_LoadableT", bound=_Loadable)


class NodeSettings(Settings):
    """`node.json`: what a node needs before the first message. Paths are relative to its folder."""

    name: str
    histories: Path = Path(HISTORIES_FILE)
    base_model: Path = Path("base-model")
    """Folder of the initial model, as `save_pretrained` wrote it; messages carry only the trained
    parameters. An app of somebody else has neither file: it reads data and model itself."""
    enrolment: Path | None = None
    """Folder of the store's membership in a federation; see `enrolment.py`. Without it,
    `hanse_client.app` answers no message."""
    seed: int | None = None
    """Simulations only: makes sampling and noise repeatable, and so predictable. A node at a
    real store has none, and its keys come from the operating system."""


class Node:
    """One store's folder."""

    def __init__(self, folder: Path) -> None:
        """Open a node.

        Raises:
            ConfigError: The folder holds no readable `node.json`.
        """
        self.folder = folder
        self._prepared: dict[type, _Loadable] = {}
        with decoding(folder / NODE_FILE, ConfigError, hint="prepare the store first"):
            table = json_object((folder / NODE_FILE).read_bytes())
        settings = parse_settings(NodeSettings, table)
        enrolment = settings.enrolment
        self.settings = settings.model_copy(
            update={
                "histories": folder / settings.histories,
                "base_model": folder / settings.base_model,
                "enrolment": None if enrolment is None else folder / enrolment,
            }
        )

    @property
    def name(self) -> str:
        """The store's name in the federation."""
        return self.settings.name

    @cached_property
    def histories(self) -> Histories:
        """The store's prepared histories."""
        return Histories.load(self.settings.histories)

    def prepared(self, kind: type[_LoadableT]) -> _LoadableT:
        """The store's prepared data in the form of a certain task; they are read once."""
        if kind not in self._prepared:
            self._prepared[kind] = kind.load(self.settings.histories)
        return cast(_LoadableT, self._prepared[kind])

    @cached_property
    def enrolment(self) -> Enrolment | None:
        """The store's membership in a federation, if it has one."""
        folder = self.settings.enrolment
        return None if folder is None else Enrolment(folder)

    def generator(self, number: int, use: Randomness, *, attempt: int = 1) -> np.random.Generator:
        """A cryptographic generator with a fresh key, or with a repeatable one in a simulation.

        Args:
            number: The number of the round or of the exchange.
            use: The purpose of the generator.
            attempt: The attempt, 1 or 2; the second one has other streams than the first.
        """
        seed = self.settings.seed
        if seed is None:
            return keystream(fresh_key())
        later_attempt = (attempt,) if attempt > 1 else ()
        return keystream(repeatable_key(seed, number, use, *later_attempt))

    @cached_property
    def ledger(self) -> Ledger:
        """The store's privacy ledger; entries are signed if the store is in a federation.

        Raises:
            LedgerError: The ledger is damaged, or older than `ledger.head`. A node that does not
                know what it has spent must not spend more.
        """
        key = None if self.enrolment is None else self.enrolment.key
        return Ledger.open(self.folder / LEDGER_FILE, key, sync=self._waits_for_disk)

    def spent(self) -> list[SampledGaussianSteps]:
        """All private steps ever charged at this node, over all rounds and restarts.

        Raises:
            LedgerError: See `ledger`.
        """
        return self.ledger.spent()

    def check_affordable(
        self, charge: Charge, *, budget: Budget, grant: Grant | None = None
    ) -> None:
        """Refuse a charge beyond the budget or the grant, and record the refusal.

        Raises:
            BudgetSpent: Epsilon with this charge would exceed the store's budget, or the charges
                under the manifest would exceed its grant.
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
        """Record a charge durably, before the upload that it is for leaves the store.

        A crash between the charge and the upload over-counts; no crash under-counts.

        Args:
            charge: The privacy cost, and the release that it is for.
            budget: The store's limit, if it has one.
            grant: The manifest's limit, if it has one.
            vector: Bytes of the vector that will be masked; the ledger commits to them.

        Returns:
            The entry; its `epsilon_after` covers everything spent at this node so far.

        Raises:
            BudgetSpent: The charge would exceed the budget or the grant.
            LedgerError: The charge could not be written; nothing may leave.
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
        """Replace a file of this node's folder, durably, so that a reply may depend on it."""
        write_durably(self.folder / name, content, mode=mode, sync=self._waits_for_disk)

    @property
    def _waits_for_disk(self) -> bool:
        """Whether writes wait for the disk (fsync)."""
        # A simulation does not wait: that would take longer than training, and it need not
        # protect anybody's data. Its files still survive a killed process.
        return self.settings.seed is None

    def log(self, **line: Any) -> None:
        """Append a line to the store's own log."""
        append_log(self.folder, rotate=self._waits_for_disk, **line)

    def evaluation(self, split: str, number: int) -> Path:
        """The file of an evaluation's metrics."""
        return self.folder / EVALUATIONS_FOLDER / f"{split}-{number:05d}.npz"


def append_log(node: Path, *, rotate: bool = True, **line: Any) -> None:
    """Append a line to the log of a node's folder, which need not hold a readable node.

    Args:
        node: The folder.
        rotate: Bound the log's size; a simulation, which reads all losses at its end, does not.
        line: Fields; long texts are cut.
    """
    # Texts are cut: an error may quote what a coordinator sent, which could fill the disk.
    line = {k: v[:_LONGEST_TEXT] if isinstance(v, str) else v for k, v in line.items()}
    text = json.dumps({**line, "time": time.time()}) + "\n"
    append(node / STORE_LOG_FILE, text, largest=LARGEST if rotate else sys.maxsize)


def list_nodes(federation: Path) -> list[Path]:
    """Folders of a federation's nodes on one machine, sorted by name.

    Raises:
        DataError: There are none.
    """
    folders = sorted(path.parent for path in federation.glob(f"*/{NODE_FILE}"))
    if not folders:
        raise DataError(f"{federation} holds no store's node", hint="prepare the stores first")
    return folders
