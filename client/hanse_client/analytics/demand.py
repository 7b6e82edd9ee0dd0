"""Demand forecasts of a shop: visits with each category in the next 7, 14 and 28 days.

A forecast is the sum of the customers' expected visits, corrected by forecasts from earlier
moments whose outcome is known: each class is scaled to its level of the last eight weeks, and
the errors of such forecasts give the width of the interval. With mu expected visits

    variance = mu + (error * mu) ** 2

where the first term is that of independent visits (Poisson), and the second that of events
which affect all customers, such as a holiday. An interval is mu ± 1.645 standard deviations.

    forecast = demand(histories, model, moment)
    forecast.expected    # [C, H]
    forecast.low, forecast.high

Only customers with a visit before the moment are counted, so first visits are not forecast.
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
_SPREAD = 1.6449  # standard deviations on either side of the mean that hold `COVERAGE`
_PAST_MOMENTS = 5
_LEVELLED = 2
"""Past moments that give a class's level: mean absolute error in 28 days of the validation weeks
of the grocery regions 4.28 with two, 4.33 with one, 4.54 with four (docs/lab-notes.md)."""
_CREDIT = 20.0
"""Visits added to both sides of a class's level, so that a rare class keeps about 1. With 100
visits the error was 4.35 (docs/lab-notes.md)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """A store's demand by class and horizon: [C, H] except for `horizons` and `error`."""

    horizons: tuple[float, ...]
    """[H] ends of the horizons, in days."""
    expected: Floats
    """Expected visits with the class."""
    buyers: Floats
    """Expected number of customers with such a visit: the mean of a Poisson-binomial."""
    buyers_spread: Floats
    """Standard deviation of the number of buyers."""
    before: Floats
    """Visits in the same number of days before the moment."""
    usual: Floats
    """Mean visits in the same number of days, over the reference days."""
    error: Floats
    """[H] relative standard error of past forecasts beyond that of a Poisson."""

    @property
    def spread(self) -> Floats:
        """Standard deviation of the number of visits."""
        return np.sqrt(self.expected + (self.error * self.expected) ** 2)

    @property
    def low(self) -> Floats:
        """Lower end of an interval with a nominal coverage of 90 %."""
        return np.maximum(self.expected - _SPREAD * self.spread, 0.0)

    @property
    def high(self) -> Floats:
        """Upper end of that interval."""
        return self.expected + _SPREAD * self.spread

    @property
    def fall(self) -> Floats:
        """Probability of fewer visits than usual, by more than one standard deviation."""
        _, least = outlook_bounds(torch.from_numpy(self.usual))
        return np.where(least > 0, self._below(np.ceil(least.numpy())), 0.0)

    @property
    def rise(self) -> Floats:
        """Probability of more visits than usual, by more than one standard deviation."""
        most, _ = outlook_bounds(torch.from_numpy(self.usual))
        return 1.0 - self._below(np.floor(most.numpy()) + 1)

    def of(self, index: int) -> Demand:
        """The demand within one horizon only, [C, 1] each."""
        part = slice(index, index + 1)
        names = ("expected", "buyers", "buyers_spread", "before", "usual")
        return Demand(
            horizons=self.horizons[part],
            error=self.error[part],
            **{name: getattr(self, name)[:, part] for name in names},
        )

    def _below(self, count: Floats) -> Floats:
        """Normal approximation of P(visits < count), with a continuity correction."""
        score = (count - 0.5 - self.expected) / np.maximum(self.spread, 1e-9)
        below: Floats = torch.special.ndtr(torch.from_numpy(score)).numpy()
        return below


def demand(histories: Histories, model: InterestModel, moment: float) -> Demand:
    """Forecast the demand of a store's customers.

    Args:
        histories: Complete histories; what follows the moment is hidden.
        model: The shared model.
        moment: In days since 1970.

    Edge cases:
        With records too short for past forecasts the sums are not corrected and `error` is 0,
        so that intervals are too narrow.
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
    """[3, C, H] expected visits, expected buyers, and the variance of the number of buyers."""
    config = model.config
    sums = np.zeros((3, len(config.classes), len(config.horizons)))
    customers = histories.until(moment).active()
    with torch.inference_mode():
        for view in views(histories, customers, np.full(len(customers), moment), config):
            expected = view.of(model(view.batch).expected_visits).double()
            chance = chances(expected)
            sums += torch.stack(
                [part.sum(0) for part in (expected, chance, chance * (1 - chance))]
            ).numpy()
    return sums


def observed_visits(histories: Histories, moment: float, horizon: float, classes: int) -> Floats:
    """[C] visits within `horizon` days after a moment, of customers with a visit before it."""
    customers = histories.until(moment).active()
    visits: Floats = visits_ahead(
        histories, customers, moment, horizon=horizon, classes=classes
    ).sum(axis=0)
    return visits


def _bought(histories: Histories, start: float, length: float, model: InterestModel) -> Floats:
    """[C] visits of all customers in `[start, start + length)`."""
    visits: Floats = visits_ahead(
        histories, histories.active(), start, horizon=length, classes=len(model.config.classes)
    ).sum(axis=0)
    return visits


def _usual(histories: Histories, moment: float, model: InterestModel) -> Floats:
    """[C, H] mean visits in as many days as each horizon has, over the reference days."""
    config = model.config
    # No longer than the records, whose earlier days would count as days without visits.
    length = max(min(config.reference_days, moment - histories.observed_from), 1.0)
    per_day = _bought(histories, moment - length, length, model) / length
    usual: Floats = per_day[:, None] * np.array(config.horizons)
    return usual


@dataclass(frozen=True, kw_only=True, slots=True)
class _Past:
    """Forecasts from K past moments, the latest first, and their outcomes: [K, C, H] each."""

    expected: Floats
    observed: Floats

    def level(self, first: int) -> Floats:
        """[C, 1] ratio of observed to expected visits at the `_LEVELLED` moments from `first` on.

        Over the longest horizon, whose sums are the largest.
        """
        part = slice(first, first + _LEVELLED)
        expected, observed = (x[part, :, -1].sum(axis=0) for x in (self.expected, self.observed))
        level: Floats = (observed + _CREDIT) / (expected + _CREDIT)
        return level[:, None]

    def error(self) -> Floats:
        """[H] estimate by the method of moments over classes and moments, weighted by visits.

        Each forecast is scaled by the level of the moments before it, as it would have been
        at the time.
        """
        excess, squares = (np.zeros(self.expected.shape[-1]) for _ in range(2))
        for index in range(len(self.expected) - _LEVELLED):
            expected = self.expected[index] * self.level(index + 1)
            # Squared errors less the variance of a Poisson, which is its mean.
            excess += ((self.observed[index] - expected) ** 2 - expected).sum(axis=0)
            squares += (expected**2).sum(axis=0)
        error: Floats = np.sqrt(np.maximum(excess, 0.0) / np.maximum(squares, 1e-9))
        return error


def _past(histories: Histories, model: InterestModel, moment: float) -> _Past:
    config = model.config
    classes, horizons = len(config.classes), config.horizons
    expected, actual = [], []
    for back in range(1, _PAST_MOMENTS + 1):
        # A full horizon apart: every outcome is known at `moment`, and none is counted twice.
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
