"""One round of training at a store: sample customers, clip each, add noise, step.

The task of the settings defines data, model and loss; this module has everything that privacy
depends on. The update is a sum over customers divided by a public constant, never by the
store's true number of customers or batch size, so that it reveals neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hanse_client.clipping import BookKeeping
from hanse_client.clipping.exactness import ensure_exact
from hanse_client.clipping.per_customer import customer_clipper
from hanse_client.node import Node, Randomness
from hanse_client.tasks import task_of
from hanse_client.tasks.base import Batch, Draw, StoreData, Task
from hanse_client.training.early_stopping import EarlyStopping, validation_score
from hanse_client.training.optimizer import KeystreamOptimizer
from hanse_client.training.subnormals import flushing_subnormals
from hanse_common.config import RunSettings
from hanse_common.errors import ConfigError, DataError, EmptyStore
from hanse_common.privacy.plan import PrivacyPlan
from hanse_common.vector import Trained

Arrays = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """The inputs of a round: one store's customers, and the model of the run's task."""

    node: Node
    task: Task
    model: nn.Module
    data: StoreData | None
    """None for a round of noise alone, which reads no data."""
    settings: RunSettings
    attempt: int = 1

    @property
    def available_data(self) -> StoreData:
        if self.data is None:
            raise EmptyStore("no data were read")
        return self.data

    def generator(self, number: int, use: Randomness) -> np.random.Generator:
        return self.node.generator(number, use, attempt=self.attempt)

    @property
    def trained(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]


@flushing_subnormals
def train_round(
    node: Node,
    model: nn.Module,
    settings: RunSettings,
    arrays: Mapping[str, Any],
    number: int,
    *,
    proximal_mu: float = 0.0,
    attempt: int = 1,
    noise_alone: bool = False,
) -> Trained:
    """Train on the store's customers for one round.

    The caller charges the round to the ledger before it lets the result leave the store.

    Args:
        node: The store.
        model: The task's model; its trained parameters are overwritten with `arrays`.
        settings: The run's settings.
        arrays: Trained parameters of the global model, by name.
        number: The round, from 1.
        proximal_mu: FedProx's coefficient of the proximal term, at least 0.
        attempt: The attempt at the round; a second one draws other customers and other noise.
        noise_alone: Read no data. With privacy, a store whose data cannot be used sends this.

    Returns:
        The change of the trained parameters over `training.local_steps` steps; in mode
        `distributed` the sum of clipped gradients, which has no noise yet. With it the exact
        number of customers drawn and their clipped losses. Only the change in mode `local` is
        private as it is.

    Raises:
        PrivacyError: The settings promise more than their noise provides, or clipping is not
            exact here.
        EmptyStore, DataError [too-few-customers]: Without privacy, see `check_size`.

    Edge cases:
        With privacy a store without customers answers with noise alone. A refusal would tell
        the coordinator exactly whether the store has more customers than a limit.
    """
    # 1. The global model, and the customers with data before training ends.
    load_arrays(model, arrays)
    plan = PrivacyPlan.from_settings(settings)
    if plan is None:  # with privacy, see *Edge cases*
        check_size(node.name, task_of(settings.task).load_data(node), settings)
    if plan is not None and not noise_alone:
        # 2. Clipping is checked to be exact before this store's first private step of this model.
        check_ready(node, model, settings, number)
    work = _work(node, model, settings, attempt, empty=noise_alone)
    # 3. One or more steps, each on a Poisson sample of customers.
    update: Arrays = {}
    if plan is None:
        losses = _non_private_steps(work, number, proximal_mu)
    elif plan.mode == "local":
        losses = _private_steps(work, plan, number, proximal_mu)
    else:
        losses = _gradient_sum(work, plan, number, update)
    drawn, total, steps = 0, 0.0, settings.training.local_steps
    for step, step_losses in enumerate(losses, start=1):
        mean = float(step_losses.mean()) if len(step_losses) else 0.0
        node.log(round=number, step=step, steps=steps, loss=mean)
        drawn += len(step_losses)
        # In units of the clip, within [0, 1] for every customer, as the noise on the sum assumes.
        parts = (step_losses / settings.training.loss_clip).nan_to_num(nan=1.0).clip(0.0, 1.0)
        total += float(parts.sum())
    if not update:
        update = {name: array - arrays[name] for name, array in trained_arrays(model).items()}
    return Trained(update=update, drawn=drawn, losses=total, steps=steps)


def check_ready(node: Node, model: nn.Module, settings: RunSettings, number: int) -> None:
    """Check that the store's data can be read, and that clipping is exact on them.

    Args:
        node: The store.
        model: The task's model; its trained parameters are restored after the check.
        settings: The run's settings.
        number: The round, from 1.

    Raises:
        DataError: The data cannot be read.
        PrivacyError [inexact-clipping]: See `ensure_exact`.
    """
    work = _work(node, model, settings)
    lots = work.generator(number, Randomness.EXACTNESS_CHECK)
    ensure_exact(node, work.task, model, work.available_data, settings, lots)


@flushing_subnormals
def train_alone(node: Node, model: nn.Module, settings: RunSettings) -> None:
    """Train `model` in place on this store's customers alone, without noise, for a run's steps.

    This is what a store could do without the federation. With `federation.patience` training
    stops early, and the model is that of the best round.

    Raises:
        EmptyStore, DataError [too-few-customers]: See `check_size`.
    """
    check_size(node.name, task_of(settings.task).load_data(node), settings)
    work = _work(node, model, settings)
    rounds, steps = settings.federation.rounds, settings.training.local_steps
    optimizer = _non_private_optimizer(work)
    patience, every = settings.federation.patience, settings.federation.evaluate_every
    stopping = None if patience is None else EarlyStopping(patience)
    for number in range(1, rounds + 1):
        losses = torch.zeros(0)
        for draw in _samples(work, number):
            losses = _non_private_step(optimizer, work, draw, number)
        mean = float(losses.mean()) if len(losses) else 0.0
        node.log(round=number, step=steps, steps=steps, loss=mean)
        if stopping is not None and (number % every == 0 or number == rounds):
            figures = work.task.evaluate(work.task.load_data(node), model, settings, "validate")
            if stopping.is_enough(validation_score(figures), trained_arrays(model)):
                break
    if stopping is not None and stopping.best is not None:
        load_arrays(model, stopping.best)


def training_data(node: Node, settings: RunSettings) -> StoreData:
    """The data that training may read: before training ends, of people whose home this store is.

    Raises:
        ConfigError: See `at_home`.
    """
    task = task_of(settings.task)
    return at_home(node, task.training_data(task.load_data(node), settings), settings)


def at_home(node: Node, data: StoreData, settings: RunSettings) -> StoreData:
    """Restrict data to people whose home is this store, if `privacy.one_home` is set.

    Raises:
        ConfigError: `privacy.one_home` is set, and the node has no manifest that lists the stores.
    """
    if not settings.privacy.one_home:
        return data
    if node.enrolment is None:
        raise ConfigError(
            "privacy.one_home needs a manifest that lists the stores",
            hint="leave secure aggregation on",
        )
    stores = node.enrolment.manifest.stores
    return data.at_home(stores.index(node.enrolment.certificate.store_id), len(stores))


def check_size(name: str, data: StoreData, settings: RunSettings) -> None:
    """Refuse to train without privacy on too few customers.

    Raises:
        EmptyStore: No customer has data before training ends.
        DataError [too-few-customers]: Fewer than `data.min_customers` customers have.
    """
    task = task_of(settings.task)
    count = len(task.training_data(data, settings).active())
    needed = settings.data.min_customers
    if count == 0:
        raise EmptyStore(
            f"store {name!r} has no {task.training_ends(settings)}",
            hint="check where the split ends training against the store's data",
        )
    if count < needed:
        raise DataError(
            f"store {name!r} has {count} customer{'s' if count > 1 else ''} to train on, "
            f"and data.min_customers={needed}",
            code="too-few-customers",
            hint="join it to a neighbouring store, or lower data.min_customers",
        )


def load_arrays(model: nn.Module, arrays: Mapping[str, Any]) -> None:
    """Copy named arrays into the model's parameters; subnormal numbers become zero.

    A model that computes something from its released sums does so then (its method `absorb`).
    """
    # Subnormal weights would make the time of a step depend on the data (`subnormals`).
    parameters = dict(model.named_parameters())
    least = np.finfo(np.float32).tiny
    with torch.no_grad():
        for name, array in arrays.items():
            values = np.array(array, dtype=np.float32)
            values[np.abs(values) < least] = 0.0
            parameters[name].copy_(torch.from_numpy(values))
    absorb = getattr(model, "absorb", None)
    if absorb is not None:
        absorb()


def trained_arrays(model: nn.Module) -> Arrays:
    """Copies of the trained parameters by name, sorted by name."""
    named = sorted((n, p) for n, p in model.named_parameters() if p.requires_grad)
    return {name: p.detach().cpu().numpy().astype(np.float32, copy=True) for name, p in named}


def _work(
    node: Node, model: nn.Module, settings: RunSettings, attempt: int = 1, *, empty: bool = False
) -> _Work:
    task = task_of(settings.task)
    task.freeze(model, settings)
    data = None if empty else training_data(node, settings)
    return _Work(node=node, task=task, model=model, data=data, settings=settings, attempt=attempt)


def _private_steps(
    work: _Work, plan: PrivacyPlan, number: int, proximal_mu: float
) -> Iterator[Tensor]:
    """DP-SGD (Abadi et al. 2016) with customers as examples; yields each step's losses [B]."""
    start = [p.detach().clone() for p in work.trained]
    rate = work.settings.training.learning_rate * work.settings.learning_rate_decay(number)
    optimizer = KeystreamOptimizer(
        torch.optim.SGD(work.trained, lr=rate),
        noise_multiplier=plan.noise_multiplier,
        max_grad_norm=plan.store_clip,
        expected_batch_size=work.settings.training.expected_batch_size,
        randomness=work.generator(number, Randomness.STEP_NOISE),
    )
    with customer_clipper(work.model, plan.store_clip) as clipper:
        for draw in _samples(work, number):
            losses = _clipped_sum(clipper, work, draw)
            optimizer.step()
            optimizer.zero_grad()
            _pull_back(work.trained, start, proximal_mu * rate)
            yield losses


def _gradient_sum(work: _Work, plan: PrivacyPlan, number: int, update: Arrays) -> Iterator[Tensor]:
    """Store one sum of clipped gradients in `update`; yields the losses [B].

    Noise is added later, to the quantised integers. FedProx's proximal term is zero here, since
    the model has not moved.
    """
    with customer_clipper(work.model, plan.store_clip) as clipper:
        for draw in _samples(work, number):
            losses = _clipped_sum(clipper, work, draw)
            for name, parameter in sorted(work.model.named_parameters()):
                if parameter.requires_grad:
                    gradient = parameter.grad
                    zero = np.zeros(tuple(parameter.shape), np.float32)
                    # Copied: the array shares the gradient's memory.
                    update[name] = zero if gradient is None else gradient.numpy().copy()
            work.model.zero_grad(set_to_none=True)
            yield losses


def _clipped_sum(clipper: BookKeeping, work: _Work, draw: Draw) -> Tensor:
    """Add the customers' clipped gradients to `parameter.grad`; return their losses [B].

    Edge cases:
        Without customers the sum is zero and the step is noise alone, as the accounting of
        Poisson sampling assumes.
    """
    losses = [torch.zeros(0)]
    for part in _parts(work, draw):
        loss = work.task.losses(work.model, part, work.settings)
        clipper.backward(loss)
        losses.append(loss.detach())
    return torch.cat(losses)


def _non_private_steps(work: _Work, number: int, proximal_mu: float) -> Iterator[Tensor]:
    """Steps without per-customer clip and noise; yields each step's losses [B]."""
    start = [p.detach().clone() for p in work.trained]
    optimizer = _non_private_optimizer(work)
    rate = work.settings.training.non_private_learning_rate * work.settings.learning_rate_decay(
        number
    )
    for draw in _samples(work, number):
        yield _non_private_step(optimizer, work, draw, number)
        _pull_back(work.trained, start, proximal_mu * rate)


def _pull_back(trained: list[nn.Parameter], start: list[Tensor], amount: float) -> None:
    """FedProx's proximal term (Li et al. 2020) as a separate step, which depends on no data."""
    if amount:
        with torch.no_grad():
            for parameter, old in zip(trained, start, strict=True):
                parameter.lerp_(old, min(amount, 1.0))


def _non_private_optimizer(work: _Work) -> torch.optim.Optimizer:
    training = work.settings.training
    kind = torch.optim.Adam if training.non_private_optimizer == "adam" else torch.optim.SGD
    return kind(work.trained, lr=training.non_private_learning_rate)


def _non_private_step(
    optimizer: torch.optim.Optimizer, work: _Work, draw: Draw, number: int
) -> Tensor:
    """Step along the mean gradient of the customers drawn; return their losses [B]."""
    # The mean and not a sum over a constant, as under privacy: without a clip the largest store
    # takes ten times the smallest one's steps, and the run diverges (docs/lab-notes.md).
    for group in optimizer.param_groups:
        group["lr"] = (
            work.settings.training.non_private_learning_rate
            * work.settings.learning_rate_decay(number)
        )
    optimizer.zero_grad()
    losses = [torch.zeros(0)]
    for part in _parts(work, draw):
        loss = work.task.losses(work.model, part, work.settings)
        (loss.sum() / len(draw)).backward()
        losses.append(loss.detach())
    torch.nn.utils.clip_grad_norm_(work.trained, 1.0)
    optimizer.step()
    return torch.cat(losses)


def _parts(work: _Work, draw: Draw) -> Iterator[Batch]:
    """Batches of a step's customers, as many at a time as fit in memory."""
    size = work.task.rows_at_once(work.model)
    for first in range(0, len(draw), size):
        yield work.task.collate(work.available_data, draw.rows(first, first + size), work.model)


class _EmptyDraw:
    """The sample of a step without customers."""

    customers = np.empty(0, np.int64)

    def __len__(self) -> int:
        return 0

    def rows(self, start: int, stop: int) -> _EmptyDraw:
        return self


def _samples(work: _Work, number: int) -> Iterator[Draw]:
    """Yield `training.local_steps` Poisson samples of the store's customers."""
    if work.data is None:
        yield from [_EmptyDraw()] * work.settings.training.local_steps
        return
    customers = work.data.active()
    rng = work.generator(number, Randomness.EXAMPLES)
    # A stream of its own, which stays secret: amplification by sampling assumes that it is
    # not known who was drawn.
    lot = work.generator(number, Randomness.SAMPLE)
    for _ in range(work.settings.training.local_steps):
        # Each customer independently, so that the sample's size is random: the accountant counts
        # Poisson sampling, not batches of a fixed size.
        drawn = customers[lot.random(len(customers)) < work.settings.training.sample_rate]
        yield work.task.draw(work.data, drawn, work.model, work.settings, rng)
