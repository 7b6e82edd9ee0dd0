"""Engines that run the same ServerApp and ClientApp on one machine or a Ray cluster.

`in-process` (the default) starts at once and uses all cores of this machine; `ray` is Flower's
own simulation, which spreads over a cluster. Both run the coordinator's and the store's
production code and give the same arrays bit for bit.

    with WorkerPool(settings.compute.workers) as pool:    # before threads, polars or a display
        run_federation(run_dir, federation_dir, settings, pool=pool)
"""

from hanse_simulations.engines._run import (
    run_environment,
    run_federation,
    store_names,
)
from hanse_simulations.engines.workers import CLIENT_APP, WorkerPool

__all__ = [
    "CLIENT_APP",
    "WorkerPool",
    "run_environment",
    "run_federation",
    "store_names",
]
