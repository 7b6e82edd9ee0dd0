"""Training and evaluation by a Flower ClientApp of somebody else, within one order.

The app's own function for `train` or `evaluate` is called as Flower would call it. What it
releases is made by one call within it, which knows the order and the signed terms:

    @app.train()
    def train(message, context):
        clipped_sum(Net(), loss, (images, labels))     # Hanse: sample, clip, sum
        return Message(RecordDict(), reply_to=message)

    @app.evaluate()
    def evaluate(message, context):
        customer_sums(accuracy=correct)                # Hanse: one number a customer
        return Message(RecordDict(), reply_to=message)

With privacy, what the app returns itself is not used. With masks alone, the change of the
reply's arrays is what training releases.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from hanse_client.clipping.exactness import model_key
from hanse_client.guard import Admitted, Order
from hanse_client.node import Node, Randomness
from hanse_common.durable import write_durably
from hanse_common.errors import ConfigError, FederationError, PolicyViolation
from hanse_common.paths import CLIPPING_CHECK_FILE
from hanse_common.phases import EVALUATE, TRAIN, trained
from hanse_common.privacy.plan import PrivacyPlan
from hanse_common.secagg.layout import Integers
from hanse_common.settings_files import read_json
from hanse_common.vector import Trained, evaluation_names

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_log = logging.getLogger(__name__)
BatchT = TypeVar("BatchT")
NDArray = npt.NDArray[Any]

_ROWS_AT_ONCE = 256
"""Customers whose gradients are computed together; it affects speed and memory only."""
_CHECKED = 6
"""Customers on whom the exactness of clipping is checked."""


@dataclass(kw_only=True, slots=True)
class _Step:
    """One call of the app within an order, and what was released in it."""

    node: Node
    order: Order
    plan: PrivacyPlan | None
    arrays: Mapping[str, NDArray]
    """The trained arrays that the app sees."""
    check: bool = False
    """Whether clipping is checked, and nothing released."""
    checked: bool = False
    training: Trained | None = None
    sums: dict[str, float] = field(default_factory=dict)


_STEP: ContextVar[_Step] = ContextVar("hanse_step")


def clipped_sum(
    model: nn.Module, loss: Callable[[nn.Module, BatchT], Tensor], batch: BatchT
) -> dict[str, NDArray]:
    """Release the sum of the customers' clipped gradients, on a Poisson sample of them.

    The federation's current weights are loaded into the model first; sampling rate and clip are
    those of the signed terms.

    Args:
        model: The model; its parameters with `requires_grad` must be the terms' arrays.
        loss: Returns the losses [B] of a part of the batch, one a customer, each a function of
            that customer's row alone.
        batch: All of the store's training data: a tensor, or a tuple, list or mapping of
            tensors, whose first dimension is the customers'. One row is one customer.

    Returns:
        The sum by parameter. It has no noise and must not leave the store; the masked vector
        that leaves has it with its noise.

    Raises:
        ConfigError: It was not called within an app under `hanse_client.secure`, or the terms
            have no privacy, or not mode `distributed`.
        PolicyViolation: The model trains other arrays than the terms name.
        PrivacyError [inexact-clipping]: A layer cannot be clipped per customer.

    Guarantees:
        Adding or removing one row changes the sum by at most the clip.
        The first call under a combination of terms and library versions compares the clipped
        gradients of a few rows with gradients computed one row at a time.
    """
    import torch

    from hanse_client.clipping.per_customer import check_exactness, customer_clipper
    from hanse_client.training.train import load_arrays

    step = _current()
    if step.plan is None or step.plan.mode != "distributed":
        raise ConfigError(
            "clipped_sum needs terms with privacy.mode = 'distributed'",
            hint="with masks alone, return the trained arrays as Flower's examples do",
        )
    parameters = {n: p for n, p in sorted(model.named_parameters()) if p.requires_grad}
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    agreed = {name: tuple(array.shape) for name, array in sorted(step.arrays.items())}
    if shapes != agreed:
        name = next(iter(dict(shapes.items() ^ agreed.items())))
        raise PolicyViolation(
            f"the app trains {name!r} with shape {shapes.get(name)}, the terms say "
            f"{agreed.get(name)}",
            hint="train what the terms were made from, or have new terms signed",
        )
    # A model on an accelerator gets its rows there; the data stay where they are.
    rows = _Rows(batch, next(iter(parameters.values())).device if parameters else None)
    load_arrays(model, step.arrays)
    if step.check:
        lots = step.node.generator(0, Randomness.EXACTNESS_CHECK)
        drawn = lots.permutation(len(rows))[:_CHECKED]
        if len(drawn):
            check_exactness(model, rows[drawn], losses=lambda part: loss(model, part.content))
            step.checked = True
        return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    instructions = step.order.instructions
    number, attempt = instructions.round, instructions.attempt
    lot = step.node.generator(number, Randomness.SAMPLE, attempt=attempt)
    drawn = np.flatnonzero(lot.random(len(rows)) < step.plan.sample_rate)
    losses = [torch.zeros(0)]
    with customer_clipper(model, step.plan.store_clip) as clipper:
        for start in range(0, len(drawn), _ROWS_AT_ONCE):
            part = loss(model, rows[drawn[start : start + _ROWS_AT_ONCE]].content)
            clipper.backward(part)
            losses.append(part.detach().cpu())
        update = {
            name: np.zeros(shapes[name], np.float32) if p.grad is None else p.grad.cpu().numpy()
            for name, p in parameters.items()
        }
        update = {name: array.copy() for name, array in update.items()}
    model.zero_grad(set_to_none=True)
    _released_once(step.training is None)
    clip = step.order.settings.training.loss_clip
    bounded = (torch.cat(losses) / clip).nan_to_num(nan=1.0).clip(0.0, 1.0)
    step.training = Trained(update=update, drawn=len(drawn), losses=float(bounded.sum()), steps=1)
    mean = float(torch.cat(losses).mean()) if len(drawn) else 0.0
    step.node.log(round=number, step=1, steps=1, loss=mean)
    return {name: array.copy() for name, array in update.items()}


def customer_sums(**metrics: Any) -> dict[str, float]:
    """Release sums over the store's customers, one number in [0, 1] from each.

    Args:
        metrics: By the names that the terms list in `metrics`: the customers' numbers [N].
            Numbers outside [0, 1] are clipped, and NaN counts as 0.

    Returns:
        The sums, with the number of customers; as for `clipped_sum`, they have no noise yet.

    Raises:
        ConfigError: The names are not those of the terms, or the lengths differ.
    """
    step = _current()
    values = {name: np.asarray(value, np.float64).ravel() for name, value in metrics.items()}
    agreed, sizes = sorted(step.order.settings.metrics), {len(each) for each in values.values()}
    if sorted(values) != agreed or len(sizes) != 1:
        raise ConfigError(
            f"customer_sums has {sorted(values)} of lengths {sorted(sizes)}, the terms say "
            f"metrics={agreed}",
            hint="give one number for each customer and metric",
        )
    _released_once(not step.sums)
    bounded = {n: np.nan_to_num(v, nan=0.0).clip(0.0, 1.0) for n, v in values.items()}
    step.sums = {"customers": float(sizes.pop()), **{n: float(v.sum()) for n, v in bounded.items()}}
    return dict(step.sums)


@dataclass(frozen=True, slots=True)
class OwnApp:
    """The `Learner` of an app of somebody else; see `hanse_client.rounds.local_update`."""

    app: ClientApp
    message: Message
    context: Context

    def current(self, admitted: Admitted, order: Order) -> None:
        """See `Learner`; the app reads its data itself, each time."""

    def ready(self, admitted: Admitted, order: Order) -> None:
        """Call the app once on public weights before its first private step; see `Learner`.

        An error of the app shows itself here. Later ones are answered with noise alone, since a
        coordinator could choose weights for which certain customers cause one.
        """
        if order.charge is None or order.kind != TRAIN:
            return
        node, bundle = admitted.node, str(self.context.node_config.get("bundle-digest", ""))
        arrays = trained(order.arrays)
        key = model_key(
            {name: list(array.shape) for name, array in sorted(arrays.items())},
            order.settings,
            app=bundle,
        )
        record = node.folder / CLIPPING_CHECK_FILE
        known = read_json(record) if record.exists() else {}
        if key in known:
            return
        random = np.random.default_rng(1)
        public = {n: random.normal(0, 0.05, a.shape).astype(np.float32) for n, a in arrays.items()}
        step = self._call(admitted, order, public, check=True)
        if step.checked:
            # Recorded only after the check has passed: a crash before repeats the check.
            write_durably(record, json.dumps({**known, key: {"app": True}}) + "\n")

    def vector(self, admitted: Admitted, order: Order, *, noise_alone: bool = False) -> Integers:
        """See `Learner`."""
        from hanse_client.rounds.local_update import evaluation_vector, training_vector

        node, manifest = admitted.node, admitted.enrolment.manifest
        plan = PrivacyPlan.from_settings(order.settings)
        exchange, attempt = order.instructions.exchange, order.instructions.attempt
        if order.kind == EVALUATE:
            names = evaluation_names(order.settings.task, order.settings.metrics)
            sums = dict.fromkeys(names, 0.0)
            if not noise_alone:
                found = self._call(admitted, order, order.arrays).sums
                _require(bool(found), "evaluation released no customer_sums")
                sums = {name: found[name] for name in names}
            return evaluation_vector(
                node, sums, manifest, plan=plan, exchange=exchange, attempt=attempt
            )
        _require(order.kind == TRAIN, f"phase {order.kind!r} releases statistics")
        result = self._nothing(order)
        if not noise_alone:
            training = self._call(admitted, order, order.arrays).training
            _require(training is not None, "training released no clipped_sum")
            result = training or result
        return training_vector(
            node, result, manifest, plan=plan, exchange=exchange, attempt=attempt
        )

    def _nothing(self, order: Order) -> Trained:
        zeros = {name: np.zeros(a.shape, np.float32) for name, a in trained(order.arrays).items()}
        return Trained(update=zeros, drawn=0, losses=0.0, steps=1)

    def _call(
        self,
        admitted: Admitted,
        order: Order,
        arrays: Mapping[str, NDArray],
        *,
        check: bool = False,
    ) -> _Step:
        """Call the app on a copy of the message, and return what it released."""
        step = _Step(
            node=admitted.node,
            order=order,
            plan=PrivacyPlan.from_settings(order.settings),
            arrays=trained(arrays),
            check=check,
        )
        sent = ArrayRecord({name: Array(np.asarray(array)) for name, array in arrays.items()})
        content = RecordDict({**self.message.content, "arrays": sent})
        ours = self.message.content
        token = _STEP.set(step)
        try:
            # The same message with other arrays: it keeps the numbers that a reply refers to.
            self.message.content = content
            reply = self.app(self.message, self.context)
        finally:
            self.message.content = ours
            _STEP.reset(token)
        if reply.has_error():
            raise FederationError(f"the app failed: {reply.error.reason}")
        if step.plan is None and order.kind == TRAIN:
            step.training = _change(reply, step.arrays)
        return step


def _change(reply: Message, arrays: Mapping[str, NDArray]) -> Trained:
    """What training releases with masks alone: the change of the reply's arrays."""
    record = next((r for r in reply.content.values() if isinstance(r, ArrayRecord)), None)
    returned = {name: array.numpy() for name, array in (record or {}).items()}
    _require(set(returned) == set(arrays), "training returned other arrays than it was sent")
    metrics = next((r for r in reply.content.values() if isinstance(r, MetricRecord)), None)
    count = 0 if metrics is None else metrics.get("num-examples", 0)
    return Trained(
        update={name: returned[name] - array for name, array in arrays.items()},
        drawn=int(count) if isinstance(count, int | float) else 0,
        losses=0.0,
        steps=1,
    )


class _Rows:
    """A batch of any nesting of tensors, by rows; `hanse_client.tasks.base.Batch`."""

    def __init__(self, content: Any, device: torch.device | None = None) -> None:
        self.content, self._device = content, device

    def __len__(self) -> int:
        first = self.content
        while isinstance(first, list | tuple | Mapping):
            first = next(iter(first.values())) if isinstance(first, Mapping) else first[0]
        return len(first)

    def __getitem__(self, indices: Any) -> _Rows:
        return _Rows(_pick(self.content, indices, self._device), self._device)

    def rows(self, start: int, stop: int) -> _Rows:
        """The rows of a slice."""
        return self[slice(start, stop)]


def _pick(content: Any, indices: Any, device: torch.device | None) -> Any:
    if isinstance(content, Mapping):
        return {name: _pick(part, indices, device) for name, part in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(_pick(part, indices, device) for part in content)
    picked = content[indices]
    return picked if device is None else picked.to(device)


def _current() -> _Step:
    step = _STEP.get(None)
    if step is None:
        raise ConfigError(
            "there is no order to release anything",
            hint="call it within a function of `app = hanse_client.secure(ClientApp())`",
        )
    return step


def _released_once(first: bool) -> None:
    # A second sum would have no noise and no charge of its own.
    _require(first, "it released twice in one exchange")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ConfigError(f"the app cannot take part: {what}", hint="correct the app's code")
