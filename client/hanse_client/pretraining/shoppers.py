"""Made-up shoppers: histories from a random process, without any person's data.

A set of shoppers is one invented shop. Its hyper-parameters are drawn first (domain
randomisation, Tobin et al. 2017), its histories from them. A model that is pre-trained on many
sets learns to forecast from whatever a history shows, as the sets have little else in common;
this is the idea of prior-fitted networks (Müller et al. 2022).

Each week a shopper makes a Poisson number of visits, and each visit holds a category with

    sigmoid(popularity + taste + drift + season + shock) x (1 - exp(-weeks since / stock))

as its probability. The result is the `Histories` of real stores, so the same feature code reads
both. Only days and categories are simulated: text vectors have width 0 and facts are 0.

>>> histories = made_up_shoppers(0, shoppers=5, categories=3, weeks=20)
>>> len(histories), histories.visit_vectors.shape[1], histories.observed_from
(5, 0, 0.0)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hanse_client.features.histories import FACTS, Histories
from hanse_client.features.ragged import Ints, offsets_of

Floats = npt.NDArray[np.float32]
_Range = tuple[float, float]

CATEGORIES: Final = 60
"""Categories of a set: enough for 15 interests a shopper, few enough for seconds a set."""
WEEKS: Final = 64
"""A year, so that seasons repeat, and a quarter more for the weeks to predict."""

# Visits of any kind.
_VISIT_RATE_SHAPE: Final[_Range] = (1.0, 3.0)
"""Shape of the gamma distribution of weekly visits: from exponential to nearly alike shoppers."""
_VISIT_RATE_SCALE: Final[_Range] = (0.5, 1.4)
"""Its scale; with the shape, means from one visit in two weeks to four a week."""
_VISIT_RATE_BOUNDS: Final[_Range] = (0.1, 10.0)
"""Weekly visits: rarer shoppers have no interests, and more frequent ones are no households."""
_MOST_VISITS: Final = 50
"""A week's visits at most, so that no drift makes a history of unbounded length."""
_VISIT_PERSISTENCE: Final = (0.9, 0.97, 0.99)
"""Weekly autocorrelations of the visit rate's drift: half-lives of 7, 23 and 69 weeks."""
_VISIT_DRIFT: Final[_Range] = (0.2, 0.6)
"""Standard deviation of the visit rate's logarithm around its mean."""
_PAUSE: Final[_Range] = (0.0, 0.03)
"""Weekly probability that a pause begins (holidays, illness): none to one or two a year."""
_PAUSE_END: Final[_Range] = (0.3, 0.8)
"""Weekly probability that a pause ends: pauses of one to three weeks on average."""
_CHURN: Final[_Range] = (0.0, 0.004)
"""Weekly probability to leave for good: none to a fifth of the shoppers a year."""
_LATE: Final = (0.0, 0.1, 0.4)
"""Share of the shoppers who join after the records begin, in a uniformly random week: none in a
shop with old records, many in one that grows or whose loyalty card is new."""

# What a visit contains.
_POPULARITY_MEAN: Final[_Range] = (-3.2, -2.0)
"""Mean log-odds of a category in a visit: 4 to 12 %, as in groceries of a few hundred."""
_POPULARITY_SPREAD: Final[_Range] = (0.8, 1.5)
"""Standard deviation over categories: the popular ones are in every other visit."""
_TASTE_SPREAD: Final[_Range] = (0.9, 1.7)
"""Standard deviation over shoppers of the log-odds of one category: tastes differ more than
popularity does, or a shopper's own history would say little."""
_TASTE_RANK: Final = 4
"""Rank of what the tastes for different categories have in common."""
_TASTE_CORRELATION: Final[_Range] = (0.1, 0.5)
"""Spread of the common part's loadings: weak, for categories hardly predict each other."""
_JUMPS: Final = (0.0, 0.003, 0.01, 0.03)
"""Weekly probabilities that a taste is drawn again: never, or every 6 years to 8 months."""
_TASTE_PERSISTENCE: Final = (0.8, 0.9, 0.96, 0.99, 0.995)
"""Weekly autocorrelations of a taste's drift, by category: half-lives of 3 weeks to 2.7 years,
so that no one half-life forecasts best everywhere."""
_TASTE_DRIFT_LEAST: Final = 0.1
"""Standard deviation of the drift of the steadiest categories."""
_TASTE_DRIFT_MOST: Final[_Range] = (0.4, 1.0)
"""The same of the least steady ones, drawn for each set."""
_SEASON: Final[_Range] = (0.05, 0.3)
"""Mean amplitude of the yearly seasons; amplitudes are exponential, so most categories have
next to none and a few a strong one."""
_SHOCK_PERSISTENCE: Final = 0.7
"""Weekly autocorrelation of shocks that all shoppers share, such as a promotion."""
_SHOCK_SPREAD: Final = 0.1
"""Their weekly innovation: a tenth of the odds, far less than a shopper's own drift."""
_STOCK_WEEKS: Final = (0.0, 0.0, 0.0, 1.0, 2.0, 4.0)
"""Weeks that a purchase lasts, by category: half the categories are bought whatever is at home,
of the others a second purchase right after the first is unlikely."""
_STOCK_OF_SHOPPER: Final[_Range] = (0.3, 1.5)
"""Factor on these weeks, by shopper: large and small households."""
_FIRST_STOCK_AGE: Final = 20.0
"""Weeks since the last purchase when records begin: long enough that all stock is used up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Market:
    """The hyper-parameters of a set with K categories, drawn by `draw_market`."""

    visit_shape: float
    visit_scale: float
    visit_persistence: float
    visit_drift: float
    pause: float
    pause_end: float
    churn: float
    late: float
    taste_spread: float
    taste_correlation: float
    jump: float
    popularity: Floats
    """[K] log-odds of each category in a visit."""
    persistence: Floats
    """[K] weekly autocorrelation of each category's drift."""
    drift: Floats
    """[K] its standard deviation."""
    season: Floats
    """[K] amplitude of the yearly season."""
    phase: Floats
    """[K] its phase."""
    stock: Floats
    """[K] weeks that a purchase lasts; 0 if it does not matter."""

    @property
    def categories(self) -> int:
        """Number of categories, K."""
        return len(self.popularity)


def draw_market(rng: np.random.Generator, categories: int = CATEGORIES) -> Market:
    """Draw the hyper-parameters of a set."""
    most = rng.uniform(*_TASTE_DRIFT_MOST)
    mean, spread = rng.uniform(*_POPULARITY_MEAN), rng.uniform(*_POPULARITY_SPREAD)
    amplitude = rng.uniform(*_SEASON)
    return Market(
        visit_shape=rng.uniform(*_VISIT_RATE_SHAPE),
        visit_scale=rng.uniform(*_VISIT_RATE_SCALE),
        visit_persistence=float(rng.choice(_VISIT_PERSISTENCE)),
        visit_drift=rng.uniform(*_VISIT_DRIFT),
        pause=rng.uniform(*_PAUSE),
        pause_end=rng.uniform(*_PAUSE_END),
        churn=rng.uniform(*_CHURN),
        late=float(rng.choice(_LATE)),
        taste_spread=rng.uniform(*_TASTE_SPREAD),
        taste_correlation=rng.uniform(*_TASTE_CORRELATION),
        jump=float(rng.choice(_JUMPS)),
        popularity=rng.normal(mean, spread, categories).astype(np.float32),
        persistence=rng.choice(_TASTE_PERSISTENCE, categories).astype(np.float32),
        drift=rng.uniform(_TASTE_DRIFT_LEAST, most, categories).astype(np.float32),
        season=(amplitude * rng.exponential(size=categories)).astype(np.float32),
        phase=rng.uniform(0, 2 * np.pi, categories).astype(np.float32),
        stock=rng.choice(_STOCK_WEEKS, categories).astype(np.float32),
    )


def made_up_shoppers(
    seed: int | tuple[int, ...],
    *,
    shoppers: int,
    categories: int = CATEGORIES,
    weeks: int = WEEKS,
) -> Histories:
    """Draw one set: a market, and the histories of its shoppers.

    Args:
        seed: Of everything; a tuple such as (seed, number of the set) is one seed.
        shoppers: Number of shoppers, N.
        categories: Number of categories, K.
        weeks: Number of weeks that the shop's records cover.

    Returns:
        Histories whose records begin on day 0. Shoppers without a visit are among them.

    Guarantees:
        The result is a function of the arguments alone: no data are read.
    """
    rng = np.random.default_rng(seed)
    return simulate(draw_market(rng, categories), shoppers=shoppers, weeks=weeks, rng=rng)


def simulate(market: Market, *, shoppers: int, weeks: int, rng: np.random.Generator) -> Histories:
    """Draw the histories of a market's shoppers; see `made_up_shoppers`."""
    visits = _Visits(market, shoppers, weeks, rng)
    basket = _Baskets(market, shoppers, rng)
    owners, days, classes, sizes = [], [], [], []
    for week in range(weeks):
        counts = visits.next_week(week)
        owner = np.repeat(np.arange(shoppers), counts)
        bought = basket.next_week(week, owner)  # [visits of the week, K]
        owners.append(owner)
        days.append(7.0 * (week + rng.random(len(owner))))
        classes.append(np.nonzero(bought)[1])
        sizes.append(bought.sum(1))
    return _histories(
        shoppers,
        np.concatenate(owners),
        np.concatenate(days),
        np.concatenate(classes),
        np.concatenate(sizes),
    )


class _Visits:
    """The weekly numbers of visits of N shoppers."""

    def __init__(self, market: Market, shoppers: int, weeks: int, rng: np.random.Generator) -> None:
        self._market, self._rng = market, rng
        late = rng.random(shoppers) < market.late
        self._joins = late * rng.integers(0, weeks, shoppers)
        rate = rng.gamma(market.visit_shape, market.visit_scale, shoppers)
        self._rate = rate.clip(*_VISIT_RATE_BOUNDS)
        self._drift = rng.normal(0, market.visit_drift, shoppers)
        self._paused = np.zeros(shoppers, dtype=bool)
        self._gone = np.zeros(shoppers, dtype=bool)

    def next_week(self, week: int) -> Ints:
        """[N] visits of the next week, whose number counts from 0."""
        market, rng, shoppers = self._market, self._rng, len(self._rate)
        self._drift = _drifted(self._drift, market.visit_persistence, market.visit_drift, rng)
        draw = rng.random(shoppers)
        self._paused = np.where(self._paused, draw >= market.pause_end, draw < market.pause)
        self._gone |= rng.random(shoppers) < market.churn
        away = self._paused | self._gone | (week < self._joins)
        rate = self._rate * np.exp(self._drift) * ~away
        return np.minimum(rng.poisson(rate), _MOST_VISITS)


class _Baskets:
    """What the visits of N shoppers contain, of K categories."""

    def __init__(self, market: Market, shoppers: int, rng: np.random.Generator) -> None:
        self._market, self._rng = market, rng
        shape = (shoppers, market.categories)
        loadings = rng.normal(0, market.taste_correlation, (_TASTE_RANK, market.categories))
        common = rng.normal(size=(shoppers, _TASTE_RANK)) @ loadings
        self._taste = (common + rng.normal(0, market.taste_spread, shape)).astype(np.float32)
        self._drift = rng.standard_normal(shape, dtype=np.float32) * market.drift
        self._shock = np.zeros(market.categories, dtype=np.float32)
        lasts = market.stock * rng.uniform(*_STOCK_OF_SHOPPER, (shoppers, 1))
        # Without stock the rate of being used up is infinite, and the factor exactly 1.
        self._use = np.where(lasts > 0, 1 / np.maximum(lasts, 1e-6), np.inf).astype(np.float32)
        self._age = np.full(shape, _FIRST_STOCK_AGE, dtype=np.float32)

    def next_week(self, week: int, owner: Ints) -> npt.NDArray[np.bool_]:
        """[V, K] whether each of the week's visits, by its shopper [V], has the category."""
        market, rng = self._market, self._rng
        self._drift = _drifted(self._drift, market.persistence, market.drift, rng)
        innovation = _SHOCK_SPREAD * rng.standard_normal(market.categories, dtype=np.float32)
        self._shock = _SHOCK_PERSISTENCE * self._shock + innovation
        if market.jump:
            shopper, category = np.nonzero(
                rng.random(self._taste.shape, dtype=np.float32) < market.jump
            )
            self._taste[shopper, category] = rng.normal(0, market.taste_spread, len(shopper))
        season = market.season * np.sin(2 * np.pi * week / 52 + market.phase)
        logit = (market.popularity + self._shock + season) + self._taste + self._drift
        chance = -np.expm1(-self._age * self._use) / (1 + np.exp(-logit))
        draw = rng.random((len(owner), market.categories), dtype=np.float32)
        bought: npt.NDArray[np.bool_] = draw < chance[owner]
        visit, category = np.nonzero(bought)
        self._age += 1
        # Half a week: a purchase is in the middle of its week, on average.
        self._age[owner[visit], category] = 0.5
        return bought


def _drifted(
    state: npt.NDArray[Any],
    persistence: float | Floats,
    spread: float | Floats,
    rng: np.random.Generator,
) -> npt.NDArray[Any]:
    """The next state of AR(1) processes with this stationary standard deviation."""
    innovation = rng.standard_normal(state.shape, dtype=np.float32) * spread
    moved = persistence * state + np.sqrt(1 - np.square(persistence)) * innovation
    drifted: npt.NDArray[Any] = moved.astype(state.dtype)
    return drifted


def _histories(
    shoppers: int, owners: Ints, days: npt.NDArray[np.float64], classes: Ints, sizes: Ints
) -> Histories:
    """Sort the visits of all weeks, with their categories, by shopper and day."""
    order = np.lexsort((days, owners))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    by_visit = np.argsort(np.repeat(rank, sizes), kind="stable")
    return Histories(
        customers=np.array([f"shopper-{i:07d}" for i in range(shoppers)]),
        homes=np.full(shoppers, -1, dtype=np.int64),
        visit_offsets=offsets_of(np.bincount(owners, minlength=shoppers)),
        visit_days=days[order],
        visit_vectors=np.zeros((len(order), 0), dtype=np.float16),
        visit_facts=np.zeros((len(order), len(FACTS)), dtype=np.float32),
        pair_offsets=offsets_of(sizes[order]),
        pair_classes=classes[by_visit].astype(np.int32),
        observed_from=0.0,
    )
