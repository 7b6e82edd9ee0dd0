"""Which shop and which customer belong to which store: regions, home shops, shop of purchase.

Everything is decided by where customers shopped in the training weeks. A region is a cluster
of shops that the same customers visit: spectral clustering (von Luxburg 2007) of the cosine
between shops' columns of log(1 + baskets), with the parameter-free, deterministic assignment
of Damle, Minden and Ying (2019).

>>> visits = pl.DataFrame({"user_id": [1, 1, 2], "shop_id": [7, 8, 8], "baskets": [3, 1, 2]})
>>> home_shops(visits).customers.rows()
[(1, 'shop-7'), (2, 'shop-8')]
>>> shops_of_purchase(visits).customers.rows()
[(1, 'shop-7'), (1, 'shop-8'), (2, 'shop-8')]
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from hanse_common.errors import ConfigError, TooFewCustomers

if TYPE_CHECKING:
    from numpy.typing import NDArray

REGIONS = 12
_CORE_CUSTOMERS = 10
"""Shops with fewer home customers join the region they share most customers with: alone they
would be clusters of one household."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Partition:
    """Stores hold what their customers bought at their shops, and nothing else."""

    customers: pl.DataFrame
    """`user_id, store`, sorted; a customer of several stores has several rows."""
    shops: pl.DataFrame
    """`shop_id, store`, sorted; a shop is part of one store at most."""

    @property
    def sizes(self) -> dict[str, int]:
        """Customers of each store, the largest first and equal ones by name."""
        counted = (
            self.customers.group_by("store").len().sort(["len", "store"], descending=[True, False])
        )
        return dict(counted.iter_rows())

    def events_of(self, purchases: pl.DataFrame, store: str) -> pl.DataFrame:
        """Return the rows of `purchases` that a store's own tills and customer list show it."""
        shops = self.shops.filter(pl.col("store") == store)
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
            min_customers: Stores with fewer customers are left out.
            stores: How many of the others to keep.
            customers: The most customers to keep of each store.
            seed: Of the sample, which for one store does not depend on the others.

        Raises:
            TooFewCustomers: No store has `min_customers`.
            ConfigError: There are not as many as `stores`.
        """
        sizes = {name: size for name, size in self.sizes.items() if size >= min_customers}
        if not sizes:
            raise TooFewCustomers(
                f"no store has data.min_customers={min_customers} customers",
                hint=f"the largest has {max(self.sizes.values(), default=0)}",
            )
        if stores is not None and stores > len(sizes):
            raise ConfigError(
                f"data.stores={stores}, and only {len(sizes)} stores have "
                f"data.min_customers={min_customers} customers",
                hint=f"ask for at most {len(sizes)}",
            )
        names = list(sizes)[:stores]
        kept = self.customers.filter(pl.col("store").is_in(names))
        if customers is not None:
            samples = [
                _sample(kept.filter(pl.col("store") == name), customers, (seed, name))
                for name in names
            ]
            kept = pl.concat(samples).sort("user_id", "store")
        return Partition(customers=kept, shops=self.shops.filter(pl.col("store").is_in(names)))


def home_shops(visits: pl.DataFrame) -> Partition:
    """Make each shop a store of the customers who have most of their baskets there.

    Args:
        visits: `user_id, shop_id, baskets`, a row per customer and shop.
    """
    return Partition(
        customers=_home(visits).select("user_id", store=_shop_name()).sort("user_id"),
        shops=visits.select("shop_id", store=_shop_name()).unique().sort("shop_id"),
    )


def shops_of_purchase(visits: pl.DataFrame) -> Partition:
    """Make each shop a store of everybody who bought there; see `home_shops`."""
    return Partition(
        customers=visits.select("user_id", store=_shop_name()).unique().sort("user_id", "store"),
        shops=visits.select("shop_id", store=_shop_name()).unique().sort("shop_id"),
    )


def regions(visits: pl.DataFrame, *, count: int = REGIONS) -> Partition:
    """Join shops that the same customers visit; each customer belongs where most baskets are.

    Args:
        visits: `user_id, shop_id, baskets`, a row per customer and shop.
        count: How many regions.

    Returns:
        `region-01` (most customers) and so on. Shops that share no customer with any of the
        larger shops belong to none, nor do customers who shop only there.

    Raises:
        TooFewCustomers: Fewer than `count` shops are large enough to form regions.
    """
    shops = visits["shop_id"].unique().sort()
    cluster = _cluster_shops(visits, shops, count)
    shop_clusters = pl.DataFrame({"shop_id": shops, "cluster": cluster}).filter(
        pl.col("cluster") >= 0
    )
    by_cluster = visits.join(shop_clusters, on="shop_id").group_by("user_id", "cluster")
    home = _home(by_cluster.agg(pl.col("baskets").sum()).rename({"cluster": "shop_id"}))
    sizes = home.rename({"shop_id": "cluster"}).group_by("cluster").len()
    first_shop = shop_clusters.group_by("cluster").agg(pl.col("shop_id").min())
    ranked = sizes.join(first_shop, on="cluster").sort(["len", "shop_id"], descending=[True, False])
    names = ranked.select("cluster").with_row_index("rank", offset=1)
    names = names.select(
        "cluster", store=pl.format("region-{}", pl.col("rank").cast(pl.String).str.zfill(2))
    )
    return Partition(
        customers=home.rename({"shop_id": "cluster"})
        .join(names, on="cluster")
        .select("user_id", "store")
        .sort("user_id"),
        shops=shop_clusters.join(names, on="cluster").select("shop_id", "store").sort("shop_id"),
    )


def _cluster_shops(visits: pl.DataFrame, shops: pl.Series, count: int) -> NDArray[np.int64]:
    """Return the cluster of each shop, or -1; (shops,)."""
    from scipy.sparse import coo_matrix
    from sklearn.cluster import SpectralClustering

    users = visits["user_id"].unique().sort()
    rows = users.search_sorted(visits["user_id"]).to_numpy()
    columns = shops.search_sorted(visits["shop_id"]).to_numpy()
    weights = np.log1p(visits["baskets"].to_numpy().astype(np.float64))
    table = coo_matrix((weights, (rows, columns)), shape=(len(users), len(shops))).tocsr()
    overlap = np.asarray((table.T @ table).toarray())  # (shops, shops)

    at_home = _home(visits)["shop_id"].value_counts().filter(pl.col("count") >= _CORE_CUSTOMERS)
    core = np.flatnonzero(shops.is_in(at_home["shop_id"].to_list()).to_numpy())
    if len(core) < count:
        raise TooFewCustomers(
            f"{len(core)} shops have {_CORE_CUSTOMERS} home customers, too few for {count} regions"
        )
    norms = np.sqrt(np.diag(overlap)[core])
    cosine = overlap[np.ix_(core, core)] / np.outer(norms, norms)
    clustering = SpectralClustering(
        count, affinity="precomputed", assign_labels="cluster_qr", random_state=0
    )
    labels = np.asarray(clustering.fit_predict(cosine), dtype=np.int64)

    links = overlap[:, core] @ np.eye(count)[labels]  # (shops, regions)
    cluster = np.where(links.max(axis=1) > 0, links.argmax(axis=1), -1)
    cluster[core] = labels
    return cluster


def _home(visits: pl.DataFrame) -> pl.DataFrame:
    """Keep each customer's row of most baskets; of equal ones that of the lowest `shop_id`."""
    ordered = visits.sort(["user_id", "baskets", "shop_id"], descending=[False, True, False])
    return ordered.unique("user_id", keep="first", maintain_order=True)


def _shop_name() -> pl.Expr:
    return pl.format("shop-{}", pl.col("shop_id"))


def _sample(customers: pl.DataFrame, most: int, seed: tuple[int, str]) -> pl.DataFrame:
    if customers.height <= most:
        return customers
    number, name = seed
    rng = np.random.default_rng([number, zlib.crc32(name.encode())])
    return customers[np.sort(rng.choice(customers.height, most, replace=False))]
