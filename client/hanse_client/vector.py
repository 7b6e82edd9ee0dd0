"""What leaves a store, as one vector of integers: update, counts and losses, or evaluation.

Everything is clipped to the manifest's bounds. Counts, losses and evaluation sums are noised
like gradients: one customer adds at most a vector of a fixed norm to them, and the noise is
a multiple of that norm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse_client.node import Node
from hanse_common.instructions import (
    EVALUATION,
    EVALUATION_NAMES,
    STATISTICS,
    STATISTICS_NAMES,
    UPDATE,
    flatten,
)
from hanse_common.privacy.plan import PrivacyPlan
from hanse_common.secagg.layout import Floats, Integers, Layout
from hanse_common.secagg.quantize import quantize

NDArray = npt.NDArray[Any]

# What a draw of the node's generator is for; training uses 0 to 2.
_NOISE, _ROUNDING = 3, 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """What a store's round of training gave.

    Args:
        arrays: The trained parameters.
        drawn: Customers drawn, over all steps.
        losses: Sum of their losses, each clipped to `loss_clip` and divided by it.
        steps: Steps taken.
    """

    arrays: Mapping[str, NDArray]
    drawn: int
    losses: float
    steps: int


def training_vector(
    node: Node,
    trained: Trained,
    before: Mapping[str, NDArray],
    layout: Layout,
    *,
    plan: PrivacyPlan | None,
    exchange: int,
) -> Integers:
    """Quantise what a round of training gave.

    Args:
        node: The store.
        trained: Its model after the round, and its counts and losses.
        before: The global model that it started from.
        layout: The manifest's for training.
        plan: Gives the noise on counts and losses; None for no privacy.
        exchange: The exchange's number.

    Returns:
        Shape `(layout.length,)`, within the layout's bounds.

    Raises:
        BadVector: A value is not finite, or the model has another size than the manifest says.

    Guarantees:
        One customer in one step adds a vector of norm at most sqrt(2) to counts and losses;
        their noise is that times `statistics_noise_multiplier`, for every step.
    """
    statistics = np.array([trained.drawn, trained.losses])
    if plan is not None and plan.statistics_noise_multiplier is not None:
        scale = plan.statistics_noise_multiplier * math.sqrt(trained.steps)
        statistics += _noise(node, exchange, len(STATISTICS_NAMES), scale)
    update = flatten(trained.arrays) - flatten(before)
    return _quantized(node, {UPDATE: update, STATISTICS: statistics}, layout, exchange)


def evaluation_vector(
    node: Node,
    sums: Mapping[str, float],
    layout: Layout,
    *,
    plan: PrivacyPlan | None,
    exchange: int,
) -> Integers:
    """Quantise what an evaluation found.

    Args:
        node: The store.
        sums: Of `EVALUATION_NAMES`, over customers; each adds a number in [0, 1] to each.
        layout: The manifest's for evaluations.
        plan: Gives the noise; None for no privacy.
        exchange: The exchange's number.

    Returns:
        Shape `(layout.length,)`, within the layout's bounds.

    Guarantees:
        One customer adds a vector of norm at most sqrt(8); the noise is that times
        `evaluation_noise_multiplier`.
    """
    values = np.array([sums[name] for name in EVALUATION_NAMES], np.float64)
    if plan is not None and plan.evaluation_noise_multiplier is not None:
        values += _noise(node, exchange, len(values), plan.evaluation_noise_multiplier)
    return _quantized(node, {EVALUATION: values}, layout, exchange)


def _noise(node: Node, exchange: int, length: int, multiplier: float) -> Floats:
    """Gaussian noise for coordinates to which one customer adds a number in [0, 1] each."""
    return node.generator(exchange, _NOISE).normal(0.0, multiplier * math.sqrt(length), length)


def _quantized(node: Node, parts: Mapping[str, Floats], layout: Layout, exchange: int) -> Integers:
    rounding = node.generator(exchange, _ROUNDING)
    sections = {section.name: section for section in layout.sections}
    return layout.join(
        {
            name: quantize(values, sections[name], entropy=rounding.bytes)
            for name, values in parts.items()
        }
    )
