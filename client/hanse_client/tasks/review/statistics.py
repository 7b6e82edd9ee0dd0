"""Sums over customers from which a linear reader of texts is computed in one step.

Two releases, for L labels and unit text vectors of D coordinates (`OneShotReader.vectors`):

    label-means     [L, D + 1]      the label's row holds the vector and a constant
    text-moments    [K (K + 1) / 2] the upper triangle of the outer product of the vector's
                                    first K coordinates in a public basis

A customer adds the mean over their reviews, so that writing much gives no more weight. The
reader is the linear discriminant (Fisher 1936): class means, shrunk by as much as noise and
sampling move them (James and Stein 1961), and one covariance for all classes, of which
eigenvalues count as far as they stand out of the noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from hanse_client.tasks.contributions import Contributions

LABEL_MEANS: Final = "label-means"
TEXT_MOMENTS: Final = "text-moments"

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_CONSTANT: Final = 0.3
"""The coordinate that counts reviews; the vector has the norm that this leaves to a row."""
_VECTOR: Final = (1 - _CONSTANT**2) ** 0.5
_DIRECTIONS: Final = 64
"""Largest number of coordinates with moments. 32 read opinions less well; the noise, and a
customer's row, grow with the square."""
_LEAST: Final = 3.0
"""The least variance of a direction, in units of that of a vector spread over all of them."""
_LEAST_KEPT: Final = 0.1
"""Least part of what sets a class mean apart: at a loud noise all of it may owe to chance, and
the side on which a text lies still says something."""
_BLOCK: Final = 512
"""Reviews whose outer products are in memory at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextSpace:
    """Public constants of an encoder, from its states of made-up opinions.

    Args:
        centre: [D] the mean state.
        axis: [D] unit vector from complaint to praise; zeros where the encoder sees none.
        basis: [D, K] orthonormal directions with moments: the axis, then principal components.
    """

    centre: Floats
    axis: Floats
    basis: Floats

    @classmethod
    def of(cls, states: Floats, praise: npt.NDArray[np.bool_]) -> TextSpace:
        """Return the constants of public states.

        Args:
            states: [N, D] unit states of made-up opinions.
            praise: [N] which of them praise; some do and some do not.
        """
        centre = states.mean(0)
        axis = states[praise].mean(0) - states[~praise].mean(0)
        # Floored: an encoder that reads nothing has states that are all the same.
        axis /= max(float(np.linalg.norm(axis)), 1e-9)
        size = directions(states.shape[1])
        components = np.linalg.svd(states - centre, full_matrices=False)[2]
        basis = np.linalg.qr(np.column_stack([axis, components[: size - 1].T]))[0]
        return cls(centre=centre, axis=axis, basis=basis)


def directions(width: int) -> int:
    """K, the number of coordinates with moments, of vectors with D."""
    return min(_DIRECTIONS, width)


def lengths(labels: int, width: int) -> dict[str, int]:
    """The length of each release's vector by its name, for L labels and D coordinates."""
    size = directions(width)
    return {LABEL_MEANS: labels * (width + 1), TEXT_MOMENTS: size * (size + 1) // 2}


def label_means(vectors: Floats, labels: Ints, offsets: Ints, *, count: int) -> Contributions:
    """What each customer adds to the sums by label.

    Args:
        vectors: [E, D] of norm at most 1.
        labels: [E] index of each review's label, below `count`.
        offsets: [N + 1] where each customer's reviews begin and end.
        count: L.

    Guarantees:
        Rows of norm at most 1: a review's row has norm at most √(.91 + .09), and a mean of
        vectors is no longer than the longest.
    """
    width = vectors.shape[1] + 1
    rows = np.column_stack([_VECTOR * vectors, np.full(len(vectors), _CONSTANT)])
    cells = labels[:, None] * width + np.arange(width)
    sizes = np.diff(offsets)
    values = rows / np.repeat(sizes, sizes)[:, None]
    return Contributions(
        offsets=offsets * width,
        cells=cells.ravel(),
        values=values.ravel(),
        length=count * width,
    )


def text_moments(vectors: Floats, offsets: Ints, space: TextSpace) -> Contributions:
    """What each customer adds to the second moments.

    Args:
        vectors: [E, D] of norm at most 1.
        offsets: [N + 1] where each customer's reviews begin and end.
        space: The basis of K directions.

    Guarantees:
        Rows of norm at most 1: the triangle, with √2 off the diagonal, is as long as the
        outer product, whose norm is the squared norm of a projection of the vector.
    """
    coordinates = vectors @ space.basis
    left, right, weights = _triangle(space.basis.shape[1])
    sizes = np.diff(offsets)
    owners = np.repeat(np.arange(len(sizes)), sizes)
    writers = np.flatnonzero(sizes > 0)
    place = np.zeros(len(sizes), dtype=np.int64)
    place[writers] = np.arange(len(writers))
    sums = np.zeros((len(writers), len(weights)))
    for start in range(0, len(vectors), _BLOCK):
        part = slice(start, start + _BLOCK)
        products = coordinates[part][:, left] * coordinates[part][:, right] * weights
        np.add.at(sums, place[owners[part]], products / sizes[owners[part], None])
    return Contributions(
        offsets=np.concatenate([[0], np.cumsum((sizes > 0) * len(weights))]),
        cells=np.tile(np.arange(len(weights)), len(writers)),
        values=sums.ravel(),
        length=len(weights),
    )


def discriminant(
    means: Floats, moments: Floats, space: TextSpace, *, labels: int
) -> tuple[Floats, Floats]:
    """Compute the linear reader from the released sums.

    Args:
        means: [L (D + 1) + 1] the sum of `label-means`, then its noise's standard deviation.
        moments: [K (K + 1) / 2 + 1] the same of `text-moments`; all zero if not released yet,
            and then all directions have the same variance.
        space: The public constants.
        labels: L.

    Returns:
        (weights [L, D], biases [L]) of unnormalised log-probabilities.
    """
    width, size = space.basis.shape
    noise = float(means[-1])
    table = means[:-1].reshape(labels, width + 1)
    counts = _counts(table[:, -1] / _CONSTANT, noise / _CONSTANT)
    total = float(counts.sum())
    centres = _class_means(table[:, :-1] / _VECTOR, counts, noise / _VECTOR)
    left, right, weights = _triangle(size)
    second = np.zeros((size, size))
    second[left, right] = second[right, left] = moments[:-1] / weights / total
    # The largest eigenvalue of the noise alone: entries off the diagonal have noise / √2.
    edge = float(moments[-1]) * (2 * size) ** 0.5 / total
    seen = centres @ space.basis
    values, axes = np.linalg.eigh(second - (seen.T * (counts / total)) @ seen)
    least = _LEAST / width + edge
    inverse = 1 / (np.where(values > edge, values, 0.0) + least)
    # Outside the basis nothing was measured, and every direction has the least variance.
    correction = (axes * (inverse - 1 / least)) @ axes.T
    readers = centres / least + seen @ correction @ space.basis.T
    biases = np.log(counts / total) - (centres * readers).sum(1) / 2
    return readers, biases


def _counts(sums: Floats, noise: float) -> Floats:
    """[L] positive numbers of reviews by label, brought towards the same number of each."""
    total = max(float(sums.sum()), noise * len(sums) ** 0.5, 1.0)
    even = total / len(sums)
    apart = sums - even
    kept = _kept(apart[None], len(sums) * noise**2)
    # A count below its own noise is none; below one it would divide by nothing.
    return np.asarray(np.maximum(even + kept * apart, max(noise, 1.0)))


def _class_means(sums: Floats, counts: Floats, noise: float) -> Floats:
    """[L, D] means, brought towards their common one, and that towards the public centre."""
    width, total = sums.shape[1], counts.sum()
    # A vector has norm 1, so that a mean of n of them has a variance of at most 1 / n in all.
    common = sums.sum(0) / total
    common *= _kept(common[None], width * len(sums) * (noise / total) ** 2 + 1 / total)
    apart = sums / counts[:, None] - common
    kept = np.maximum(_kept(apart, width * (noise / counts) ** 2 + 1 / counts), _LEAST_KEPT)
    return np.asarray(common + kept[:, None] * apart)


def _kept(rows: Floats, chance: float | Floats) -> Floats:
    """[N] the part of rows [N, D] that stays if their squared norms owe `chance` to chance."""
    return np.asarray(np.maximum(1 - chance / np.maximum((rows**2).sum(1), 1e-12), 0.0))


def _triangle(size: int) -> tuple[Ints, Ints, Floats]:
    """Rows and columns of the upper triangle, and the weights that keep the matrix's norm."""
    left, right = np.triu_indices(size)
    return left, right, np.where(left == right, 1.0, 2**0.5)
