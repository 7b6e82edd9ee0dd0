"""The ClientApp of a store under attack: the production app, with canaries in its clipper.

`hanse_client.app` runs as in every simulation. While it answers, a few names in its modules are
replaced by the attack's: the clipper (for canaries' gradients), the task's `collate` (for who is
in a batch) and `contributions` (for canaries' rows), a round of training and a sum of statistics
(to record what an attacker knows) and, with a fault, the noise. None of this is in the production
code, and no message can cause it: it takes this module as the ClientApp, and `attack.json` in the
node's folder.

The knowledge of an attacker of the threat model is in `attack/` in that folder afterwards, one
file per round: the global model that arrived; what customers who are no canaries added to the
sum; and, in mode `local`, where no other party is trusted, the store's own noised sum. The
promise holds against an attacker who knows all other customers' data and lots: each customer
has a lot of their own, so that the others' say nothing about a canary.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from pydantic import Field
from torch import nn

from hanse_client.app import open_node
from hanse_client.features.array_files import load_npz, save_npz
from hanse_client.node import Node
from hanse_client.rounds import local_update
from hanse_client.tasks import task_of
from hanse_client.tasks.base import Batch, Task
from hanse_client.tasks.contributions import Contributions
from hanse_client.tasks.interest.heads import Popularity
from hanse_client.training import statistics, train
from hanse_client.training.optimizer import KeystreamOptimizer
from hanse_common.config import RunSettings
from hanse_common.durable import write_durably
from hanse_common.manifest import Manifest
from hanse_common.phases import trained
from hanse_common.privacy.plan import PrivacyPlan
from hanse_common.secagg.layout import Integers
from hanse_common.settings_files import Settings, parse_settings
from hanse_common.vector import Draws, Trained, decode_statistics, encode_statistics, flatten
from hanse_simulations.engines.store_app import app as simulated_store
from hanse_simulations.privacy_audit.canaries import Direction, Directions
from hanse_simulations.privacy_audit.canary_clipper import CanaryClipper
from hanse_simulations.privacy_audit.canary_rows import replace_rows
from hanse_simulations.privacy_audit.faults import (
    Fault,
    faulty_draws,
    faulty_manifest,
    noise_factor,
)

CLIENT_APP = "hanse_simulations.privacy_audit.store_app:app"

_ORDERS = "attack.json"


class Orders(Settings):
    """`attack.json`: the canaries and the fault at one store."""

    fault: Fault = Fault.NONE
    canaries: dict[str, int] = Field(default_factory=dict)
    """The numbers of this store's canaries, by pseudonym."""
    count: int = 0
    """Number of canaries of all stores, in or out."""
    seed: int = 0
    """Of the canaries' directions."""

    def save(self, folder: Path) -> None:
        """Write `attack.json` into a node's folder."""
        write_durably(folder / _ORDERS, self.model_dump_json())

    def directions(self, number: int, length: int) -> dict[str, Direction]:
        """Where this store's canaries point in a round's vector, by pseudonym."""
        if not self.canaries:
            return {}
        drawn = Directions.draw(self.count, length=length, seed=self.seed, number=number)
        return {name: drawn.of(canary) for name, canary in self.canaries.items()}

    @classmethod
    def of(cls, node: Node) -> Orders:
        """Read the orders in a node's folder."""
        return parse_settings(cls, json.loads((node.folder / _ORDERS).read_text(encoding="utf-8")))


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """An attacker's knowledge of one store in one round."""

    model: npt.NDArray[np.float64]
    """The trained parameters before the round [parameters]."""
    released: npt.NDArray[np.float64]
    """The sum that the round before released [its numbers]; empty if it released a gradient."""
    others: npt.NDArray[np.float64]
    """Sum of what all customers but canaries added [numbers of the round's vector]: of clipped
    gradients, or of rows of statistics."""
    noised: npt.NDArray[np.float64]
    """What the store itself released in mode `local`, with its noise [numbers of the round's
    vector]: its change of the model, or its sum of statistics. Elsewhere empty, as it is hidden
    in a sum."""

    @classmethod
    def load(cls, folder: Path, number: int) -> Known:
        """Read a round's knowledge from a node's folder."""
        return load_npz(cls, _place(folder, number), hint="attack a run that has all rounds")

    def save(self, folder: Path, number: int) -> None:
        """Write it to `attack/` in a node's folder."""
        save_npz(self, _place(folder, number))


class AttackedApp(ClientApp):
    """The production ClientApp, under attack while it answers."""

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer as the production app does."""
        with _Attack(open_node(context)).under_way():
            return simulated_store(message, context)


class _Attack:
    """Replacements for names of the production code, at one store."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._orders = Orders.of(node)
        self._number = 0
        self._clipper: CanaryClipper | None = None
        self._others: Contributions | None = None
        self._known: Known | None = None
        self._train_round = train.train_round
        self._statistics_sum = statistics.statistics_sum
        self._training_vector = local_update.training_vector
        self._encode_statistics = encode_statistics

    @contextmanager
    def under_way(self) -> Iterator[None]:
        with ExitStack() as stack:
            for module, name, stand_in in (
                (train, "train_round", self.train_round),
                (train, "customer_clipper", self.customer_clipper),
                (train, "task_of", self.task_of),
                (train, "KeystreamOptimizer", self.optimizer),
                (statistics, "task_of", self.task_of),
                (local_update, "statistics_sum", self.statistics_sum),
                (local_update, "encode_statistics", self.encode_statistics),
                (local_update, "training_vector", self.training_vector),
            ):
                # Restored even if the store fails: the worker serves other stores next.
                stack.callback(setattr, module, name, getattr(module, name))
                setattr(module, name, stand_in)
            yield

    def train_round(
        self,
        node: Node,
        model: nn.Module,
        settings: RunSettings,
        arrays: Mapping[str, Any],
        number: int,
        **more: Any,
    ) -> Trained:
        """Train as the production code does; record what an attacker knows of it."""
        self._number = number
        result = self._train_round(node, model, settings, arrays, number, **more)
        if self._clipper is not None:
            known = _known(settings, arrays, number, self._clipper.others)
            if settings.privacy.mode == "local":
                known = replace(known, noised=flatten(result.update))
            known.save(node.folder, number)
        return result

    def customer_clipper(self, model: nn.Module, max_grad_norm: float) -> CanaryClipper:
        """As `hanse_client.clipping.per_customer.customer_clipper`, with canaries."""
        model.train()
        count = sum(p.numel() for p in model.parameters() if p.requires_grad)
        self._clipper = CanaryClipper(
            model,
            max_grad_norm=max_grad_norm,
            replay=(Popularity,),
            directions=self._orders.directions(self._number, count),
        )
        return self._clipper

    def statistics_sum(
        self,
        node: Node,
        model: nn.Module,
        settings: RunSettings,
        arrays: Mapping[str, Any],
        number: int,
        **more: Any,
    ) -> npt.NDArray[np.float64]:
        """Sum as the production code does; note what an attacker knows of it."""
        self._number, self._others = number, None
        total = self._statistics_sum(node, model, settings, arrays, number, **more)
        plan = PrivacyPlan.from_settings(settings)
        # A store that could not sum its rows sends noise alone: then there is nothing to know.
        if self._others is not None and plan is not None:
            counted = train.training_data(node, settings).active()
            others = self._others.sum(counted) * plan.person_share
            self._known = _known(settings, arrays, number, others)
        return total

    def contributions(self, rows: Contributions, customers: npt.NDArray[Any]) -> Contributions:
        """Put canaries' rows in the place of those of their histories."""
        directions = self._orders.directions(self._number, rows.length)
        by = {
            row: directions[str(name)]
            for row, name in enumerate(customers)
            if str(name) in directions
        }
        # Summed as if the canaries were not there, so that it holds nothing about them.
        self._others = replace_rows(rows, dict.fromkeys(by))
        return replace_rows(rows, by)

    def encode_statistics(
        self,
        values: npt.NDArray[np.float64],
        manifest: Manifest,
        kind: str,
        *,
        plan: PrivacyPlan | None,
        draws: Draws,
    ) -> Integers:
        """Add the noise that the fault leaves to a sum of statistics; record what is known."""
        local = plan is not None and plan.mode == "local"
        if local:
            draws = faulty_draws(draws, noise_factor(self._orders.fault, self._stores))
        faulty = faulty_manifest(manifest, self._orders.fault)
        vector = self._encode_statistics(values, faulty, kind, plan=plan, draws=draws)
        if self._known is not None:
            known = self._known
            if local:
                known = replace(known, noised=decode_statistics(vector, manifest, kind).total)
            known.save(self._node.folder, self._number)
        return vector

    def task_of(self, name: str) -> Task:
        """The same task, which passes the customers of each batch to the clipper."""
        return cast(Task, _Watched(task_of(name), self))

    def optimizer(self, *args: Any, noise_multiplier: float, **more: Any) -> KeystreamOptimizer:
        """Add the noise that the fault leaves, in mode `local`."""
        left = noise_multiplier * noise_factor(self._orders.fault, self._stores)
        return KeystreamOptimizer(*args, noise_multiplier=left, **more)

    def training_vector(
        self, node: Node, trained: Trained, manifest: Manifest, **more: Any
    ) -> Integers:
        """Add the noise that the fault leaves, in mode `distributed`."""
        faulty = faulty_manifest(manifest, self._orders.fault)
        return self._training_vector(node, trained, faulty, **more)

    def expect(self, customers: list[str]) -> None:
        """Note who is in the next batch."""
        if self._clipper is not None:
            self._clipper.expect(customers)

    @property
    def _stores(self) -> int:
        enrolment = self._node.enrolment
        return 1 if enrolment is None else len(enrolment.manifest.stores)


class _Watched:
    """A task that reports the customers of each batch, and lets the attack change its rows."""

    def __init__(self, task: Task, attack: _Attack) -> None:
        self._task, self._attack = task, attack

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def collate(self, data: Any, draw: Any, model: Any) -> Batch:
        self._attack.expect([str(name) for name in data.customers[draw.customers]])
        return self._task.collate(data, draw, model)

    def contributions(
        self, phase: str, data: Any, model: Any, settings: RunSettings
    ) -> Contributions:
        rows = self._task.contributions(phase, data, model, settings)
        return self._attack.contributions(rows, data.customers)


def _known(
    settings: RunSettings, arrays: Mapping[str, Any], number: int, others: npt.NDArray[np.float64]
) -> Known:
    """What arrived before a round, and what all customers but canaries added in it."""
    before = settings.schedule.at(number - 1)
    released = number > 1 and before.release == "statistics"
    return Known(
        model=flatten(trained(arrays)),
        # The last number is the deviation of the sum's noise.
        released=arrays[before.array][:-1].astype(np.float64) if released else np.empty(0),
        others=others,
        noised=np.empty(0),
    )


def _place(folder: Path, number: int) -> Path:
    return folder / "attack" / f"{number:05d}.npz"


app = AttackedApp()
