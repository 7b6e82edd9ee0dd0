"""The phase `popularity`: a noisy sum of what customers took, and its posterior mean.

A customer adds 1/sqrt(n) to each of their n different items, a row of norm 1. The prior of an
item's sum is public: log-normal around the mean of the released sums.
"""

from __future__ import annotations

import math

import numpy as np

from hanse_client.tasks.contributions import Contributions
from hanse_client.tasks.next_item.exact import Doubles, exp, log
from hanse_client.tasks.next_item.features import Sequences

PHASE = "popularity"
_MEDIAN, _SPREAD = 0.6, 1.0
"""Of an item's sum in units of the mean, and of its logarithm: Amazon's Toys and Games has a
median of .63 and, at the 90th and the 99th percentile, 2.0 and 6.3; this prior has 2.2 and 6.1."""
_REACH, _STEPS = 4.5, 96
"""The grid of the prior: standard deviations to either side, and points."""
_LEAST_MEAN, _LEAST = 0.2, 0.05
"""Floors of the mean and of a grid point: mere noise must not make an item impossible."""


def contributions(data: Sequences) -> Contributions:
    """What each customer adds to the sum of popularity [items].

    Guarantees:
        A row has norm 1, or 0 for a customer without items, and depends on the customer's own
        items alone; an item that was taken twice counts once.
    """
    pairs = np.unique(data.owners * data.items + data.taken)
    sizes = np.bincount(pairs // data.items, minlength=len(data))
    return Contributions(
        offsets=np.concatenate([[0], np.cumsum(sizes)]),
        cells=pairs % data.items,
        values=np.repeat(1.0 / np.sqrt(np.maximum(sizes, 1)), sizes),
        length=data.items,
    )


def log_popularity(released: Doubles, noise: float) -> Doubles:
    """Logarithms of the items' shares, from the released sums.

    Args:
        released: [items] noisy sums; all zeros if none were released yet.
        noise: Standard deviation of the noise on each.

    Returns:
        [items] logarithms of posterior means, the means scaled to a total of 1.

    Guarantees:
        The same bits on every machine (`exact`): stores derive the graph of pairs from them.
    """
    if not released.any():
        return np.full(len(released), -math.log(len(released)))
    means = np.maximum(released, 0.1) if noise == 0 else _posterior_means(released, noise)
    total = math.fsum(means)  # exactly rounded, whatever the order
    logarithms: Doubles = log(means / total)
    return logarithms


def _posterior_means(released: Doubles, noise: float) -> Doubles:
    mean = max(math.fsum(released) / len(released), _LEAST_MEAN)
    places = np.linspace(-_REACH, _REACH, _STEPS)
    grid = np.maximum(mean * _MEDIAN * exp(_SPREAD * places), _LEAST)
    # Distances from the nearest grid point's, so that not all weights underflow to zero.
    logs = [
        -((released - value) ** 2) / (2.0 * noise * noise) - place * place / 2.0
        for value, place in zip(grid.tolist(), places.tolist(), strict=True)
    ]
    most = np.max(logs, axis=0)
    weighted, weights = np.zeros_like(released), np.zeros_like(released)
    # One grid point at a time: the order of a sum along an axis depends on the processor.
    for value, one in zip(grid.tolist(), logs, strict=True):
        weight = exp(one - most)
        weights += weight
        weighted += weight * value
    means: Doubles = weighted / weights
    return means
