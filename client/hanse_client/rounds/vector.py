"""What leaves a store, as one vector of integers: update, counts and losses, or evaluation.

Everything is clipped to the manifest's bounds. Counts, losses and evaluation sums are noised
like gradients: one customer adds at most a vector of a fixed norm to them, and the noise is
a multiple of that norm. In mode `local` the store adds all of it to the real values; in mode
`distributed` it adds its share, as Skellam noise (Agarwal, Kairouz and Liu 2021) on the
integers, whose sums are Skellam again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse_client.node import Node, Randomness
from hanse_common.instructions import (
    EVALUATION,
    STATISTICS,
    STATISTICS_NAMES,
    UPDATE,
    Kind,
    flatten,
)
from hanse_common.manifest import Manifest
from hanse_common.privacy.plan import PrivacyPlan
from hanse_common.secagg.layout import Floats, Integers
from hanse_common.secagg.quantize import quantize

NDArray = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """What a store's round of training gave.

    Args:
        update: What moves the global model, by parameter: its change or, where noise is
            distributed, the sum of the customers' clipped gradients.
        drawn: Customers drawn, over all steps.
        losses: Sum of their losses, each clipped to `loss_clip` and divided by it.
        steps: Steps taken.
    """

    update: Mapping[str, NDArray]
    drawn: int
    losses: float
    steps: int


def training_vector(
    node: Node,
    trained: Trained,
    manifest: Manifest,
    *,
    plan: PrivacyPlan | None,
    exchange: int,
    attempt: int = 1,
) -> Integers:
    """Quantise what a round of training gave.

    Args:
        node: The store.
        trained: What moves the global model, and counts and losses.
        manifest: The store's.
        plan: Gives the noise on counts and losses; None for no privacy.
        exchange: The exchange's number.
        attempt: At the exchange.

    Returns:
        Shape `(length,)` and within the bounds of the manifest's layout.

    Raises:
        BadVector: A value is not finite, or the model has another size than the manifest says.

    Guarantees:
        One customer in one step adds a vector of norm at most sqrt(2) to counts and losses;
        their noise is that times `statistics_noise_multiplier`, for every step.
        In mode `distributed` every section has Skellam noise of the manifest's variance.
    """
    statistics = np.array([trained.drawn, trained.losses])
    if plan and plan.mode == "local" and plan.statistics_noise_multiplier is not None:
        scale = plan.statistics_noise_multiplier * math.sqrt(trained.steps)
        noise = node.generator(exchange, Randomness.RELEASE_NOISE, attempt=attempt)
        statistics += _gaussian(noise, len(STATISTICS_NAMES), scale)
    parts = {UPDATE: flatten(trained.update), STATISTICS: statistics}
    return _quantized(node, parts, manifest, "train", exchange, attempt)


def evaluation_vector(
    node: Node,
    sums: Mapping[str, float],
    manifest: Manifest,
    *,
    plan: PrivacyPlan | None,
    exchange: int,
    attempt: int = 1,
) -> Integers:
    """Quantise what an evaluation found.

    Args:
        node: The store.
        sums: Over customers, each of whom adds a number in [0, 1] to each; in the order of
            the task's `evaluation_names`.
        manifest: The store's.
        plan: Gives the noise; None for no privacy.
        exchange: The exchange's number.
        attempt: At the exchange.

    Returns:
        Shape `(length,)` and within the bounds of the manifest's layout for evaluations.

    Guarantees:
        One customer adds a vector of norm at most the square root of how many sums there
        are; the noise is that times `evaluation_noise_multiplier`, or the store's share of it.
    """
    values = np.array(list(sums.values()), np.float64)
    if plan and plan.mode == "local" and plan.evaluation_noise_multiplier is not None:
        noise = node.generator(exchange, Randomness.RELEASE_NOISE, attempt=attempt)
        values += _gaussian(noise, len(values), plan.evaluation_noise_multiplier)
    return _quantized(node, {EVALUATION: values}, manifest, "evaluate", exchange, attempt)


def _gaussian(noise: np.random.Generator, length: int, multiplier: float) -> Floats:
    """Gaussian noise for coordinates to which one customer adds a number in [0, 1] each."""
    return noise.normal(0.0, multiplier * math.sqrt(length), length)


def _quantized(
    node: Node,
    parts: Mapping[str, Floats],
    manifest: Manifest,
    kind: Kind,
    exchange: int,
    attempt: int,
) -> Integers:
    """Clip, scale and round every section, then add its noise."""
    rounding, noise = (
        node.generator(exchange, use, attempt=attempt)
        for use in (Randomness.ROUNDING, Randomness.RELEASE_NOISE)
    )
    layout, integers = manifest.terms(kind).layout, {}
    terms = manifest.sections if kind == "train" else manifest.evaluation
    for section, term in zip(layout.sections, terms, strict=True):
        values = parts.get(section.name)
        if values is None:  # noise and nothing else
            values = np.zeros(section.length)
        whole = quantize(values, section, entropy=rounding.bytes)
        if term.noise_variance:
            whole += skellam_noise(noise, term.noise_variance, section.length)
            np.clip(whole, -section.bound, section.bound, out=whole)
        integers[section.name] = whole
    return layout.join(integers)


def skellam_noise(generator: np.random.Generator, variance: float, length: int) -> Integers:
    """Draw Skellam noise: the difference of two Poisson variables of half the variance.

    Returns:
        Integers of shape [length], mean 0 and the given variance.
    """
    half = variance / 2
    return generator.poisson(half, length) - generator.poisson(half, length)
