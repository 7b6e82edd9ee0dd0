"""Which classes are bought by the same customers: one noisy Gram matrix, and what it is for.

A customer's row x has 1 for every class ever bought, scaled to norm 1. The released sum is that
of x x^T: its diagonal, and its upper triangle times sqrt(2), so that a customer's row of the sum
has norm exactly |x|^2 = 1 whatever they bought. `decode_pairs` decodes it:

1. Eigenvalues within the spectrum of the noise become zero, the others lose what noise adds to
   them on average (Benaych-Georges and Nadakuditi 2011).
2. EASE (Steck 2019), the closed-form linear autoencoder of a Gram matrix.

>>> decode_pairs(np.zeros(pair_cells(3)), classes=3, noise=1.0) is None
True
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from hanse_client.features.histories import Histories
from hanse_client.features.ragged import Ints, offsets_of, ranges
from hanse_client.tasks.contributions import Contributions

PHASE: Final = "category-pairs"
"""Name of the phase that releases the sum."""
MOST_CLASSES: Final = 2_000
"""Of more classes the sum would have millions of cells, and its noise would drown it."""

_RIDGE, _RIDGE_OF_NOISE = 20.0, 40.0
"""The regulariser of EASE in customers, without noise and per unit of noise; half as much for
the noise lost .0007 of explore NDCG on validation weeks, twice as much gained nothing."""
_TOLD_FROM_NOISE = 4.0
"""Standard deviations of a cell's noise. If no class was bought by more customers than that, and no
eigenvalue exceeds the noise's, a release says nothing: of 300 cells of noise alone one in a hundred
releases has a larger one."""
_MOST_POPULAR = 2.2
"""Largest centred logarithm of popularity: nine times a typical class. Exact sums of Complete
Journey have 2.1 at most; a forged release cannot lift a class any further."""


def pair_cells(classes: int) -> int:
    """Length of the released vector: one cell for each unordered pair, a class with itself too."""
    return classes * (classes + 1) // 2


def pair_contributions(histories: Histories, classes: int) -> Contributions:
    """What each customer adds to the sum.

    Args:
        histories: Of training only.
        classes: Number of classes of the vocabulary, C.

    Guarantees:
        A customer with a purchase adds a row of norm 1, one without adds nothing. A row
        depends on that customer alone.
    """
    owner = np.repeat(np.arange(len(histories)), np.diff(histories.visit_offsets))
    owner = np.repeat(owner, np.diff(histories.pair_offsets))
    bought = np.unique(owner * classes + histories.pair_classes)
    owner, own_class = bought // classes, bought % classes
    sizes = np.bincount(owner, minlength=len(histories))
    stops = offsets_of(sizes)[owner + 1]
    # Classes are ascending within a customer, so that the first of a pair is the smaller one.
    entry, partner = ranges(np.arange(len(bought)), stops)
    first, second = own_class[entry], own_class[partner]
    values = np.where(first == second, 1.0, math.sqrt(2.0)) / sizes[owner[entry]]
    return Contributions(
        offsets=offsets_of(sizes * (sizes + 1) // 2),
        cells=_cell(first, second, classes),
        values=values,
        length=pair_cells(classes),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedPairs:
    """What a released sum says of C classes."""

    affinity: npt.NDArray[np.float32]
    """[C, C] weights of EASE: a customer's ever-bought row times column j is the affinity to
    class j, about the chance that they buy it too."""
    popularity: npt.NDArray[np.float32]
    """[C] centred logarithms of how many customers bought a class, each in units of their own
    number of classes; at most 2.2."""


def decode_pairs(
    released: npt.NDArray[np.floating], *, classes: int, noise: float
) -> DecodedPairs | None:
    """Decode a released sum.

    Args:
        released: [C(C+1)/2] the sum with its noise; all zeros before it was released.
        classes: C.
        noise: Standard deviation of the noise of each cell, in customers.

    Returns:
        None if nothing was released, or if nothing of it can be told from noise.
    """
    gram = np.zeros((classes, classes))
    rows, columns = np.triu_indices(classes)
    gram[rows, columns] = np.where(rows == columns, 1.0, math.sqrt(0.5)) * released
    gram = gram + np.triu(gram, 1).T
    bought = np.diag(gram)
    values, vectors = np.linalg.eigh(gram)
    # Noise is a Gaussian orthogonal ensemble of off-diagonal spread noise / sqrt(2).
    edge = 2 * noise * math.sqrt(classes / 2)
    signal = values > max(edge, 1e-9)
    if not signal.any() and not (bought > max(_TOLD_FROM_NOISE * noise, 1e-9)).any():
        return None
    values = values[signal]
    values = (values + np.sqrt(values**2 - edge**2)) / 2
    kept = vectors[:, signal]
    shrunk = (kept * values) @ kept.T  # of popularity alone no pair is known: zeros
    precision = np.linalg.inv(shrunk + (_RIDGE + _RIDGE_OF_NOISE * noise) * np.eye(classes))
    affinity = -precision / np.diag(precision)
    np.fill_diagonal(affinity, 0.0)
    popularity = np.log(np.maximum(bought, max(2 * noise, 1.0)))
    return DecodedPairs(
        affinity=affinity.astype(np.float32),
        popularity=np.minimum(popularity - popularity.mean(), _MOST_POPULAR).astype(np.float32),
    )


def _cell(first: Ints, second: Ints, classes: int) -> Ints:
    """The cells of pairs with `first <= second`: rows of the upper triangle, one by one.

    Whole numbers only: stores and coordinator must agree on them.
    """
    cells: Ints = first * classes - first * (first - 1) // 2 + (second - first)
    return cells
