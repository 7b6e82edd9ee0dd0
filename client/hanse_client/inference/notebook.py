"""Predictions of a store's customers as a table, in one call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from hanse_client.inference.choices import Candidates, When
from hanse_client.inference.load import open_model, open_store
from hanse_client.inference.predict import ask, known, moment_of
from hanse_client.inference.tables import ranking_table


def predict(
    model: str | os.PathLike[str],
    store: str | os.PathLike[str],
    customers: Sequence[str] | None = None,
    *,
    top: int = 10,
) -> pl.DataFrame:
    """Rank what customers buy next, from the day after the store's last visit on.

    Args:
        model: A run's folder, or its model's.
        store: A node's folder with prepared histories.
        customers: Their pseudonyms; all who have a visit if left out. Unknown ones are left out.
        top: Classes for each customer.

    Returns:
        One row for each customer and class: `user_id`, `item_id`, `category`, `score`, `rank`.

    Raises:
        RunDirectoryError [model-not-found]: There is no model.
        DataError, ConfigError: The store cannot be used; see `open_store`.
    """
    trained = open_model(Path(model))
    opened = open_store(Path(store), trained)
    moment = moment_of(opened, When.LATEST, None)
    wanted = known(opened, moment)
    if customers is not None:
        wanted = wanted[np.isin(opened.histories.customers[wanted], list(customers))]
    answers = ask(trained.model, opened.histories, wanted, moment)
    return ranking_table(opened, trained.config, answers, top=top, candidates=Candidates.ALL)
