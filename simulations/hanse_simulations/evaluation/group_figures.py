"""A run's metrics by group of customers, from the stores' own folders.

Customers' bands never leave a store. An analyst who simulates has the folders, which are read
here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hanse_client.features.histories import Histories, days, run_split
from hanse_client.ingest.store_config import load_store
from hanse_client.tasks.interest.metrics import Figures
from hanse_common.config import RunSettings
from hanse_common.paths import STORE_FILE
from hanse_simulations.datasets import Stores
from hanse_simulations.datasets.attributes import read_attributes
from hanse_simulations.evaluation.gaps import group_figures
from hanse_simulations.evaluation.grouping import groupings
from hanse_simulations.experiment.prepare import Prepared
from hanse_simulations.runs.results import GroupFigure

GROUPED = ("boosted_trees", "alone", "federated", "centralized", "federated_private")
"""Arms whose metrics are shown by group."""


def judge_groups(
    judged: Mapping[str, Mapping[str, Figures]],
    prepared: Prepared,
    histories: Sequence[Histories],
    stores: Stores,
    settings: RunSettings,
) -> tuple[list[GroupFigure], list[str]]:
    """Compute metrics by group of customers, and the gaps between groups.

    Args:
        judged: Test figures by arm and store.
        prepared: The prepared stores, for their names.
        histories: Their histories.
        stores: Their folders, with the bands.
        settings: The run's settings, for the seed and the split.

    Returns:
        The metrics, and notes on what was left out.
    """
    chosen = {arm: judged[arm] for arm in GROUPED if arm in judged}
    own = next(iter(chosen.values()))
    # A store that refused its last evaluation under one arm is compared under none.
    common = [store for store in own if all(store in figures for figures in chosen.values())]
    members = {store: np.unique(own[store].customers) for store in common}
    bands = {
        load_store(folder / STORE_FILE).name: read_attributes(folder) for folder in stores.folders
    }
    grouped, notes = groupings(
        dict(zip(prepared.names, histories, strict=True)),
        members,
        bands,
        until=days(run_split(settings).train_until),
    )
    return group_figures(chosen, grouped, seed=settings.seed), notes
