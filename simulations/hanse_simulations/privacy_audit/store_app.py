"""The ClientApp of a store under attack: the production app, with canaries in its clipper.

`hanse_client.app` runs as in every simulation. While it answers, a few names in its modules are
replaced by the attack's: the clipper (for canaries' gradients), the task's `collate` (for who is
in a batch), a round of training (to record what an attacker knows) and, with a fault, the
noise. None of this is in the production code, and no message can cause it: it takes this module
as the ClientApp, and `attack.json` in the node's folder.

The knowledge of an attacker of the threat model is in `attack/` in that folder afterwards, one
file per round: the global model that arrived; what customers who are no canaries added to the
sum; and, in mode `local`, where no other party is trusted, the store's own noised update. The
promise holds against an attacker who knows all other customers' data and lots: each customer
has a lot of their own, so that the others' say nothing about a canary.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
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
from hanse_client.tasks.interest.heads import Popularity
from hanse_client.training import train
from hanse_client.training.optimizer import KeystreamOptimizer
from hanse_common.config import RunSettings
from hanse_common.durable import write_durably
from hanse_common.manifest import Manifest
from hanse_common.secagg.layout import Integers
from hanse_common.settings_files import Settings, parse_settings
from hanse_common.vector import Trained, flatten
from hanse_simulations.engines.store_app import app as simulated_store
from hanse_simulations.privacy_audit.canary_clipper import CanaryClipper
from hanse_simulations.privacy_audit.faults import Fault, faulty_manifest, noise_factor

CLIENT_APP = "hanse_simulations.privacy_audit.store_app:app"

_ORDERS = "attack.json"


class Orders(Settings):
    """`attack.json`: the canaries and the fault at one store."""

    fault: Fault = Fault.NONE
    coordinates: dict[str, int] = Field(default_factory=dict)
    """Along which parameter each canary's gradient points, by pseudonym."""

    def save(self, folder: Path) -> None:
        """Write `attack.json` into a node's folder."""
        write_durably(folder / _ORDERS, self.model_dump_json())

    @classmethod
    def of(cls, node: Node) -> Orders:
        """Read the orders in a node's folder."""
        return parse_settings(cls, json.loads((node.folder / _ORDERS).read_text(encoding="utf-8")))


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """An attacker's knowledge of one store in one round; each array is [parameters]."""

    model: npt.NDArray[np.float64]
    """The global model before the round."""
    others: npt.NDArray[np.float64]
    """Sum of the clipped gradients of all customers but canaries."""
    update: npt.NDArray[np.float64]
    """The store's own noised change of the model in mode `local`; elsewhere empty, as it is
    hidden in a sum."""

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
        self._clipper: CanaryClipper | None = None
        self._train_round = train.train_round
        self._training_vector = local_update.training_vector

    @contextmanager
    def under_way(self) -> Iterator[None]:
        with ExitStack() as stack:
            for module, name, stand_in in (
                (train, "train_round", self.train_round),
                (train, "customer_clipper", self.customer_clipper),
                (train, "task_of", self.task_of),
                (train, "KeystreamOptimizer", self.optimizer),
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
        trained = self._train_round(node, model, settings, arrays, number, **more)
        if self._clipper is not None:
            seen = settings.privacy.mode == "local"
            known = Known(
                model=flatten(arrays),
                others=self._clipper.others,
                update=flatten(trained.update) if seen else np.empty(0),
            )
            known.save(node.folder, number)
        return trained

    def customer_clipper(self, model: nn.Module, max_grad_norm: float) -> CanaryClipper:
        """As `hanse_client.clipping.per_customer.customer_clipper`, with canaries."""
        model.train()
        self._clipper = CanaryClipper(
            model,
            max_grad_norm=max_grad_norm,
            replay=(Popularity,),
            coordinates=self._orders.coordinates,
        )
        return self._clipper

    def task_of(self, name: str) -> Task:
        """The same task, which passes the customers of each batch to the clipper."""
        return cast(Task, _Watched(task_of(name), self._expect))

    def _expect(self, customers: list[str]) -> None:
        if self._clipper is not None:
            self._clipper.expect(customers)

    def optimizer(self, *args: Any, noise_multiplier: float, **more: Any) -> KeystreamOptimizer:
        """Add the noise that the fault leaves, in mode `local`."""
        enrolment = self._node.enrolment
        stores = 1 if enrolment is None else len(enrolment.manifest.stores)
        left = noise_multiplier * noise_factor(self._orders.fault, stores)
        return KeystreamOptimizer(*args, noise_multiplier=left, **more)

    def training_vector(
        self, node: Node, trained: Trained, manifest: Manifest, **more: Any
    ) -> Integers:
        """Add the noise that the fault leaves, in mode `distributed`."""
        faulty = faulty_manifest(manifest, self._orders.fault)
        return self._training_vector(node, trained, faulty, **more)


class _Watched:
    """A task that reports the customers of each batch before it is made."""

    def __init__(self, task: Task, report: Callable[[list[str]], None]) -> None:
        self._task, self._report = task, report

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def collate(self, data: Any, draw: Any, model: Any) -> Batch:
        self._report([str(name) for name in data.customers[draw.customers]])
        return self._task.collate(data, draw, model)


def _place(folder: Path, number: int) -> Path:
    return folder / "attack" / f"{number:05d}.npz"


app = AttackedApp()
