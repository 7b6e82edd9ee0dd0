"""Batches of category tokens: customers at several moments each, padded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hanse_client.features.histories import Histories
from hanse_client.features.ragged import Ints, Mask, offsets_of, ranges
from hanse_client.tasks.interest.category_model import collate_tokens
from hanse_client.tasks.interest.category_tokens import (
    CategoryTokens,
    Days,
    TokenTargets,
    category_tokens,
    token_targets,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenBatch:
    """Tokens of B customers at P moments each, K at most."""

    inputs: Tensor
    """[B, P, K, inputs] of `CategoryTokens`."""
    rules: Tensor
    """[B, P, K, 3] log-probabilities of fall, stay and rise by the rules."""
    expected: Tensor
    """[B, P, K] visits that the rules expect until the horizon."""
    classes: Tensor
    """[B, P, K] index of the class; 0 where there is no token."""
    present: Tensor
    """[B, P, K] whether the cell has a token."""
    outlook: Tensor | None = None
    """[B, P, K] 0 fall, 1 stay, 2 rise, `UNKNOWN`."""
    visits: Tensor | None = None
    """[B, P, K] visits with the class until the horizon, `UNKNOWN`."""

    def __len__(self) -> int:
        """B."""
        return len(self.present)

    def rows(self, start: int, stop: int) -> TokenBatch:
        """The customers of a slice."""
        return self._each(lambda part: part[start:stop])

    def select(self, rows: Tensor) -> TokenBatch:
        """Only the customers marked in a mask [B]."""
        return self._each(lambda part: part[rows])

    def at(self, point: int) -> TokenBatch:
        """The same at one of their moments, without the dimension P."""
        return self._each(lambda part: part[:, point])

    def flat(self) -> TokenBatch:
        """The same with B x P rows, without the dimension P."""
        return self._each(lambda part: part.flatten(0, 1))

    def _each(self, change: Callable[[Tensor], Tensor]) -> TokenBatch:
        def changed(field: str) -> Any:
            part = getattr(self, field)
            return None if part is None else change(part)

        return TokenBatch(**{field.name: changed(field.name) for field in fields(self)})


def token_batch(
    histories: Histories,
    customers: Ints,
    moments: Days,
    *,
    wanted: Mask | None = None,
    targets: bool = False,
) -> TokenBatch:
    """Build the tokens of customers at their moments.

    Args:
        histories: Of the store.
        customers: [B] indices of customers.
        moments: [B, P] days since 1970.
        wanted: [B, P] which moments get tokens; all if left out.
        targets: Whether to add what followed; the histories must cover it.

    Guarantees:
        A customer's part depends on no other customer, but for the width of the padding.
    """
    shape = moments.shape
    chosen = np.ones(shape, dtype=bool) if wanted is None else wanted
    owners = np.broadcast_to(customers[:, None], shape)[chosen]
    tokens = category_tokens(histories, owners, moments[chosen])
    outcome = token_targets(histories, tokens) if targets else None
    # Rows that are not wanted have no tokens; the tokens themselves stay in their order.
    sizes = np.zeros(shape, dtype=np.int64)
    sizes[chosen] = tokens.sizes
    spread: CategoryTokens = replace(
        tokens,
        customers=np.repeat(customers, shape[1]),
        moments=moments.reshape(-1),
        offsets=offsets_of(sizes.reshape(-1)),
    )
    return batch_of(spread, np.arange(len(spread)), points=shape[1], targets=outcome)


def batch_of(
    tokens: CategoryTokens, rows: Ints, *, points: int = 1, targets: TokenTargets | None = None
) -> TokenBatch:
    """Pad rows of tokens to a batch of `len(rows) / points` customers at P = `points` moments."""
    flat = collate_tokens(tokens, rows, targets=targets)
    classes = np.zeros(flat.present.shape, dtype=np.int64)
    classes[flat.present.numpy()] = tokens.classes[
        ranges(tokens.offsets[rows], tokens.offsets[rows + 1])[1]
    ]

    def shaped(part: Tensor) -> Tensor:
        return part.reshape(len(rows) // points, points, *part.shape[1:])

    return TokenBatch(
        inputs=shaped(flat.inputs),
        rules=shaped(flat.rules),
        expected=shaped(flat.expected),
        classes=shaped(torch.from_numpy(classes)),
        present=shaped(flat.present),
        outlook=None if flat.outlook is None else shaped(flat.outlook),
        visits=None if flat.visits is None else shaped(flat.visits),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadBatch:
    """What the linear head reads of B customers, T interests each over all their moments."""

    features: Tensor
    """[B, T, features] of `CategoryOutlook.features`."""
    logits: Tensor
    """[B, T, 3] of the frozen base."""
    outlook: Tensor
    """[B, T] 0 fall, 1 stay, 2 rise; `UNKNOWN` where there is no interest."""
    moments: int
    """Number of moments that a customer has; the loss is a mean over them."""

    def __len__(self) -> int:
        """B."""
        return len(self.outlook)

    def rows(self, start: int, stop: int) -> HeadBatch:
        """The customers of a slice."""
        return self.of(slice(start, stop))

    def of(self, customers: Ints | slice) -> HeadBatch:
        """Only these customers, by their indices."""
        return replace(
            self,
            features=self.features[customers],
            logits=self.logits[customers],
            outlook=self.outlook[customers],
        )
