"""Training examples of a base for forecasts by category: tokens, what followed, class priors.

Of every shopper a few moments are predicted from what came before them. The shoppers are made
up (`shoppers.py`), customers of public orders, or both. The priors of a category are the
log-odds of rise and fall among the other half of the set's shoppers, as a federation would
release them of its customers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import torch

from hanse_client.features.histories import Histories, item_class, prepare
from hanse_client.features.ragged import Ints
from hanse_client.pretraining.shoppers import WEEKS, made_up_shoppers
from hanse_client.tasks.interest.category_model import CategoryBatch, collate_tokens
from hanse_client.tasks.interest.category_tokens import (
    HORIZON_DAYS,
    REFERENCE_DAYS,
    CategoryTokens,
    TokenTargets,
    category_tokens,
    token_targets,
)
from hanse_common.errors import DataError

if TYPE_CHECKING:
    from hanse_client.pretraining.public_data import PublicData

_MOMENTS: Final = 4
"""Moments of a shopper; more of the same shopper tell less than other shoppers."""
_HELD_OUT = 0.1
_PRIOR_WEIGHT = 20.0
"""Pseudo-count of tokens behind a class's prior, so that a rare class has that of all."""
_MOST_TOKENS = 64
"""Tokens of a row in training, the most frequent; attention is quadratic in them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """R rows, each a shopper at a moment, with their n tokens and targets."""

    tokens: CategoryTokens
    targets: TokenTargets
    priors: npt.NDArray[np.float32]
    """[n, 2] log-odds of rise and fall of each token's class, centred over classes."""
    held_out: npt.NDArray[np.bool_]
    """[R] whether the row is never trained on."""

    @classmethod
    def joined(cls, parts: Sequence[Examples]) -> Examples:
        """The rows of several parts, one after another."""
        return cls(
            tokens=CategoryTokens.joined([part.tokens for part in parts]),
            targets=TokenTargets.joined([part.targets for part in parts]),
            priors=np.concatenate([part.priors for part in parts]),
            held_out=np.concatenate([part.held_out for part in parts]),
        )

    def batch(self, rows: Ints, without_priors: npt.NDArray[np.bool_] | None) -> CategoryBatch:
        """A batch of rows, of which those marked [B] have priors of 0."""
        made = collate_tokens(
            self.tokens, rows, priors=self.priors, targets=self.targets, most=_MOST_TOKENS
        )
        if without_priors is not None and made.priors is not None:
            made.priors[torch.from_numpy(without_priors)] = 0.0
        return made


def made_up_examples(sets: int, shoppers: int, seed: int) -> Examples:
    """Draw sets of made-up shoppers, each at random moments of its own.

    Args:
        sets: Number of sets. They are drawn by their number, so more sets are the same and more.
        shoppers: Shoppers of each.
        seed: Of everything.
    """
    parts = []
    for number in range(sets):
        histories = made_up_shoppers((seed, number), shoppers=shoppers)
        rng = np.random.default_rng((seed, number, 1))
        rows = np.repeat(np.arange(shoppers), _MOMENTS)
        moments = rng.uniform(REFERENCE_DAYS, 7 * WEEKS - HORIZON_DAYS, len(rows))
        parts.append(_examples(histories, rows, moments, rng))
    return Examples.joined(parts)


def order_examples(orders: PublicData, seed: int) -> Examples:
    """Make examples of public orders, at random moments of customers with long records.

    A customer's records are taken to end with the last order: whether one without further
    orders left the shop, or the data, public orders seldom say.

    Raises:
        DataError [too-few-customers]: No customer's orders cover `REFERENCE_DAYS` and
            `HORIZON_DAYS`.
    """
    histories = order_histories(orders)
    first = histories.observed_from + REFERENCE_DAYS
    last = histories.visit_days[histories.visit_offsets[1:] - 1] - HORIZON_DAYS
    able = np.flatnonzero(last >= first)
    if not len(able):
        raise DataError(
            f"{orders.name} has no customer whose orders cover "
            f"{REFERENCE_DAYS + HORIZON_DAYS:.0f} days",
            code="too-few-customers",
            hint="use longer records, or leave --orders out",
        )
    rng = np.random.default_rng((seed, 0, 3))
    rows = np.repeat(able, _MOMENTS)
    return _examples(histories, rows, rng.uniform(first, last[rows]), rng)


def order_histories(orders: PublicData) -> Histories:
    """Histories of public orders without text vectors, which no category token has."""
    data = orders.ingested
    category = dict(data.catalogue.select("item_id", "category").iter_rows())
    bought = data.events["item_id"].unique()
    classes = sorted({item_class(category[item], item, orders.level) for item in bought})
    return prepare(data, classes=classes, level=orders.level)


def _examples(
    histories: Histories,
    customers: Ints,
    moments: npt.NDArray[np.float64],
    rng: np.random.Generator,
) -> Examples:
    """Examples of customers [R] at moments [R], a tenth of the customers held out."""
    tokens = category_tokens(histories, customers, moments)
    targets = token_targets(histories, tokens)
    shuffled = rng.permutation(np.unique(customers))
    aside = shuffled[: max(1, int(len(shuffled) * _HELD_OUT))]
    half = np.isin(customers, rng.permutation(shuffled)[: len(shuffled) // 2])
    return Examples(
        tokens=tokens,
        targets=targets,
        priors=other_half_priors(tokens.classes, targets.outlook, half[tokens.rows]),
        held_out=np.isin(customers, aside),
    )


def other_half_priors(
    classes: Ints, outlook: Ints, half: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """[n, 2] log-odds of rise and fall of each token's class among the other half's shoppers.

    Taken from the token's own half they would contain its outcome.

    Args:
        classes: [n] of the tokens.
        outlook: [n] 0 fall, 1 stay, 2 rise.
        half: [n] which half of the shoppers the token's belongs to.
    """
    kinds = int(classes.max(initial=0)) + 1
    priors = np.zeros((len(classes), 2), dtype=np.float32)
    for mine in (False, True):
        other = half != mine
        cells = classes[other] * 3 + outlook[other]
        counts = np.bincount(cells, minlength=3 * kinds).reshape(kinds, 3)
        overall = (counts.sum(0) + 1) / (counts.sum() + 3)
        share = (counts + _PRIOR_WEIGHT * overall) / (counts.sum(1, keepdims=True) + _PRIOR_WEIGHT)
        odds = np.log(share / (1 - share))[:, [2, 0]]
        # Centred: the base rates of made-up shops say nothing of those of a real one.
        priors[~other] = (odds - odds.mean(0))[classes[~other]]
    return priors
