"""Training examples of the category tokens: customers at past moments.

Under privacy every customer is seen at the same few moments, four weeks apart and counted back
from the end of training, so that horizons do not overlap. Then what the frozen base makes of
them is the same in every round, and is kept in memory: a round is one matrix product. Without
privacy, where the base is trained too, moments are drawn at random.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from hanse_client.features.cut_histories import CutHistories
from hanse_client.features.histories import Histories
from hanse_client.features.ragged import Ints, offsets_of, ranges
from hanse_client.tasks.interest.category_model import UNKNOWN
from hanse_client.tasks.interest.category_outlook import CategoryOutlook
from hanse_client.tasks.interest.category_tokens import (
    HORIZON_DAYS,
    REFERENCE_DAYS,
    CategoryTokens,
    Days,
    TokenTargets,
    category_tokens,
    token_targets,
)
from hanse_client.tasks.interest.token_batch import (
    HeadBatch,
    TokenBatch,
    batch_of,
    token_batch,
)

PAST_MOMENTS: Final = 6
"""One customer is the mean over so many moments."""
_STORES = 16
"""Stores whose examples a process keeps; the oldest goes first."""
_AT_ONCE = 256
"""Customers' moments that go through the base together, to bound memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PastDraw:
    """Customers drawn for a step, and the moments from which they are to be predicted."""

    customers: Ints
    """[R] indices into the histories."""
    moments: Days
    """[R, P] days since 1970."""

    def __len__(self) -> int:
        return len(self.customers)

    def rows(self, start: int, stop: int) -> PastDraw:
        """The rows of a slice."""
        return PastDraw(customers=self.customers[start:stop], moments=self.moments[start:stop])


def past_moments(
    histories: Histories | CutHistories, *, until: float, count: int = PAST_MOMENTS
) -> Days:
    """The moments [M] that every customer is seen at, at most `count`; none in short records.

    Guarantees:
        They depend on no customer.
    """
    moments = until - HORIZON_DAYS * np.arange(1, count + 1)
    return moments[moments >= histories.observed_from + REFERENCE_DAYS].astype(np.float64)


def random_moments(
    histories: Histories | CutHistories,
    rows: int,
    *,
    until: float,
    count: int,
    rng: np.random.Generator,
) -> Days:
    """[R, P] moments at random times that have reference days before and a horizon after them.

    Edge cases:
        In records that are too short no customer has a token at the moment that they began.
    """
    earliest = histories.observed_from + REFERENCE_DAYS
    latest = until - HORIZON_DAYS
    if latest < earliest:
        return np.full((rows, count), histories.observed_from)
    return rng.uniform(earliest, latest, size=(rows, count))


@dataclass(frozen=True, kw_only=True, slots=True)
class PastExamples:
    """All customers of a store at all past moments, customer by customer."""

    tokens: CategoryTokens
    targets: TokenTargets
    moments: int


class _Kept:
    """The latest values of a function of a store, by digests of what it depends on."""

    def __init__(self) -> None:
        self._values: OrderedDict[bytes, Any] = OrderedDict()

    def get(self, key: bytes) -> Any:
        """The value of this key, or None."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: bytes, value: Any) -> None:
        """Keep a value, and forget the oldest of too many."""
        self._values[key] = value
        if len(self._values) > _STORES:
            self._values.popitem(last=False)


_EXAMPLES, _HEAD_INPUTS = _Kept(), _Kept()


def past_examples(histories: Histories, moments: Days) -> PastExamples:
    """The tokens of all customers at the same moments, with what followed; kept in memory.

    Args:
        histories: Of training only.
        moments: [M] of `past_moments`.
    """
    key = _digest(histories, moments)
    kept: PastExamples | None = _EXAMPLES.get(key)
    if kept is None:
        kept = _past_examples(histories, moments)
        _EXAMPLES.put(key, kept)
    return kept


def _past_examples(histories: Histories, moments: Days) -> PastExamples:
    customers = np.repeat(np.arange(len(histories)), len(moments))
    tokens = category_tokens(histories, customers, np.tile(moments, len(histories)))
    targets = token_targets(histories, tokens)
    return PastExamples(tokens=tokens, targets=targets, moments=len(moments))


def head_inputs(
    histories: Histories,
    moments: Days,
    outlook: CategoryOutlook,
    class_vectors: torch.Tensor,
    *,
    keep: bool = True,
) -> HeadBatch:
    """What the head reads of all customers at the same moments.

    Args:
        histories: Of training only.
        moments: [M] of `past_moments`.
        outlook: With the frozen base.
        class_vectors: [C, K] text vectors.
        keep: Whether it is kept in memory, for the next call with the same arguments.
    """
    if not keep:
        examples = _past_examples(histories, moments)
        return _head_inputs(examples, len(histories), outlook, class_vectors)
    state = {**dict(outlook.base.named_parameters()), **dict(outlook.named_buffers())}
    weights = [state[name].detach().numpy() for name in sorted(state)]
    key = _digest(histories, moments, class_vectors.numpy(), *weights)
    kept: HeadBatch | None = _HEAD_INPUTS.get(key)
    if kept is None:
        examples = past_examples(histories, moments)
        kept = _head_inputs(examples, len(histories), outlook, class_vectors)
        _HEAD_INPUTS.put(key, kept)
    return kept


@torch.no_grad()
def _head_inputs(
    examples: PastExamples, customers: int, outlook: CategoryOutlook, class_vectors: torch.Tensor
) -> HeadBatch:
    tokens = examples.tokens
    width = outlook.head.in_features
    features = np.zeros((len(tokens.classes), width), dtype=np.float32)
    logits = np.zeros((len(tokens.classes), 3), dtype=np.float32)
    # Sorted by size, so that there is little padding.
    order = np.argsort(tokens.sizes, kind="stable")
    was_training = outlook.base.training
    outlook.base.eval()  # type: ignore[no-untyped-call]
    for first in range(0, len(order), _AT_ONCE):
        rows = order[first : first + _AT_ONCE]
        rows = rows[tokens.sizes[rows] > 0]
        if not len(rows):
            continue
        batch = batch_of(tokens, rows)
        present = batch.present[:, 0]
        cells = ranges(tokens.offsets[rows], tokens.offsets[rows + 1])[1]
        output = outlook.by_base(batch, class_vectors)
        features[cells] = outlook.features(batch, class_vectors)[:, 0][present].numpy()
        logits[cells] = output.outlook_logits[:, 0][present].numpy()
    outlook.base.train(was_training)
    sizes = tokens.sizes.reshape(customers, examples.moments).sum(1)
    starts = offsets_of(sizes)[:-1]
    places = np.arange(max(int(sizes.max(initial=0)), 1))
    there = places < sizes[:, None]
    flat = (starts[:, None] + places)[there]

    def padded(values: np.ndarray, filler: float) -> torch.Tensor:
        whole = np.full((*there.shape, *values.shape[1:]), filler, dtype=values.dtype)
        whole[there] = values[flat]
        return torch.from_numpy(whole)

    return HeadBatch(
        features=padded(features, 0.0),
        logits=padded(logits, 0.0),
        outlook=padded(examples.targets.outlook, UNKNOWN),
        moments=max(examples.moments, 1),
    )


def collate_past(histories: Histories, draw: PastDraw) -> TokenBatch:
    """The tokens of customers drawn, with targets."""
    return token_batch(histories, draw.customers, draw.moments, targets=True)


def _digest(histories: Histories, *others: Any) -> bytes:
    """A key of everything that tokens depend on, and of the other values."""
    digest = hashlib.sha256()
    for array in (
        histories.visit_offsets,
        histories.visit_days,
        histories.pair_offsets,
        histories.pair_classes,
        np.array(histories.observed_from),
        *others,
    ):
        array = np.ascontiguousarray(array)
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.digest()
