"""One round of training at a store: sample customers, clip each, add noise, step.

The update is a sum over customers divided by a public constant, never by the store's true
size or batch, so that neither can be read off it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hanse_client.batches import Anchors, collate, rows_at_once, training_anchors
from hanse_client.bookkeeping import BookKeeping
from hanse_client.clipping import check_exactness, customer_clipper
from hanse_client.histories import Histories, days
from hanse_client.node import Node
from hanse_client.optimizer import KeystreamOptimizer
from hanse_client.vector import Trained
from hanse_common.config import RunSettings
from hanse_common.durable import write_durably
from hanse_common.errors import ConfigError, EmptyStore, TooFewCustomers
from hanse_common.model import Batch, InterestModel, customer_losses
from hanse_common.privacy.plan import PrivacyPlan

Arrays = dict[str, npt.NDArray[np.float32]]
_CHECKED = 4

# What a draw of the node's generator is for; see `vector.py` for the others.
_ANCHORS, _SAMPLE, _NOISE = 0, 1, 2


def train_round(
    node: Node,
    model: InterestModel,
    settings: RunSettings,
    arrays: Mapping[str, Any],
    number: int,
    *,
    proximal_mu: float = 0.0,
) -> Trained:
    """Train on the store's customers for one round.

    What it costs is charged by whoever lets the result leave the store, before it does.

    Args:
        node: The store.
        model: Anything of the right shape; it is overwritten with `arrays`.
        settings: The run's.
        arrays: Trained parameters of the global model, by name.
        number: The round, from 1.
        proximal_mu: FedProx's pull towards the global model.

    Returns:
        The change of the trained parameters in `training.local_steps` steps or, in mode
        `distributed`, the sum of clipped gradients, which has no noise yet; and exact counts
        and losses. None of it but a change in mode `local` may leave the store as it is.

    Raises:
        PrivacyError: The plan cannot be kept, or clipping is not exact here.
        TooFewCustomers: The store is too small to train.
    """
    # 1. The global model, and the customers who were here before training ends.
    load_arrays(model, arrays)
    model.train_only(settings.model.trainable)
    data = training_histories(node, settings)
    plan = PrivacyPlan.from_settings(settings)
    if plan is not None:
        # 2. Clipping is proven exact once, before this store's first private step.
        _ensure_exact(node, model, data, settings)
    # 3. A few steps, each on a Poisson sample of customers.
    update: Arrays = {}
    if plan is None:
        losses = _open_steps(node, model, data, settings, number, proximal_mu)
    elif plan.mode == "local":
        losses = _private_steps(node, model, data, settings, plan, number, proximal_mu)
    else:
        losses = _gradient_sum(node, model, data, settings, plan, number, update)
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


def train_alone(node: Node, model: InterestModel, settings: RunSettings) -> None:
    """Train on this store's customers only, without noise, for as many steps as a whole run.

    The model is left trained; what a store could do without the federation.
    """
    model.train_only(settings.model.trainable)
    data = training_histories(node, settings)
    rounds, steps = settings.federation.rounds, settings.training.local_steps
    optimizer = _open_optimizer(model, settings)
    for number in range(1, rounds + 1):
        losses = torch.zeros(0)
        for anchors in _samples(node, data, settings, model, number):
            losses = _open_step(optimizer, model, data, anchors, settings, number)
        mean = float(losses.mean()) if len(losses) else 0.0
        node.log(round=number, step=steps, steps=steps, loss=mean)


def training_histories(node: Node, settings: RunSettings) -> Histories:
    """What training may look at: visits before `train_until`, of people at home here.

    Raises:
        ConfigError: Each person has one home, and this store does not know theirs.
        EmptyStore, TooFewCustomers: See `check_size`.
    """
    check_size(node.name, node.histories, settings)
    return at_home(node, node.histories.until(days(node_split(settings).train_until)), settings)


def at_home(node: Node, known: Histories, settings: RunSettings) -> Histories:
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


def check_size(name: str, histories: Histories, settings: RunSettings) -> None:
    """Refuse a store that is too small to train.

    Raises:
        EmptyStore: No customer has any visit before training ends.
        TooFewCustomers: Fewer than `data.min_customers` have.
    """
    first = histories.visit_days[histories.visit_offsets[histories.active()]]
    count = int((first < days(node_split(settings).train_until)).sum())
    needed = settings.data.min_customers
    if count == 0:
        raise EmptyStore(
            f"store {name!r} has no visit before {node_split(settings).train_until}",
            hint="check the dates of the split against the store's data",
        )
    if count < needed:
        raise TooFewCustomers(
            f"store {name!r} has {count} customer{'s' if count > 1 else ''} to train on, "
            f"and data.min_customers={needed}",
            hint="join it to a neighbouring store, or lower data.min_customers",
        )


def node_split(settings: RunSettings) -> Any:
    """The split that the run fixed."""
    if settings.data.split is None:
        raise EmptyStore("the run's settings fix no split", hint="set data.split")
    return settings.data.split


def load_arrays(model: InterestModel, arrays: Mapping[str, Any]) -> None:
    """Copy named arrays into the model's parameters."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, array in arrays.items():
            parameters[name].copy_(torch.from_numpy(np.array(array, dtype=np.float32)))


def trained_arrays(model: InterestModel) -> Arrays:
    """The trained parameters by name, in the order of their names."""
    named = sorted((n, p) for n, p in model.named_parameters() if p.requires_grad)
    return {name: p.detach().numpy().astype(np.float32, copy=True) for name, p in named}


def _private_steps(
    node: Node,
    model: InterestModel,
    data: Histories,
    settings: RunSettings,
    plan: PrivacyPlan,
    number: int,
    proximal_mu: float,
) -> Iterator[Tensor]:
    """DP-SGD (Abadi et al. 2016), one customer one example; yields each step's losses [B]."""
    trained = [p for p in model.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in trained]
    rate = settings.training.learning_rate * settings.fading(number)
    optimizer = KeystreamOptimizer(
        torch.optim.SGD(trained, lr=rate),
        noise_multiplier=plan.noise_multiplier,
        max_grad_norm=plan.store_clip,
        expected_batch_size=settings.training.expected_batch_size,
        randomness=node.generator(number, _NOISE),
    )
    with customer_clipper(model, plan.store_clip) as clipper:
        for anchors in _samples(node, data, settings, model, number):
            losses = _clipped_sum(clipper, model, data, anchors, settings)
            optimizer.step()
            optimizer.zero_grad()
            _pull_back(trained, start, proximal_mu * rate)
            yield losses


def _gradient_sum(
    node: Node,
    model: InterestModel,
    data: Histories,
    settings: RunSettings,
    plan: PrivacyPlan,
    number: int,
    update: Arrays,
) -> Iterator[Tensor]:
    """One sum of clipped gradients, into `update`; yields the losses [B].

    The noise comes later, on the quantised integers. The proximal term of FedProx is zero
    here: the model has not moved.
    """
    with customer_clipper(model, plan.store_clip) as clipper:
        for anchors in _samples(node, data, settings, model, number):
            losses = _clipped_sum(clipper, model, data, anchors, settings)
            for name, parameter in sorted(model.named_parameters()):
                if parameter.requires_grad:
                    found = parameter.grad
                    zero = np.zeros(tuple(parameter.shape), np.float32)
                    update[name] = zero if found is None else found.numpy().copy()
            model.zero_grad(set_to_none=True)
            yield losses


def _clipped_sum(
    clipper: BookKeeping,
    model: InterestModel,
    data: Histories,
    anchors: Anchors,
    settings: RunSettings,
) -> Tensor:
    """Add the customers' clipped gradients up in `parameter.grad`; return their losses [B].

    Edge cases:
        Nobody was drawn: the sum is zero, and a step is noise alone, as the accounting
        assumes.
    """
    losses = [torch.zeros(0)]
    for part in _parts(data, anchors, model):
        loss = _losses(model, part, settings)
        clipper.backward(loss)
        losses.append(loss.detach())
    return torch.cat(losses)


def _open_steps(
    node: Node,
    model: InterestModel,
    data: Histories,
    settings: RunSettings,
    number: int,
    proximal_mu: float,
) -> Iterator[Tensor]:
    """Steps without clip and noise; yields each step's losses [B]."""
    trained = [p for p in model.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in trained]
    optimizer = _open_optimizer(model, settings)
    rate = settings.training.open_learning_rate * settings.fading(number)
    for anchors in _samples(node, data, settings, model, number):
        yield _open_step(optimizer, model, data, anchors, settings, number)
        _pull_back(trained, start, proximal_mu * rate)


def _pull_back(trained: list[torch.nn.Parameter], start: list[Tensor], amount: float) -> None:
    """FedProx's proximal term (Li et al. 2020), as a step of its own: it looks at no data."""
    if amount:
        with torch.no_grad():
            for parameter, old in zip(trained, start, strict=True):
                parameter.lerp_(old, min(amount, 1.0))


def _open_optimizer(model: InterestModel, settings: RunSettings) -> torch.optim.Optimizer:
    trained = [p for p in model.parameters() if p.requires_grad]
    kind = torch.optim.Adam if settings.training.open_optimizer == "adam" else torch.optim.SGD
    return kind(trained, lr=settings.training.open_learning_rate)


def _open_step(
    optimizer: torch.optim.Optimizer,
    model: InterestModel,
    data: Histories,
    anchors: Anchors,
    settings: RunSettings,
    number: int,
) -> Tensor:
    """Step along the mean gradient of the customers drawn; return their losses [B].

    By sums, as under privacy, the largest store would take steps ten times the smallest's,
    and nothing would clip them: that federation diverges.
    """
    for group in optimizer.param_groups:
        group["lr"] = settings.training.open_learning_rate * settings.fading(number)
    optimizer.zero_grad()
    losses = [torch.zeros(0)]
    for part in _parts(data, anchors, model):
        loss = _losses(model, part, settings)
        (loss.sum() / len(anchors)).backward()
        losses.append(loss.detach())
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimizer.step()
    return torch.cat(losses)


def _losses(model: torch.nn.Module, batch: Batch, settings: RunSettings) -> Tensor:
    basket, outlook = customer_losses(
        model(batch), batch, outlook_weight=settings.training.outlook_weight
    )
    return basket + outlook


def _parts(data: Histories, anchors: Anchors, model: InterestModel) -> Iterator[Batch]:
    """A step's customers, as many at a time as fit in memory."""
    size = rows_at_once(model.config)
    for first in range(0, len(anchors), size):
        yield collate(data, anchors.rows(first, first + size), model.config)


def _samples(
    node: Node, data: Histories, settings: RunSettings, model: InterestModel, number: int
) -> Iterator[Anchors]:
    """Poisson samples of the store's customers, `local_steps` of them, by secret lots."""
    customers = data.active()
    rng, lot = node.generator(number, _ANCHORS), node.generator(number, _SAMPLE)
    for _ in range(settings.training.local_steps):
        yield training_anchors(
            data,
            customers[lot.random(len(customers)) < settings.training.sample_rate],
            count=settings.training.anchors,
            until=days(node_split(settings).train_until),
            config=model.config,
            rng=rng,
        )


def _ensure_exact(node: Node, model: InterestModel, data: Histories, settings: RunSettings) -> None:
    """Check clipping on a few of the store's customers unless this store already has."""
    record = node.folder / "clipping-check.json"
    if record.exists():
        return
    anchors = training_anchors(
        data,
        data.active()[:_CHECKED],
        count=settings.training.anchors,
        until=days(node_split(settings).train_until),
        config=model.config,
        rng=np.random.default_rng(0),
    )
    worst = check_exactness(
        model,
        collate(data, anchors, model.config),
        outlook_weight=settings.training.outlook_weight,
    )
    write_durably(record, f'{{"customers": {len(anchors)}, "worst_relative_error": {worst:.3g}}}')
