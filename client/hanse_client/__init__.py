"""A store's node: it reads the store's own data, trains on them privately, answers the coordinator.

>>> from hanse_client import task_of
>>> task_of("review").name
'review'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hanse_common._lazy import lazy_exports

if TYPE_CHECKING:
    from hanse_client.app import StoreApp, secure
    from hanse_client.clipping.per_customer import check_exactness, customer_clipper
    from hanse_client.enrolment import Enrolment
    from hanse_client.features.histories import Histories
    from hanse_client.features.prepare import Preparation, PreparedData, prepare_store
    from hanse_client.guard import Admitted, admit
    from hanse_client.inference.load import OpenStore, Trained, open_model, open_store
    from hanse_client.inference.predict import Answers, ask
    from hanse_client.ingest.pipeline import Ingested
    from hanse_client.ingest.store_config import StoreConfig, load_store
    from hanse_client.model.base_model import make_base_model
    from hanse_client.node import Node, Randomness
    from hanse_client.rounds.own_app import clipped_sum, customer_sums
    from hanse_client.tasks import task_of
    from hanse_client.tasks.base import Batch, Draw, Figures, InitialModel, StoreData, Task
    from hanse_client.tasks.interest import InterestConfig, InterestModel
    from hanse_client.training.train import load_arrays, train_round, trained_arrays

__all__ = [
    "Admitted",
    "Answers",
    "Batch",
    "Draw",
    "Enrolment",
    "Figures",
    "Histories",
    "Ingested",
    "InitialModel",
    "InterestConfig",
    "InterestModel",
    "Node",
    "OpenStore",
    "Preparation",
    "PreparedData",
    "Randomness",
    "StoreApp",
    "StoreConfig",
    "StoreData",
    "Task",
    "Trained",
    "admit",
    "ask",
    "check_exactness",
    "clipped_sum",
    "customer_clipper",
    "customer_sums",
    "load_arrays",
    "load_store",
    "make_base_model",
    "open_model",
    "open_store",
    "prepare_store",
    "secure",
    "task_of",
    "train_round",
    "trained_arrays",
]

_EXPORTS: Final = {
    "app": (
        "StoreApp",
        "secure",
    ),
    "clipping.per_customer": (
        "check_exactness",
        "customer_clipper",
    ),
    "enrolment": ("Enrolment",),
    "features.histories": ("Histories",),
    "features.prepare": (
        "Preparation",
        "PreparedData",
        "prepare_store",
    ),
    "guard": (
        "Admitted",
        "admit",
    ),
    "inference.load": (
        "OpenStore",
        "Trained",
        "open_model",
        "open_store",
    ),
    "inference.predict": (
        "Answers",
        "ask",
    ),
    "ingest.pipeline": ("Ingested",),
    "ingest.store_config": (
        "StoreConfig",
        "load_store",
    ),
    "model.base_model": ("make_base_model",),
    "node": (
        "Node",
        "Randomness",
    ),
    "rounds.own_app": (
        "clipped_sum",
        "customer_sums",
    ),
    "tasks": ("task_of",),
    "tasks.base": (
        "Batch",
        "Draw",
        "Figures",
        "InitialModel",
        "StoreData",
        "Task",
    ),
    "tasks.interest": (
        "InterestConfig",
        "InterestModel",
    ),
    "training.train": (
        "load_arrays",
        "train_round",
        "trained_arrays",
    ),
}

__getattr__ = lazy_exports(__name__, _EXPORTS)
