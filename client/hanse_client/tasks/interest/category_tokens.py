"""Category tokens: what a customer's history says of one category at one moment.

A row is a customer at a moment. It has a token for every category in which the customer has an
interest then, as the outlook defines it (`heads.has_interest`). A token holds centred
logarithms of about unit spread (`INPUTS`):

- rates of the category, and of all visits, in weeks back from the moment (`PATCHES`);
- probabilities of a fall and of a rise of a Poisson forecast, at three half-lives;
- counts, recency, usual gap and time observed;
- how much of the bound of a rise is left between two whole numbers of visits.

Beside them stand the forecast of the rules, which the model amends: the same as the untrained
`OutlookHead`. Two class priors and the class's text vector are inputs of the model too, but of
the class and not of the customer, so they are not here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from hanse_client.features.histories import Histories
from hanse_client.features.ragged import Ints, offsets_of, ranges
from hanse_client.tasks.interest.heads import has_interest, outlook_bounds

Floats = npt.NDArray[np.float32]
Days = npt.NDArray[np.float64]

REFERENCE_DAYS: Final = 84.0
"""Days before the moment over which a customer's usual rate is taken."""
HORIZON_DAYS: Final = 28.0
"""Days from the moment on that the forecast covers."""
MIN_VISITS: Final = 3
"""Visits with a category in the reference days from which a customer has an interest in it."""
PATCHES: Final = (0, 1, 2, 3, 4, 6, 8, 12, 16, 20, 26, 39, 52)
"""Bounds in weeks of the 12 patches of a history; the recent weeks tell most, so they are
narrow."""
HALF_LIVES: Final = (30.0, 60.0, 180.0)
"""Half-lives in days of the decayed rates; the second is that of the rules' forecast, the best
of those tried (docs/lab-notes.md)."""
COUNT_WEEKS: Final = (4, 12, 52)
"""Windows in weeks of the counts."""
_FORECAST = 1
"""The index in `HALF_LIVES` of the rules' forecast."""
_NAMES = [f"{a}-{b}" for a, b in pairwise(PATCHES)]
INPUTS: Final = (
    *(f"log_rate_{name}" for name in _NAMES),
    *(f"log_visits_{name}" for name in _NAMES),
    *("log_fall", "log_rise", "fall_30", "rise_30", "fall_180", "rise_180"),
    *("log_decayed", "decayed_30", "decayed_180"),
    *(f"log_count_{weeks}" for weeks in COUNT_WEEKS),
    *("log_since", "log_since_of_usual_gap", "log_observed", "bound_left"),
)
"""Names of a token's inputs, in their order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CategoryTokens:
    """The n tokens of R rows; the tokens of a row have the most frequent category first."""

    customers: Ints
    """[R] indices into the histories."""
    moments: Days
    """[R] in days since 1970."""
    offsets: Ints
    """[R + 1]: row r has the tokens `offsets[r]:offsets[r + 1]`, possibly none."""
    classes: Ints
    """[n] indices into the vocabulary."""
    reference_counts: Ints
    """[n] visits with the class in the reference days."""
    inputs: Floats
    """[n, len(INPUTS)]."""
    rules: Floats
    """[n, 3] log-probabilities of fall, stay and rise by the rules."""
    expected: Floats
    """[n] visits with the class that the rules expect until the horizon."""

    def __len__(self) -> int:
        return len(self.customers)

    @classmethod
    def joined(cls, parts: Sequence[CategoryTokens]) -> CategoryTokens:
        """The rows of several parts, one after another; `customers` index each part's own."""
        arrays = {
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(cls)
            if field.name != "offsets"
        }
        return cls(offsets=offsets_of(np.concatenate([part.sizes for part in parts])), **arrays)

    @property
    def sizes(self) -> Ints:
        """[R] number of tokens of each row."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> Ints:
        """[n] index of each token's row."""
        return np.repeat(np.arange(len(self)), self.sizes)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenTargets:
    """What happened in the `HORIZON_DAYS` from a token's moment on."""

    outlook: Ints
    """[n] 0 fall, 1 stay, 2 rise."""
    visits: Ints
    """[n] visits with the class."""

    @classmethod
    def joined(cls, parts: Sequence[TokenTargets]) -> TokenTargets:
        """The targets of several parts, one after another."""
        return cls(
            outlook=np.concatenate([part.outlook for part in parts]),
            visits=np.concatenate([part.visits for part in parts]),
        )


def category_tokens(histories: Histories, customers: Ints, moments: Days) -> CategoryTokens:
    """Build the tokens of customers at moments.

    Args:
        histories: Of the store.
        customers: [R] indices of customers; one may be there several times.
        moments: [R] days since 1970.

    Guarantees:
        A row's tokens depend on no visit at or after its moment, and on no other customer.
    """
    customers = np.asarray(customers, dtype=np.int64)
    moments = np.asarray(moments, dtype=np.float64)
    past = _Past.of(histories, customers, moments)
    # Records that begin at the moment say nothing; a day keeps logarithms finite.
    observed = np.maximum(moments - histories.observed_from, 1.0)[past.token_row]
    counts = np.stack([past.counted(weeks * 7) for weeks in COUNT_WEEKS], axis=1)
    decayed = np.stack([past.decayed(half_life) for half_life in HALF_LIVES], axis=1)
    falls, rises, expected = _poisson_tails(past.reference_counts, decayed, observed)
    fall, rise = falls[:, _FORECAST], rises[:, _FORECAST]
    # The tails have 1e-3 added, so that their sum can exceed 1 by a little.
    stay = np.log(np.maximum(1 - np.exp(fall) - np.exp(rise), 1e-3))
    others = [index for index in range(len(HALF_LIVES)) if index != _FORECAST]
    contrasts = [tail[:, index] - tail[:, _FORECAST] for index in others for tail in (falls, rises)]
    log_rates = np.log(expected)
    since = np.minimum(past.since, observed)
    usual_gap = np.minimum(observed, 364.0) / (counts[:, -1] + 1)
    bound = outlook_bounds(_expected_of(past.reference_counts))[0].numpy()
    # Constants centre the inputs: means of the data would depend on other customers.
    inputs = np.column_stack(
        [
            past.patch_rates(observed),
            past.visit_rates(observed),
            fall / 2 + 1,
            rise / 2 + 1,
            *contrasts,
            log_rates[:, _FORECAST] - 1,
            *(log_rates[:, index] - log_rates[:, _FORECAST] for index in others),
            np.log1p(counts) - 1.5,
            np.log1p(since) - 2.5,
            np.log(since / usual_gap + 0.1),
            np.log(observed / 7) - 3.3,
            np.floor(bound) + 1 - bound,
        ]
    )
    return CategoryTokens(
        customers=customers,
        moments=moments,
        offsets=offsets_of(np.bincount(past.token_row, minlength=len(customers))),
        classes=past.token_class,
        reference_counts=past.reference_counts,
        inputs=inputs.astype(np.float32),
        rules=np.stack([fall, stay, rise], axis=1).astype(np.float32),
        expected=expected[:, _FORECAST].astype(np.float32),
    )


def token_targets(histories: Histories, tokens: CategoryTokens) -> TokenTargets:
    """What followed each token: the outlook's three outcomes, and the number of visits.

    Args:
        histories: Those of the tokens, which must cover the horizon of every row.
        tokens: Of `category_tokens`.
    """
    pairs = _Pairs.of(histories, tokens.customers)
    ahead = pairs.days - tokens.moments[pairs.rows]
    token = _Lookup(tokens.rows, tokens.classes).find(pairs.rows, pairs.classes)
    counted = (token >= 0) & (ahead >= 0) & (ahead < HORIZON_DAYS)
    visits = np.bincount(token[counted], minlength=len(tokens.classes))
    most, least = outlook_bounds(_expected_of(tokens.reference_counts))
    outlook = 1 + (visits > most.numpy()).astype(np.int64) - (visits < least.numpy())
    return TokenTargets(outlook=outlook, visits=visits)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pairs:
    """The (visit, class) pairs of rows' customers, as flat arrays in order of row and time."""

    rows: Ints
    classes: Ints
    days: Days
    visit_rows: Ints
    """Rows of the visits themselves."""
    visit_days: Days

    @classmethod
    def of(cls, histories: Histories, customers: Ints) -> _Pairs:
        """All pairs of each row's customer, whatever their day."""
        starts, stops = histories.visit_offsets[customers], histories.visit_offsets[customers + 1]
        visit_rows, visits = ranges(starts, stops)
        owner, pairs = ranges(histories.pair_offsets[visits], histories.pair_offsets[visits + 1])
        return cls(
            rows=visit_rows[owner],
            classes=histories.pair_classes[pairs].astype(np.int64),
            days=histories.visit_days[visits[owner]],
            visit_rows=visit_rows,
            visit_days=histories.visit_days[visits],
        )


class _Lookup:
    """Finds the token of a row and a class."""

    def __init__(self, rows: Ints, classes: Ints) -> None:
        self._width = int(classes.max(initial=0)) + 1
        keys = rows * self._width + classes
        self._order = np.argsort(keys)
        self._keys = keys[self._order]

    def find(self, rows: Ints, classes: Ints) -> Ints:
        """Indices of the tokens; -1 where the row has none of the class."""
        if not len(self._keys):
            return np.full(len(rows), -1)
        keys = rows * self._width + classes
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        # A class beyond the widest would have the key of another row's class.
        known = (self._keys[place] == keys) & (classes < self._width)
        return np.where(known, self._order[place], -1)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Past:
    """The tokens of R rows, and the visits before each row's moment that they summarise."""

    token_row: Ints
    token_class: Ints
    reference_counts: Ints
    token: Ints
    """[m] the token of each earlier (visit, class) pair."""
    age: Days
    """[m] days from the pair to its row's moment, above 0."""
    visit_row: Ints
    visit_age: Days
    row_count: int

    @classmethod
    def of(cls, histories: Histories, customers: Ints, moments: Days) -> _Past:
        """Find the interests and everything before the moments."""
        pairs = _Pairs.of(histories, customers)
        age = moments[pairs.rows] - pairs.days
        # A visit that begins at the moment is to be predicted and not known.
        before, recent = age > 0, (age > 0) & (age <= REFERENCE_DAYS)
        width = int(pairs.classes.max(initial=0)) + 1
        cells = pairs.rows[recent] * width + pairs.classes[recent]
        found, counts = np.unique(cells, return_counts=True)
        interest = has_interest(torch.from_numpy(counts), MIN_VISITS).numpy()
        found, counts = found[interest], counts[interest]
        # Of equal counts the smaller class index is first, so that the order is defined.
        order = np.lexsort((found % width, -counts, found // width))
        rows, classes, counts = found[order] // width, found[order] % width, counts[order]
        token = _Lookup(rows, classes).find(pairs.rows[before], pairs.classes[before])
        visit_age = moments[pairs.visit_rows] - pairs.visit_days
        earlier = visit_age > 0
        return cls(
            token_row=rows,
            token_class=classes,
            reference_counts=counts.astype(np.int64),
            token=token[token >= 0],
            age=age[before][token >= 0],
            visit_row=pairs.visit_rows[earlier],
            visit_age=visit_age[earlier],
            row_count=len(customers),
        )

    @property
    def since(self) -> Days:
        """[n] days since the last visit with the class."""
        nearest = np.full(len(self.token_row), np.inf)
        np.minimum.at(nearest, self.token, self.age)
        return nearest

    def counted(self, days: float) -> Ints:
        """[n] visits with the class in the last days."""
        near = self.age <= days
        return np.bincount(self.token[near], minlength=len(self.token_row))

    def decayed(self, half_life: float) -> Days:
        """[n] visits with the class, each with weight 2^(-age / half-life)."""
        weights = np.exp2(-self.age / half_life)
        return np.bincount(self.token, weights, len(self.token_row)).astype(np.float64)

    def patch_rates(self, observed: Days) -> Days:
        """[n, 12] logarithms of visits with the class a week, by patch."""
        counts = _by_patch(self.token, self.age, len(self.token_row))
        span = _spans(observed)
        # The pseudo-counts are a rate of a quarter a week, usual for an interest.
        return np.where(span > 0, np.log((counts + 0.1) / (span + 0.4)) + 1.5, 0.0)

    def visit_rates(self, observed: Days) -> Days:
        """[n, 12] logarithms of visits of any kind a week, by patch."""
        counts = _by_patch(self.visit_row, self.visit_age, self.row_count)[self.token_row]
        span = _spans(observed)
        return np.where(span > 0, np.log((counts + 0.2) / (span + 0.2)), 0.0)


def _by_patch(index: Ints, age: Days, count: int) -> Days:
    """[count, 12] number of entries by their index and the patch of their age."""
    patch = np.searchsorted(PATCHES, age / 7, side="right") - 1
    inside = patch < len(PATCHES) - 1
    width = len(PATCHES) - 1
    flat = np.bincount(index[inside] * width + patch[inside], minlength=count * width)
    return flat.reshape(count, width).astype(np.float64)


def _spans(observed: Days) -> Days:
    """[n, 12] weeks of each patch that lie in the days observed."""
    starts, stops = np.array(PATCHES[:-1]), np.array(PATCHES[1:])
    spans: Days = np.clip(observed[:, None] / 7 - starts, 0, stops - starts)
    return spans


def _expected_of(reference_counts: Ints) -> torch.Tensor:
    """Visits until the horizon at the rate of the reference days."""
    return torch.from_numpy(reference_counts) * (HORIZON_DAYS / REFERENCE_DAYS)


def _poisson_tails(
    reference_counts: Ints, decayed: Days, observed: Days
) -> tuple[Days, Days, Days]:
    """Log-probabilities of a fall and of a rise, and the rates they follow from; each [n, H].

    The formulas are those of `OutlookHead`; a test compares the two.
    """
    half_lives = np.array(HALF_LIVES)
    # The integral of the decay over the days observed: visits over it are an unbiased rate.
    seen_days = half_lives / math.log(2) * (1 - np.exp2(-observed[:, None] / half_lives))
    expected = decayed / seen_days * HORIZON_DAYS + 0.03
    most, least = outlook_bounds(_expected_of(reference_counts).unsqueeze(1))
    below, rate = torch.ceil(least) - 1, torch.from_numpy(expected)
    rise = torch.special.gammainc((torch.floor(most) + 1).expand_as(rate).double(), rate)
    fall = torch.special.gammaincc((below + 1).clamp(min=1).expand_as(rate).double(), rate)
    fall = torch.where(below >= 0, fall, torch.zeros_like(fall))  # no count is below 0
    return torch.log(fall + 1e-3).numpy(), torch.log(rise + 1e-3).numpy(), expected
