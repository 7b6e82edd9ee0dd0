"""Predictions as tables: rankings, outlooks, forecasts, demand and audiences."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from hanse_client.analytics.demand import Demand
from hanse_client.features.histories import item_class
from hanse_client.inference.choices import Candidates
from hanse_client.inference.load import OpenStore
from hanse_client.inference.predict import Answers, ranked
from hanse_client.tasks.interest import InterestConfig
from hanse_common.errors import DataError

_RANKING = {
    "user_id": pl.String,
    "item_id": pl.String,
    "category": pl.String,
    "score": pl.Float32,
    "rank": pl.Int32,
}
_DEMAND = ["expected", "low", "high", "before", "usual", "fall", "rise", "buyers", "buyers_spread"]
_WITHIN = {
    "user_id": pl.String,
    "item_id": pl.String,
    "horizon_days": pl.Int32,
    "expected": pl.Float32,
    "chance": pl.Float32,
}
_OUTLOOK = {
    "user_id": pl.String,
    "item_id": pl.String,
    "visits": pl.Float32,
    "fall": pl.Float32,
    "stay": pl.Float32,
    "rise": pl.Float32,
}


def ranking_table(
    store: OpenStore,
    config: InterestConfig,
    parts: Iterable[Answers],
    *,
    top: int,
    candidates: Candidates,
) -> pl.DataFrame:
    """The best classes of every customer, one row per customer and class.

    Returns:
        `user_id` (the store's pseudonym), `item_id` (the class, whatever its level),
        `category` (null for a product if the catalogue was not read), `score` (share of the
        next basket), `rank` (from 1).
    """
    names = np.array(config.classes)
    categories = np.array([_category_of(name, config.level, store) for name in config.classes])
    tables = [pl.DataFrame(schema=_RANKING)]
    for part in parts:
        lists = ranked(part, top=top, candidates=candidates)
        sizes = [len(one) for one in lists]
        rows = np.repeat(np.arange(len(lists)), sizes)
        classes = np.concatenate(lists)
        columns = {
            "user_id": store.histories.customers[part.customers[rows]],
            "item_id": names[classes],
            "category": categories[classes].tolist(),
            "score": part.shares[rows, classes],
            "rank": np.concatenate([np.arange(1, size + 1) for size in sizes]),
        }
        tables.append(pl.DataFrame(columns, schema_overrides=_RANKING))
    return pl.concat(tables)


def _category_of(name: str, level: str, store: OpenStore) -> str | None:
    """A class's category, the first two steps of its path; None if it is not known."""
    path = store.categories.get(name) if level == "product" else name
    return None if path is None else item_class(path, name, "category")


def outlook_table(
    store: OpenStore, config: InterestConfig, parts: Iterable[Answers]
) -> pl.DataFrame:
    """The probabilities of fall, stay and rise of every interest of every customer.

    Returns:
        `user_id`, `item_id` (the class), `visits` with it in the reference days, `fall`,
        `stay`, `rise`.
    """
    names = np.array(config.classes)
    tables = [pl.DataFrame(schema=_OUTLOOK)]
    for part in parts:
        rows, classes = np.nonzero(part.interest)
        fall, stay, rise = part.chances[rows, classes].T
        columns = {
            "user_id": store.histories.customers[part.customers[rows]],
            "item_id": names[classes],
            "visits": part.recent[rows, classes],
            "fall": fall,
            "stay": stay,
            "rise": rise,
        }
        tables.append(pl.DataFrame(columns, schema_overrides=_OUTLOOK))
    return pl.concat(tables)


def within_table(
    store: OpenStore, config: InterestConfig, parts: Iterable[Answers]
) -> pl.DataFrame:
    """Forecasts by horizon for each customer and each class that the customer bought before.

    Returns:
        `user_id`, `item_id` (the class), `horizon_days`, `expected` visits, `chance` of at least
        one.
    """
    names = np.array(config.classes)
    horizons = np.array(config.horizons)
    tables = [pl.DataFrame(schema=_WITHIN)]
    for part in parts:
        rows, classes = np.nonzero(part.seen)
        expected = part.expected[rows, classes]  # [k, H]
        columns = {
            "user_id": np.repeat(store.histories.customers[part.customers[rows]], len(horizons)),
            "item_id": np.repeat(names[classes], len(horizons)),
            "horizon_days": np.tile(horizons, len(rows)),
            "expected": expected.ravel(),
            "chance": -np.expm1(-expected.ravel()),  # P(at least one) of a Poisson variable
        }
        tables.append(pl.DataFrame(columns, schema_overrides=_WITHIN))
    return pl.concat(tables)


def demand_table(config: InterestConfig, demand: Demand) -> pl.DataFrame:
    """A shop's demand by class and horizon, the largest expectation first.

    Returns:
        `item_id` (the class), `horizon_days`, `expected` visits, the interval `low` to `high`
        with a coverage of nine in ten, `before` (visits in as many days before), `usual` (the
        mean over the reference days), probabilities of a `fall` below and a `rise` above what is
        usual, `buyers` (expected number) and `buyers_spread` (its standard deviation).
    """
    classes, horizons = len(config.classes), len(config.horizons)
    columns = {
        "item_id": np.repeat(np.array(config.classes), horizons),
        "horizon_days": np.tile(np.array(config.horizons, dtype=np.int32), classes),
        **{name: getattr(demand, name).ravel() for name in _DEMAND},
    }
    return pl.DataFrame(columns).sort(
        ["horizon_days", "expected", "item_id"], descending=[False, True, False]
    )


def shop_outlook(outlook: pl.DataFrame) -> pl.DataFrame:
    """The outlook of all customers of a shop together, by class.

    Returns:
        `item_id` (the class), `customers` with an interest, mean probabilities `fall`, `stay`,
        `rise`, and `balance` (`rise` minus `fall`), by which rows are sorted, largest first.
    """
    chances = [pl.col(name).mean() for name in ("fall", "stay", "rise")]
    return (
        outlook.group_by("item_id")
        .agg(pl.len().alias("customers"), *chances)
        .with_columns(balance=pl.col("rise") - pl.col("fall"))
        .sort(["balance", "item_id"], descending=[True, False])
    )


def audience_table(
    store: OpenStore,
    parts: Iterable[Answers],
    classes: npt.NDArray[np.int64],
    *,
    top: int,
    candidates: Candidates,
) -> pl.DataFrame:
    """The customers in whose next basket the given classes have the largest share.

    Args:
        store: The store.
        parts: The model's answers.
        classes: Class indices, at least one.
        top: The number of customers.
        candidates: All customers, or only those who never bought any of these classes.

    Returns:
        `user_id`, `score` (the classes' share of the next basket), `rank` (from 1).
    """
    shares: list[npt.NDArray[np.float32]] = []
    customers: list[npt.NDArray[np.int64]] = []
    for part in parts:
        bought = np.any(part.seen[:, classes], axis=1)
        allowed = np.flatnonzero(~bought | (candidates is Candidates.ALL))
        customers.append(part.customers[allowed])
        shares.append(part.shares[allowed][:, classes].sum(axis=1))
    scores, owners = np.concatenate(shares), np.concatenate(customers)
    best = np.argsort(-scores, kind="stable")[:top]
    return pl.DataFrame(
        {
            "user_id": store.histories.customers[owners[best]],
            "score": scores[best],
            "rank": np.arange(1, len(best) + 1),
        },
        schema_overrides={"user_id": pl.String, "score": pl.Float32, "rank": pl.Int32},
    )


def classes_of(category: str, config: InterestConfig, store: OpenStore) -> npt.NDArray[np.int64]:
    """Indices of the class with a category's name and of all classes below this path.

    Args:
        category: A class, or a path that several classes share, such as `GROCERY`; case does not
            matter.
        config: The model's vocabulary.
        store: The store; its catalogue, if it was read, has the categories of products.

    Raises:
        DataError [unknown-category]: The model ranks no such class; the hint lists the nearest
            names.
    """
    paths = _paths(config, store)
    wanted = category.strip().strip("/").casefold()
    indices = [
        index
        for index, names in enumerate(paths)
        # With the slash, so that `GROCERY/CHEESE` does not select `GROCERY/CHEESECAKE`.
        if any(f"{name.casefold()}/".startswith(f"{wanted}/") for name in names)
    ]
    if wanted and indices:
        return np.array(indices, dtype=np.int64)
    known = {name.casefold(): name for names in paths for name in names}
    known |= {name.split("/")[0].casefold(): name.split("/")[0] for name in known.values()}
    # The last step of a path, which people type without the path.
    steps = {name.rsplit("/", 1)[-1]: full for name, full in known.items()}
    near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
    near = [known[name] for name in near]
    near += [steps[name] for name in difflib.get_close_matches(wanted, steps, n=3, cutoff=0.6)]
    hint = f"did you mean {' or '.join(map(repr, dict.fromkeys(near)))}?" if near else ""
    raise DataError(
        f"the model ranks no category {category!r}",
        code="unknown-category",
        hint=hint or f"it ranks {len(paths)} classes, such as {config.classes[0]!r}",
    )


def _paths(config: InterestConfig, store: OpenStore) -> list[Sequence[str]]:
    """The names by which each class can be selected."""
    if config.level != "product":
        return [(name,) for name in config.classes]
    return [
        (name, store.categories[name]) if name in store.categories else (name,)
        for name in config.classes
    ]
