"""A seeded generator of stores of any size, for scale and for tests; nothing in it is real.

Customers have tastes that last: a personal rate for every category, favourites within it,
days and hours. Some tastes rise or fall over some six weeks around a time of their own, and
what falls may pass to a neighbouring category. Stores differ in what sells and when.

>>> stores = dict(load(DataSettings(source="synthetic", stores=2, customers=10), seed=7).stores)
>>> list(stores), stores["synthetic-01"]["user_id"].n_unique()
(['synthetic-01', 'synthetic-02'], 10)
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from hanse_common.config import DataSettings, Split
from hanse_simulations.datasets.aisles import SHELVES
from hanse_simulations.datasets.dataset import Dataset

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

DEFAULT_STORES: Final = 6
DEFAULT_CUSTOMERS: Final = 40
WEEKS: Final = 52
START: Final = datetime(2023, 1, 2)
SPLIT: Final = Split(
    train_until=START + timedelta(weeks=42),
    validate_until=START + timedelta(weeks=47),
    test_until=START + timedelta(weeks=WEEKS),
)
NOTE: Final = "Synthetic stores from a seeded generator: no real customer, shop or purchase."

_BRANDS: Final = ("house", "classic", "premium", "organic")
_CATEGORIES: Final = len(SHELVES)
_KINDS: Final = 3
_ITEMS: Final = _KINDS * len(_BRANDS)  # of a category
_TRIPS_A_WEEK: Final = 1.3
_LINES_A_TRIP: Final = 10.0
_AT_ONCE: Final = 1_000  # customers; bounds memory at some 100 MB
_CHANGING: Final = 0.3  # share of tastes that start or stop within the year
_WEEKS_OF_CHANGE: Final = 1.5  # scale of the logistic curve: 10 to 90 % in six weeks
_MIGRATING: Final = 0.5  # share of falling tastes that a neighbouring category inherits


@dataclass(frozen=True, kw_only=True, slots=True)
class _Store:
    """Parameters in which a store differs from the others."""

    name: str
    popularity: Floats  # (categories,), log
    day: Floats  # (7,), log
    price: Floats  # (categories * items, weeks)
    item_cdf: Floats  # (categories, items)


def load(data: DataSettings, *, seed: int) -> Dataset:
    """Generate stores one by one as they are read.

    Args:
        data: Settings, for the number of stores and of customers per store.
        seed: The same seed gives the same stores; more stores do not change the first ones.
    """
    count = DEFAULT_STORES if data.stores is None else data.stores
    customers = DEFAULT_CUSTOMERS if data.customers is None else data.customers
    return Dataset(
        stores=_stores(count, customers, seed),
        catalogue=_catalogue(),
        observed_from=START.date(),
        split=SPLIT,
        note=NOTE,
        facts={"generator": "synthetic", "customers_per_store": customers},
    )


def _catalogue() -> pl.DataFrame:
    rows = [
        (f"{kind}, {category}, {department}", f"{department}/{category}/{kind}".upper(), brand)
        for department, category, kinds in SHELVES
        for kind in kinds
        for brand in _BRANDS
    ]
    return pl.DataFrame(
        {
            "item_id": [f"synthetic-{index:04d}" for index in range(len(rows))],
            "text": [f"synthetic item: {text}" for text, _, _ in rows],
            "category": [category for _, category, _ in rows],
            "brand": [f"synthetic {brand}" for _, _, brand in rows],
        }
    )


def _stores(count: int, customers: int, seed: int) -> Iterator[tuple[str, pl.DataFrame]]:
    world = np.random.default_rng([seed, 0])
    popularity = world.normal(0, 0.8, _CATEGORIES)
    base_price = np.exp(world.normal(1.0, 0.6, (_CATEGORIES * _ITEMS, 1)))
    digits = max(2, len(str(count)))
    for index in range(count):
        rng = np.random.default_rng([seed, 1 + index])
        reduced = rng.random((_CATEGORIES * _ITEMS, WEEKS)) < 0.08
        item_weights = rng.gamma(0.7, size=(_CATEGORIES, _ITEMS)) + 0.02
        store = _Store(
            name=f"synthetic-{index + 1:0{digits}d}",
            popularity=popularity + rng.normal(0, 0.5, _CATEGORIES),
            day=np.log(rng.dirichlet(np.full(7, 12.0))),
            price=base_price * rng.uniform(0.9, 1.1) * np.where(reduced, 0.75, 1.0),
            item_cdf=np.cumsum(item_weights / item_weights.sum(axis=1, keepdims=True), axis=1),
        )
        parts = [
            _events(store, rng, first, min(_AT_ONCE, customers - first))
            for first in range(0, customers, _AT_ONCE)
        ]
        yield (
            store.name,
            pl.concat(parts).sort("timestamp", "user_id", "basket_id", "item_id"),
        )


def _events(store: _Store, rng: np.random.Generator, first: int, customers: int) -> pl.DataFrame:
    """Draw a year of purchases of `customers` customers, numbered from `first`."""
    habit = np.clip(rng.gamma(4.0, _TRIPS_A_WEEK / 4.0, customers), 0.3, None)
    trips = np.minimum(rng.poisson(habit[:, None], (customers, WEEKS)), 7)
    bought = rng.poisson(_line_rates(store, rng, customers) * trips[:, None, :])
    cells = np.nonzero(bought)  # customer, category, week
    who, category, week = (np.repeat(index, bought[cells]) for index in cells)

    first_trip = (np.cumsum(trips) - trips.ravel()).reshape(trips.shape)
    trip = first_trip[who, week] + (rng.random(len(who)) * trips[who, week]).astype(np.int64)
    item = category * _ITEMS + _choose_items(store, rng, who, category, customers)
    lines = pl.DataFrame({"trip": trip, "item": item}).group_by("trip", "item").len("quantity")
    lines = lines.sort("trip", "item")
    trip, item = lines["trip"].to_numpy(), lines["item"].to_numpy()

    trip_customer, trip_week = (
        np.repeat(index, trips.ravel()) for index in np.indices(trips.shape).reshape(2, -1)
    )
    user = pl.concat_str(
        pl.lit(f"{store.name}-customer-"),
        pl.Series("user", first + 1 + trip_customer[trip]).cast(pl.String).str.zfill(5),
    )
    return pl.select(
        user_id=user,
        item_id=pl.concat_str(
            pl.lit("synthetic-"), pl.Series("item", item).cast(pl.String).str.zfill(4)
        ),
        timestamp=pl.Series("time", _trip_times(store, rng, trip_customer, trip_week)[trip]),
        basket_id=pl.concat_str(user, pl.lit("-"), pl.Series("trip", trip).cast(pl.String)),
        shop_id=pl.lit(store.name),
        quantity=lines["quantity"].cast(pl.Float64),
        price=pl.Series("price", store.price[item, trip_week[trip]]).round(2),
    )


def _line_rates(store: _Store, rng: np.random.Generator, customers: int) -> Floats:
    """Return expected lines per trip; (customers, categories, weeks)."""
    shape = (customers, _CATEGORIES)
    taste = np.exp(store.popularity + rng.normal(0, 1.1, shape))
    change = np.where(rng.random(shape) < _CHANGING, rng.choice([-1, 1], shape), 0)
    when = rng.uniform(4, WEEKS + 2, shape)
    passes_on = (change < 0) & (rng.random(shape) < _MIGRATING)
    customer, falling = np.nonzero(passes_on)
    rising = _neighbours()[falling]
    change[customer, rising] = 1
    when[customer, rising] = when[customer, falling]
    taste[customer, rising] = np.maximum(taste[customer, rising], taste[customer, falling])

    basket = rng.gamma(6.0, _LINES_A_TRIP / 6.0, customers)
    rates = basket[:, None] * taste / taste.sum(axis=1, keepdims=True)
    week = np.arange(WEEKS)
    exponent = change[..., None] * (week - when[..., None]) / _WEEKS_OF_CHANGE
    level = np.where(change[..., None] == 0, 1.0, 1 / (1 + np.exp(-np.clip(exponent, -30, 30))))
    peak = np.arange(_CATEGORIES) * 17 % WEEKS  # every category has its season
    season = 1 + 0.2 * np.cos(2 * np.pi * (week - peak[:, None]) / WEEKS)
    return np.asarray(rates[..., None] * level * season)


def _neighbours() -> Integers:
    """Return the next category of the same department, cyclically."""
    departments = [department for department, _, _ in SHELVES]
    following = [*departments[1:], ""]
    return np.array(
        [
            index + 1 if following[index] == department else departments.index(department)
            for index, department in enumerate(departments)
        ]
    )


def _choose_items(
    store: _Store,
    rng: np.random.Generator,
    who: Integers,
    category: Integers,
    customers: int,
) -> Integers:
    """Choose the item bought in a category, mostly one of two favourites; (lines,)."""
    favourites = [
        _draw(store.item_cdf[None], rng.random((customers, _CATEGORIES))) for _ in range(2)
    ]
    other = _draw(store.item_cdf[category], rng.random(len(who)))
    mood = rng.random(len(who))
    first, second = (favourite[who, category] for favourite in favourites)
    return np.where(mood < 0.6, first, np.where(mood < 0.8, second, other))


def _draw(cdf: Floats, uniform: Floats) -> Integers:
    """Invert distribution functions along the last axis of `cdf`."""
    below = (cdf < uniform[..., None]).sum(axis=-1)
    return np.asarray(np.minimum(below, cdf.shape[-1] - 1))


def _trip_times(
    store: _Store, rng: np.random.Generator, customer: Integers, week: Integers
) -> NDArray[np.datetime64]:
    """Draw the time of each trip: personal days and hours on top of the store's; (trips,)."""
    customers = int(customer.max(initial=-1)) + 1
    day_taste = store.day + rng.normal(0, 1.0, (customers, 7))
    hour_taste = rng.uniform(9, 20, customers)
    day = np.argmax(day_taste[customer] + rng.gumbel(size=(len(customer), 7)), axis=1)
    hour = np.clip(rng.normal(hour_taste[customer], 1.5), 7, 21.99)
    seconds = (week * 7 + day) * 86_400 + (hour * 3_600).astype(np.int64)
    return np.asarray(np.datetime64(START, "us") + seconds * np.timedelta64(1_000_000, "us"))
