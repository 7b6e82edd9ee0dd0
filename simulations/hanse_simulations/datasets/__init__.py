"""Turn data sets into stores: folders that the production ingestion reads like a shop's own.

`make_stores` cuts a data set into stores, writes each as a folder with a `store.toml`, and
returns them with the split in time. A simulated store holds what a real one would bring, and
nothing else.

>>> import tempfile
>>> from pathlib import Path
>>> from hanse_client.ingest.pipeline import ingest
>>> from hanse_client.ingest.store_config import load_store
>>> from hanse_common.config import DataSettings
>>> data = DataSettings(source="synthetic", stores=2, customers=10)
>>> with tempfile.TemporaryDirectory() as cache:
...     stores = make_stores(data, seed=7, cache=Path(cache))
...     first = ingest(load_store(stores.folders[0] / "store.toml"))
>>> [folder.name for folder in stores.folders], first.events["user_id"].n_unique(), first.rejects
(['synthetic-01', 'synthetic-02'], 10, {})
"""

from hanse_simulations.datasets.folders import Stores, make_stores

__all__ = ["Stores", "make_stores"]
