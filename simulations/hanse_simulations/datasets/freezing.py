"""Make the frozen table of Complete Journey's stores from its households, once.

    python -m hanse_simulations.datasets.freezing complete_journey_stores.csv

The table is a public input of every run (`hanse_simulations.datasets.partitions`), and this is the
record of how it was made; no run calls it. It uses all households of a public research data set
in the training weeks, without noise, so that no epsilon covers what it reveals of them. The file
in this folder is never made from fewer or other households, which would move others.

A region is a cluster of shops that the same customers visit: spectral clustering (von Luxburg
2007) of the cosine between shops' columns of log(1 + baskets), with the parameter-free,
deterministic assignment of Damle, Minden and Ying (2019). A home shop is one where ten
households or more have most of their baskets, a shop of purchase one where ten or more bought.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from hanse_common.errors import DataError
from hanse_simulations.datasets import complete_journey
from hanse_simulations.datasets.partitions import StoreTable, assigned, home_shop

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hanse_common.config import Partition

REGIONS = 12
LEAST = 10
"""Least number of households of a store in the table. Shops with fewer home customers join the
region that they share most customers with: alone they would be clusters of one household."""


def freeze(visits: pl.DataFrame) -> pl.DataFrame:
    """Make the table of all three partitions.

    Args:
        visits: `user_id, shop_id, baskets`, a row per customer and shop, of the training weeks.

    Returns:
        `partition, store, households, shop_id`. `region-01` has most households, and so on;
        shops that share no customer with any of the larger shops are in no region.

    Raises:
        DataError [too-few-customers]: Too few shops are large enough to form regions.
    """
    shops = visits["shop_id"].unique().sort()
    single = pl.DataFrame({"shop_id": shops}).with_columns(
        store=pl.format("shop-{}", pl.col("shop_id"))
    )
    tables: dict[Partition, pl.DataFrame] = {
        "regions": named_regions(visits, shops),
        "home": single,
        "visits": single,
    }
    return pl.concat([_counted(visits, partition, table) for partition, table in tables.items()])


def _counted(visits: pl.DataFrame, partition: Partition, shops: pl.DataFrame) -> pl.DataFrame:
    """The rows of one partition: its stores with `LEAST` households, the largest first."""
    sizes = _sizes(visits, partition, shops).filter(pl.col("households") >= LEAST)
    return (
        sizes.join(shops, on="store")
        .sort(["households", "store", "shop_id"], descending=[True, False, False])
        .select(pl.lit(partition).alias("partition"), "store", "households", "shop_id")
    )


def _sizes(visits: pl.DataFrame, partition: Partition, shops: pl.DataFrame) -> pl.DataFrame:
    """`store, households` of stores made up of these shops."""
    table = StoreTable(shops=shops, households=dict.fromkeys(shops["store"].unique(), 0))
    sizes = assigned(visits, partition, table).sizes
    return pl.DataFrame(
        list(sizes.items()), schema={"store": pl.String, "households": pl.Int64}, orient="row"
    )


def named_regions(
    visits: pl.DataFrame, shops: pl.Series, *, regions: int = REGIONS
) -> pl.DataFrame:
    """Cluster shops by the customers that they share.

    Args:
        visits: `user_id, shop_id, baskets`, a row per customer and shop.
        shops: The shops' ids, each once, sorted.
        regions: Number of clusters.

    Returns:
        `shop_id, store` of the shops that belong to a region; `region-01` has most customers. A
        shop that shares no customer with any that is home to `LEAST` is in none.

    Raises:
        DataError [too-few-customers]: Fewer shops than `regions` are home to `LEAST` customers.
    """
    clusters = pl.DataFrame(
        {"shop_id": shops, "cluster": _cluster_shops(visits, shops, regions)},
        schema_overrides={"cluster": pl.Int64},
    ).filter(pl.col("cluster") >= 0)
    clusters = clusters.with_columns(store=pl.col("cluster").cast(pl.String))
    first_shop = clusters.group_by("store").agg(pl.col("shop_id").min())
    ranked = (
        _sizes(visits, "regions", clusters.select("shop_id", "store"))
        .join(first_shop, on="store")
        .sort(["households", "shop_id"], descending=[True, False])
        .with_row_index("rank", offset=1)
    )
    name = pl.format("region-{}", pl.col("rank").cast(pl.String).str.zfill(2))
    return clusters.join(ranked.select("store", name.alias("name")), on="store").select(
        "shop_id", store="name"
    )


def core_shops(visits: pl.DataFrame) -> pl.Series:
    """The shops that are home to `LEAST` customers or more."""
    home = home_shop(visits)["shop_id"].value_counts()
    return home.filter(pl.col("count") >= LEAST)["shop_id"]


def _cluster_shops(visits: pl.DataFrame, shops: pl.Series, regions: int) -> NDArray[np.int64]:
    """Return the cluster of each shop, or -1; (shops,)."""
    from scipy.sparse import coo_matrix
    from sklearn.cluster import SpectralClustering

    users = visits["user_id"].unique().sort()
    rows = users.search_sorted(visits["user_id"]).to_numpy()
    columns = shops.search_sorted(visits["shop_id"]).to_numpy()
    weights = np.log1p(visits["baskets"].to_numpy().astype(np.float64))
    table = coo_matrix((weights, (rows, columns)), shape=(len(users), len(shops))).tocsr()
    overlap = np.asarray((table.T @ table).toarray())  # (shops, shops)

    core = np.flatnonzero(shops.is_in(core_shops(visits).to_list()).to_numpy())
    if len(core) < regions:
        raise DataError(
            f"{len(core)} shops have {LEAST} home customers, too few for {regions} regions",
            code="too-few-customers",
        )
    norms = np.sqrt(np.diag(overlap)[core])
    cosine = overlap[np.ix_(core, core)] / np.outer(norms, norms)
    clustering = SpectralClustering(
        regions, affinity="precomputed", assign_labels="cluster_qr", random_state=0
    )
    with warnings.catch_warnings():
        # Shops that share no customers at all are what a division looks for.
        warnings.filterwarnings("ignore", message="Graph is not fully connected")
        labels = np.asarray(clustering.fit_predict(cosine), dtype=np.int64)

    links = overlap[:, core] @ np.eye(regions)[labels]  # (shops, regions)
    cluster = np.where(links.max(axis=1) > 0, links.argmax(axis=1), -1)
    cluster[core] = labels
    return cluster


if __name__ == "__main__":
    households = complete_journey.training_visits(complete_journey.read_purchases())
    freeze(households).write_csv(Path(sys.argv[1]))
