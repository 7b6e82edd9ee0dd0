"""What a shop will sell: visits with each category in the next 7, 14 and 28 days.

The customers' expected visits add up. The store's own past corrects the sum: the same forecast
from moments that lie behind, with what was observed. Each class is brought to its level of the last
eight weeks, and how far such sums were off since says how wide an interval is. With mu expected

    variance = mu + (error * mu) ** 2

the first term for visits that come as they like (Poisson), the second for what moves all
customers together, such as a holiday; an interval is mu ± 1.645 standard deviations, normal.

    found = demand(histories, model, moment)
    found.expected       # [C, H]
    found.low, found.high

Only customers with a visit before the moment are in it: who comes for the first time is not.
Nothing is trained, and nothing leaves the store.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from hanse_client.analytics.moments import views
from hanse_client.analytics.occasions import visits_ahead
from hanse_client.features.histories import Histories
from hanse_client.tasks.interest import InterestModel
from hanse_client.tasks.interest.features import Floats
from hanse_client.tasks.interest.heads import outlook_bounds
from hanse_client.tasks.interest.rates import chances

COVERAGE = 0.9
_SPREAD = 1.6449
_PAST_MOMENTS = 5
_LEVELLED = 2
"""Past moments that a class's level is read off: one and two worked best in the validation
weeks of the grocery regions, four worse than none."""
_CREDIT = 20.0
"""Visits that a class is credited with on both sides, so that a rare one keeps its level."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """A store's, by class and horizon: each [C, H] but `horizons` and `error`."""

    horizons: tuple[float, ...]
    expected: Floats
    """Visits with the class."""
    buyers: Floats
    """Customers expected to buy of it at all: the mean of a Poisson-binomial."""
    buyers_spread: Floats
    """Its standard deviation."""
    before: Floats
    """Visits in as many days before the moment."""
    usual: Floats
    """Visits that as many days had on average, over the reference days."""
    error: Floats
    """[H] by how much of themselves such sums were off in the past, beyond chance."""

    @property
    def spread(self) -> Floats:
        """Standard deviation of the visits."""
        return np.sqrt(self.expected + (self.error * self.expected) ** 2)

    @property
    def low(self) -> Floats:
        """Lower end of an interval that should hold nine in ten."""
        return np.maximum(self.expected - _SPREAD * self.spread, 0.0)

    @property
    def high(self) -> Floats:
        """Its upper end."""
        return self.expected + _SPREAD * self.spread

    @property
    def fall(self) -> Floats:
        """Chance of fewer visits than usual, by more than a standard score."""
        _, least = outlook_bounds(torch.from_numpy(self.usual))
        return np.where(least > 0, self._below(np.ceil(least.numpy())), 0.0)

    @property
    def rise(self) -> Floats:
        """Chance of more visits than usual, by more than a standard score."""
        most, _ = outlook_bounds(torch.from_numpy(self.usual))
        return 1.0 - self._below(np.floor(most.numpy()) + 1)

    def of(self, index: int) -> Demand:
        """One of the horizons only, [C, 1] each."""
        some = slice(index, index + 1)
        parts = ("expected", "buyers", "buyers_spread", "before", "usual")
        return Demand(
            horizons=self.horizons[some],
            error=self.error[some],
            **{name: getattr(self, name)[:, some] for name in parts},
        )

    def _below(self, count: Floats) -> Floats:
        """Chance of fewer visits than `count`, normal, corrected for whole numbers."""
        score = (count - 0.5 - self.expected) / np.maximum(self.spread, 1e-9)
        below: Floats = torch.special.ndtr(torch.from_numpy(score)).numpy()
        return below


def demand(histories: Histories, model: InterestModel, moment: float) -> Demand:
    """Add up what a store's customers will buy.

    Args:
        histories: Uncut: a moment itself hides what comes at it and after it.
        model: The shared model.
        moment: Days.

    Edge cases:
        Records too short to look back leave the sums as they are and `error` at 0: then
        intervals are too narrow.
    """
    config = model.config
    horizons = tuple(config.horizons)
    now = _sums(histories, model, moment)
    past = _past(histories, model, moment)
    return Demand(
        horizons=horizons,
        expected=now[0] * past.level(0),
        buyers=now[1],
        buyers_spread=np.sqrt(now[2]),
        before=np.stack([_bought(histories, moment - h, h, model) for h in horizons], axis=-1),
        usual=_usual(histories, moment, model),
        error=past.error(),
    )


def _sums(histories: Histories, model: InterestModel, moment: float) -> npt.NDArray[np.float64]:
    """[3, C, H] expected visits, expected buyers, the variance of these."""
    config = model.config
    found = np.zeros((3, len(config.classes), len(config.horizons)))
    customers = histories.until(moment).active()
    with torch.inference_mode():
        for view in views(histories, customers, np.full(len(customers), moment), config):
            expected = view.of(model(view.batch).expected_visits).double()
            chance = chances(expected)
            found += torch.stack(
                [part.sum(0) for part in (expected, chance, chance * (1 - chance))]
            ).numpy()
    return found


def observed_visits(histories: Histories, moment: float, horizon: float, classes: int) -> Floats:
    """[C] visits in the days after a moment, of customers who had come before it."""
    customers = histories.until(moment).active()
    found: Floats = visits_ahead(
        histories, customers, moment, horizon=horizon, classes=classes
    ).sum(axis=0)
    return found


def _bought(histories: Histories, start: float, length: float, model: InterestModel) -> Floats:
    """[C] all visits in `[start, start + length)`."""
    found: Floats = visits_ahead(
        histories, histories.active(), start, horizon=length, classes=len(model.config.classes)
    ).sum(axis=0)
    return found


def _usual(histories: Histories, moment: float, model: InterestModel) -> Floats:
    config = model.config
    length = max(min(config.reference_days, moment - histories.observed_from), 1.0)
    per_day = _bought(histories, moment - length, length, model) / length
    usual: Floats = per_day[:, None] * np.array(config.horizons)
    return usual


@dataclass(frozen=True, kw_only=True, slots=True)
class _Past:
    """Forecasts from moments that lie behind, the last first: K of them, [K, C, H] each."""

    expected: Floats
    observed: Floats

    def level(self, first: int) -> Floats:
        """[C, 1] observed visits for each expected one, of the moments just before one of them."""
        some = slice(first, first + _LEVELLED)
        said, did = (part[some, :, -1].sum(axis=0) for part in (self.expected, self.observed))
        level: Floats = (did + _CREDIT) / (said + _CREDIT)
        return level[:, None]

    def error(self) -> Floats:
        """[H] by the method of moments over classes and moments, visits to weigh.

        Each moment's forecast is levelled by what lay behind it then.
        """
        excess, squares = (np.zeros(self.expected.shape[-1]) for _ in range(2))
        for index in range(len(self.expected) - _LEVELLED):
            expected = self.expected[index] * self.level(index + 1)
            excess += ((self.observed[index] - expected) ** 2 - expected).sum(axis=0)
            squares += (expected**2).sum(axis=0)
        error: Floats = np.sqrt(np.maximum(excess, 0.0) / np.maximum(squares, 1e-9))
        return error


def _past(histories: Histories, model: InterestModel, moment: float) -> _Past:
    config = model.config
    classes, horizons = len(config.classes), config.horizons
    expected, actual = [], []
    for back in range(1, _PAST_MOMENTS + 1):
        past = moment - back * horizons[-1]
        if past < histories.observed_from + config.reference_days:
            break
        expected.append(_sums(histories, model, past)[0])
        actual.append(
            np.stack([observed_visits(histories, past, h, classes) for h in horizons], axis=-1)
        )
    shape = (len(expected), classes, len(horizons))
    return _Past(
        expected=np.array(expected).reshape(shape), observed=np.array(actual).reshape(shape)
    )
