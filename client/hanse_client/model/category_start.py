"""What an interest model of categories starts from, all of it public.

The base is the one that ships with the package, or a folder that `hanse model pretrain shoppers`
wrote. The inputs of the linear head are whitened by the covariance of made-up shoppers' inputs.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from hanse_client.pretraining.base_folder import read_base, shipped_base
from hanse_client.pretraining.shoppers import WEEKS, made_up_shoppers
from hanse_client.tasks.interest.category_model import CategoryModel
from hanse_client.tasks.interest.category_tokens import (
    HORIZON_DAYS,
    REFERENCE_DAYS,
    category_tokens,
)

Floats = npt.NDArray[np.float64]

_SETS, _SHOPPERS, _MOMENTS = 20, 60, 4
"""Enough for 80,000 tokens, within two seconds."""
_SEED: Final = 1
_RIDGE = 0.3
"""Of the median eigenvalue, so that directions in which made-up shoppers hardly differ are not
blown up: a tenth of it lost .002 of rise AUC (docs/lab-notes.md)."""


def category_base(checkpoint: str | None) -> CategoryModel:
    """The base in the folder that the settings name, or the one that ships with the package.

    Raises:
        ConfigError: There is no base in the folder, or it is of another version.
    """
    return shipped_base() if checkpoint is None else read_base(Path(checkpoint))


@lru_cache(maxsize=1)
def made_up_whitening() -> tuple[Floats, Floats]:
    """Mean [inputs] of made-up shoppers' token inputs, and the matrix that whitens them."""
    parts = []
    for number in range(_SETS):
        histories = made_up_shoppers((_SEED, number), shoppers=_SHOPPERS)
        rng = np.random.default_rng((_SEED, number, 1))
        rows = np.repeat(np.arange(_SHOPPERS), _MOMENTS)
        moments = rng.uniform(REFERENCE_DAYS, 7 * WEEKS - HORIZON_DAYS, len(rows))
        parts.append(category_tokens(histories, rows, moments).inputs)
    inputs = np.concatenate(parts).astype(np.float64)
    centre = inputs.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov((inputs - centre).T))
    # Symmetric whitening (ZCA): an input stays near to what it was.
    whitening = (vectors / np.sqrt(values + _RIDGE * np.median(values))) @ vectors.T
    return centre, whitening
