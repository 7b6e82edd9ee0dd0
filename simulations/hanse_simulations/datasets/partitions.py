"""Assign shops and households to stores: regions, home shops, shop of purchase.

There are two steps, so that no household influences where another one belongs:

- Which shops make up a store is a public input, a table that is frozen. It was made once, from
  all households of this public data set (`hanse_simulations.datasets.freezing`), and is never
  counted again: the stores do not depend on who is in the data.
- Which store a household belongs to follows from that table and from where this household
  itself shopped in the training weeks.

>>> visits = pl.DataFrame({"user_id": [1, 1, 2], "shop_id": [7, 8, 8], "baskets": [3, 1, 2]})
>>> shops = pl.DataFrame({"shop_id": [7, 8], "store": ["shop-7", "shop-8"]})
>>> table = StoreTable(shops=shops, households={"shop-7": 10, "shop-8": 10})
>>> home_shops(visits, table).customers.rows()
[(1, 'shop-7'), (2, 'shop-8')]
>>> shops_of_purchase(visits, table).customers.rows()
[(1, 'shop-7'), (1, 'shop-8'), (2, 'shop-8')]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import polars as pl

from hanse_client.features.by_customer import lots
from hanse_common.errors import ConfigError, DataError

if TYPE_CHECKING:
    from hanse_common.config import Partition as PartitionName

FROZEN: Final = Path(__file__).with_name("complete_journey_stores.csv")
"""`partition, store, households, shop_id`, the stores of a partition from the largest down."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreTable:
    """The shops of each store: public, and independent of who shops there."""

    shops: pl.DataFrame
    """`shop_id, store`; a shop is part of one store at most."""
    households: Mapping[str, int]
    """Number of households of each store when the table was made, the largest first. A public
    constant: a count of the present data never replaces it."""

    def limited(self, *, min_customers: int, stores: int | None) -> StoreTable:
        """Leave out small stores and keep the largest ones, by the table's own numbers.

        Args:
            min_customers: Stores that had fewer households are left out.
            stores: Number of the others to keep.

        Raises:
            DataError [too-few-customers]: No store had `min_customers`.
            ConfigError: There are not as many as `stores`.
        """
        large = [name for name, count in self.households.items() if count >= min_customers]
        if not large:
            raise DataError(
                f"no store has data.min_customers={min_customers} customers",
                code="too-few-customers",
                hint=f"the largest has {max(self.households.values(), default=0)}",
            )
        if stores is not None and stores > len(large):
            raise ConfigError(
                f"data.stores={stores}, and only {len(large)} stores have "
                f"data.min_customers={min_customers} customers",
                hint=f"ask for at most {len(large)}",
            )
        names = large[:stores]
        return StoreTable(
            shops=self.shops.filter(pl.col("store").is_in(names)),
            households={name: self.households[name] for name in names},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Partition:
    """Stores and their customers; a store holds their purchases at its own shops only."""

    customers: pl.DataFrame
    """`user_id, store`, sorted; a customer of several stores has several rows."""
    stores: StoreTable

    @property
    def names(self) -> list[str]:
        """The stores' names, sorted: those of the table, independent of who shops there."""
        return sorted(self.stores.households)

    @property
    def sizes(self) -> dict[str, int]:
        """Customers of each store as the data have them, in the order of the table."""
        counted = dict(self.customers.group_by("store").len().iter_rows())
        return {name: counted.get(name, 0) for name in self.stores.households}

    def events_of(self, purchases: pl.DataFrame, store: str) -> pl.DataFrame:
        """Return the rows of `purchases` that a store's own tills and customer list show it."""
        shops = self.stores.shops.filter(pl.col("store") == store)
        customers = self.customers.filter(pl.col("store") == store)
        return purchases.filter(
            pl.col("shop_id").is_in(shops["shop_id"].to_list())
            & pl.col("user_id").is_in(customers["user_id"].to_list())
        )

    def limited(
        self, *, min_customers: int, stores: int | None, customers: int | None, seed: int
    ) -> Partition:
        """Leave out small stores, keep the largest ones, and a sample of each one's customers.

        Args:
            min_customers: Stores that the table gives fewer households are left out.
            stores: Number of the others to keep.
            customers: Approximate number of customers to keep of each store.
            seed: Seed of the sample.

        Raises:
            DataError [too-few-customers], ConfigError: See `StoreTable.limited`.

        Guarantees:
            Whether a customer is in the sample depends on the seed, on their own id and on the
            table: each is kept with the same chance, by a keyed hash. A store therefore has
            about `customers`, not exactly; an exact number would let one customer's absence
            bring in another.
        """
        table = self.stores.limited(min_customers=min_customers, stores=stores)
        chosen = self.customers.filter(pl.col("store").is_in(list(table.households)))
        if customers is not None:
            # The count is the table's: with today's, one customer less would raise the rate of all.
            parts = [
                _sample(
                    chosen.filter(pl.col("store") == name),
                    customers / count,
                    f"sample/{seed}/{name}",
                )
                for name, count in table.households.items()
            ]
            chosen = pl.concat(parts).sort("user_id", "store")
        return Partition(customers=chosen, stores=table)


def frozen_stores(partition: PartitionName) -> StoreTable:
    """Read the stores of Complete Journey: every one that had ten households or more.

    Args:
        partition: `regions`, `home` or `visits`.
    """
    rows = pl.read_csv(FROZEN).filter(pl.col("partition") == partition)
    return StoreTable(
        shops=rows.select("shop_id", "store").sort("shop_id"),
        households=dict(rows.select("store", "households").iter_rows()),
    )


def assigned(visits: pl.DataFrame, partition: PartitionName, table: StoreTable) -> Partition:
    """Assign each household its store or stores.

    Args:
        visits: `user_id, shop_id, baskets`, a row per customer and shop.
        partition: `regions`, `home` or `visits`.
        table: The stores.

    Guarantees:
        A household's stores depend on the table and on its own visits alone.
    """
    kinds = {"regions": regions, "home": home_shops, "visits": shops_of_purchase}
    return kinds[partition](visits, table)


def regions(visits: pl.DataFrame, table: StoreTable) -> Partition:
    """Each customer belongs to the store with most of their baskets; see `assigned`.

    Edge cases:
        Of stores with equally many baskets it is that of the shop where the customer has most
        of them, and of such shops that of the lowest number. Who bought at no shop of the table
        belongs to none.
    """
    ranked = _by_baskets(visits.join(table.shops, on="shop_id"))
    totals = ranked.group_by("user_id", "store", maintain_order=True).agg(
        pl.col("baskets").sum().alias("total"), pl.col("baskets", "shop_id").first()
    )
    order = ["user_id", "total", "baskets", "shop_id"]
    home = totals.sort(order, descending=[False, True, True, False])
    home = home.unique("user_id", keep="first", maintain_order=True)
    return Partition(customers=home.select("user_id", "store"), stores=table)


def home_shops(visits: pl.DataFrame, table: StoreTable) -> Partition:
    """Each customer belongs to the shop with most of their baskets, where it is a store.

    Edge cases:
        Of shops with equally many baskets it is the one with the lowest number. Whose home shop
        is not in the table belongs to no store.
    """
    home = home_shop(visits).join(table.shops, on="shop_id")
    return Partition(customers=home.select("user_id", "store").sort("user_id"), stores=table)


def shops_of_purchase(visits: pl.DataFrame, table: StoreTable) -> Partition:
    """Each customer belongs to every store where they bought; see `assigned`."""
    pairs = visits.join(table.shops, on="shop_id").select("user_id", "store").unique()
    return Partition(customers=pairs.sort("user_id", "store"), stores=table)


def home_shop(visits: pl.DataFrame) -> pl.DataFrame:
    """Keep each customer's row of most baskets; of equal ones that of the lowest `shop_id`."""
    return _by_baskets(visits).unique("user_id", keep="first", maintain_order=True)


def _by_baskets(visits: pl.DataFrame) -> pl.DataFrame:
    return visits.sort(["user_id", "baskets", "shop_id"], descending=[False, True, False])


def _sample(customers: pl.DataFrame, rate: float, key: str) -> pl.DataFrame:
    drawn = lots(customers["user_id"].cast(pl.String), key=key)
    return customers.filter(pl.Series(drawn < rate, dtype=pl.Boolean))
