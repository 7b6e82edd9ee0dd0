"""One round of training at a store: sample customers, clip each, add noise, step.

What is learnt is the task's that the settings name; all that privacy rests on is here. The
update is a sum over customers divided by a public constant, never by the store's true size or
batch, so that neither can be read off it.
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
    """What a round works on: one store's customers, and the model of the run's task."""

    node: Node
    task: Task
    model: nn.Module
    data: StoreData | None
    """None where nobody's data are looked at."""
    settings: RunSettings
    attempt: int = 1

    @property
    def known(self) -> StoreData:
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

    What it costs is charged by whoever lets the result leave the store, before it does.

    Args:
        node: The store.
        model: The task's, of the right shape; it is overwritten with `arrays`.
        settings: The run's.
        arrays: Trained parameters of the global model, by name.
        number: The round, from 1.
        proximal_mu: FedProx's pull towards the global model.
        attempt: At the round; a second one draws other customers and other noise.
        noise_alone: Look at no data: what a store with privacy sends whose data cannot be used.

    Returns:
        The change of the trained parameters in `training.local_steps` steps or, in mode
        `distributed`, the sum of clipped gradients, which has no noise yet; and exact counts
        and losses. None of it but a change in mode `local` may leave the store as it is.

    Raises:
        PrivacyError: The plan cannot be kept, or clipping is not exact here.
        EmptyStore, DataError [too-few-customers]: Without privacy, see `check_size`.

    Edge cases:
        With privacy a store answers whether it has customers or not: an empty one adds noise
        alone. Were it to refuse, the coordinator would learn exactly when it crosses a limit.
    """
    # 1. The global model, and the customers who were here before training ends.
    load_arrays(model, arrays)
    plan = PrivacyPlan.from_settings(settings)
    if plan is None:
        check_size(node.name, task_of(settings.task).load_data(node), settings)
    if plan is not None and not noise_alone:
        # 2. Clipping is proven exact before this store's first private step of this model.
        check_ready(node, model, settings, number)
    work = _work(node, model, settings, attempt, empty=noise_alone)
    # 3. A few steps, each on a Poisson sample of customers.
    update: Arrays = {}
    if plan is None:
        losses = _non_private_steps(work, number, proximal_mu)
    elif plan.mode == "local":
        losses = _private_steps(work, plan, number, proximal_mu)
    else:
        losses = _gradient_sum(work, plan, number, update)
    drawn, total, steps = 0, 0.0, settings.training.local_steps
    for step, found in enumerate(losses, start=1):
        mean = float(found.mean()) if len(found) else 0.0
        node.log(round=number, step=step, steps=steps, loss=mean)
        drawn += len(found)
        parts = (found / settings.training.loss_clip).nan_to_num(nan=1.0).clip(0.0, 1.0)
        total += float(parts.sum())
    if not update:
        update = {name: array - arrays[name] for name, array in trained_arrays(model).items()}
    return Trained(update=update, drawn=drawn, losses=total, steps=steps)


def check_ready(node: Node, model: nn.Module, settings: RunSettings, number: int) -> None:
    """Check that the store's data can be read, and are clipped exactly.

    Args:
        node: The store.
        model: The task's; what is trained of it is put back after the check.
        settings: The run's.
        number: The round.

    Raises:
        DataError: The data cannot be read.
        PrivacyError [inexact-clipping]: See `ensure_exact`.
    """
    work = _work(node, model, settings)
    lots = work.generator(number, Randomness.EXACTNESS_CHECK)
    ensure_exact(node, work.task, model, work.known, settings, lots)


@flushing_subnormals
def train_alone(node: Node, model: nn.Module, settings: RunSettings) -> None:
    """Train on this store's customers only, without noise, for as many steps as a whole run.

    The model is left trained; what a store could do without the federation. With
    `federation.patience` it is that of the best round, and later ones are not made.
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
    """What training may look at: the time before it ends, of people at home here.

    Raises:
        ConfigError: Each person has one home, and this store does not know theirs.
    """
    task = task_of(settings.task)
    return at_home(node, task.training_data(task.load_data(node), settings), settings)


def at_home(node: Node, known: StoreData, settings: RunSettings) -> StoreData:
    """What of it may leave the store in a sum: all, or of people at home here.

    Raises:
        ConfigError: Each person has one home, and this store does not know theirs.
    """
    if not settings.privacy.one_home:
        return known
    if node.enrolment is None:
        raise ConfigError(
            "privacy.one_home goes with a manifest that lists the stores",
            hint="leave secure aggregation on",
        )
    stores = node.enrolment.manifest.stores
    return known.at_home(stores.index(node.enrolment.certificate.store_id), len(stores))


def check_size(name: str, data: StoreData, settings: RunSettings) -> None:
    """Refuse a store that is too small to train.

    Raises:
        EmptyStore: No customer has anything to learn from before training ends.
        DataError [too-few-customers]: Fewer than `data.min_customers` have.
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
    """Copy named arrays into the model's parameters; subnormal numbers become zero."""
    parameters = dict(model.named_parameters())
    least = np.finfo(np.float32).tiny
    with torch.no_grad():
        for name, array in arrays.items():
            values = np.array(array, dtype=np.float32)
            values[np.abs(values) < least] = 0.0
            parameters[name].copy_(torch.from_numpy(values))


def trained_arrays(model: nn.Module) -> Arrays:
    """The trained parameters by name, in the order of their names."""
    named = sorted((n, p) for n, p in model.named_parameters() if p.requires_grad)
    return {name: p.detach().numpy().astype(np.float32, copy=True) for name, p in named}


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
    """DP-SGD (Abadi et al. 2016), one customer one example; yields each step's losses [B]."""
    start = [p.detach().clone() for p in work.trained]
    rate = work.settings.training.learning_rate * work.settings.fading(number)
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
    """One sum of clipped gradients, into `update`; yields the losses [B].

    The noise comes later, on the quantised integers. The proximal term of FedProx is zero
    here: the model has not moved.
    """
    with customer_clipper(work.model, plan.store_clip) as clipper:
        for draw in _samples(work, number):
            losses = _clipped_sum(clipper, work, draw)
            for name, parameter in sorted(work.model.named_parameters()):
                if parameter.requires_grad:
                    found = parameter.grad
                    zero = np.zeros(tuple(parameter.shape), np.float32)
                    update[name] = zero if found is None else found.numpy().copy()
            work.model.zero_grad(set_to_none=True)
            yield losses


def _clipped_sum(clipper: BookKeeping, work: _Work, draw: Draw) -> Tensor:
    """Add the customers' clipped gradients up in `parameter.grad`; return their losses [B].

    Edge cases:
        Nobody was drawn: the sum is zero, and a step is noise alone, as the accounting
        assumes.
    """
    losses = [torch.zeros(0)]
    for part in _parts(work, draw):
        loss = work.task.losses(work.model, part, work.settings)
        clipper.backward(loss)
        losses.append(loss.detach())
    return torch.cat(losses)


def _non_private_steps(work: _Work, number: int, proximal_mu: float) -> Iterator[Tensor]:
    """Steps without clip and noise; yields each step's losses [B]."""
    start = [p.detach().clone() for p in work.trained]
    optimizer = _non_private_optimizer(work)
    rate = work.settings.training.non_private_learning_rate * work.settings.fading(number)
    for draw in _samples(work, number):
        yield _non_private_step(optimizer, work, draw, number)
        _pull_back(work.trained, start, proximal_mu * rate)


def _pull_back(trained: list[nn.Parameter], start: list[Tensor], amount: float) -> None:
    """FedProx's proximal term (Li et al. 2020), as a step of its own: it looks at no data."""
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
    """Step along the mean gradient of the customers drawn; return their losses [B].

    By sums, as under privacy, the largest store would take steps ten times the smallest's,
    and nothing would clip them: that federation diverges.
    """
    for group in optimizer.param_groups:
        group["lr"] = work.settings.training.non_private_learning_rate * work.settings.fading(
            number
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
    """A step's customers, as many at a time as fit in memory."""
    size = work.task.rows_at_once(work.model)
    for first in range(0, len(draw), size):
        yield work.task.collate(work.known, draw.rows(first, first + size), work.model)


class _Nobody:
    """A step that nobody was drawn for."""

    customers = np.empty(0, np.int64)

    def __len__(self) -> int:
        return 0

    def rows(self, start: int, stop: int) -> _Nobody:
        return self


def _samples(work: _Work, number: int) -> Iterator[Draw]:
    """Poisson samples of the store's customers, `local_steps` of them, by secret lots."""
    if work.data is None:
        yield from [_Nobody()] * work.settings.training.local_steps
        return
    customers = work.data.active()
    rng = work.generator(number, Randomness.EXAMPLES)
    lot = work.generator(number, Randomness.SAMPLE)
    for _ in range(work.settings.training.local_steps):
        drawn = customers[lot.random(len(customers)) < work.settings.training.sample_rate]
        yield work.task.draw(work.data, drawn, work.model, work.settings, rng)
