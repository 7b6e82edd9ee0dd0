"""The vector of an exchange, in both directions: what a store encodes, what a sum decodes to.

    training     update [parameters] | statistics [customers, losses] | noise_only [coordinates]
    evaluation   evaluation [one number for each of the task's figures]

A store clips every section to the manifest's bounds, rounds it to integers and adds its noise.
The coordinator adds the stores' integers up and decodes the sum by the same manifest. Counts,
losses and evaluation sums are noised like gradients: one customer adds at most a vector of a
fixed norm to them, and the noise is a multiple of that norm. In mode `local` the store adds all
of it to the real values; in mode `distributed` it adds its share, as Skellam noise (Agarwal,
Kairouz and Liu 2021) on the integers, because sums of Skellam noise are Skellam noise again.

>>> arrays = {"b": np.zeros(2), "a": np.ones((1, 2))}
>>> flatten(arrays)
array([1., 1., 0., 0.])
>>> unflatten(flatten(arrays), arrays)["a"].shape
(1, 2)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hanse_common.config import TaskName
from hanse_common.errors import OutOfTurn
from hanse_common.instructions import Kind
from hanse_common.manifest import Manifest
from hanse_common.privacy.plan import PrivacyPlan
from hanse_common.secagg.layout import Floats, Integers
from hanse_common.secagg.quantize import dequantize, quantize

NDArray = npt.NDArray[Any]

UPDATE, STATISTICS, EVALUATION = "update", "statistics", "evaluation"
NOISE_ONLY = "noise_only"
"""Names of the sections. The update is a change of the model or, where noise is distributed, a
sum of clipped gradients."""
STATISTICS_NAMES: Final = ("customers", "losses")
"""Sums over the customers drawn: 1, and the loss in units of `training.loss_clip`."""
EVALUATION_NAMES: Final = (
    *("customers", "hr@10", "recall@10", "ndcg@10"),
    *("explore_customers", "explore_hr@10", "explore_recall@10", "explore_ndcg@10"),
)
"""Task `interest`: sums over the customers judged: 1, and the mean of each of a customer's
figures; then the same over those who bought something new to them."""

_EVALUATIONS: Final[Mapping[TaskName, tuple[str, ...]]] = {
    "interest": EVALUATION_NAMES,
    "next-item": ("customers", "hr@10", "ndcg@10", "mrr"),
    "review": ("customers", "accuracy"),
    "conversion": ("customers", "brier"),
}


def evaluation_names(task: TaskName) -> tuple[str, ...]:
    """What an evaluation of a task adds up over customers, in the order of the vector.

    The coordinator knows no tasks, so a task of another package sends its number of customers
    alone; the rest of its figures stays at the store.

    >>> evaluation_names("interest")[:2]
    ('customers', 'hr@10')
    """
    return _EVALUATIONS.get(task, ("customers",))


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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainingSum:
    """What the sum of the stores' training vectors says.

    Args:
        update: Sum of the stores' updates, shape `[parameters]` in the order of `flatten`.
        statistics: Sums by `STATISTICS_NAMES`.
        noise_only: The integers that carry noise and nothing else, shape `[coordinates]`; None
            if the manifest has no such section.
    """

    update: Floats
    statistics: Mapping[str, float]
    noise_only: Integers | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Draws:
    """The two random streams of one vector; they must be used for nothing else."""

    rounding: np.random.Generator
    noise: np.random.Generator


def encode_training(
    trained: Trained, manifest: Manifest, *, plan: PrivacyPlan | None, draws: Draws
) -> Integers:
    """Turn what a round of training gave into a store's vector.

    Args:
        trained: What moves the global model, and counts and losses.
        manifest: The store's.
        plan: Gives the noise on counts and losses; None for no privacy.
        draws: Fresh for this vector.

    Returns:
        Shape `(length,)` and within the bounds of the manifest's layout.

    Raises:
        ProtocolError [bad-vector]: A value is not finite, or the model has another size than
            the manifest says.

    Guarantees:
        One customer in one step adds a vector of norm at most sqrt(2) to counts and losses;
        their noise is that times `statistics_noise_multiplier`, for every step.
        In mode `distributed` every section has Skellam noise of the manifest's variance.
    """
    statistics = np.array([trained.drawn, trained.losses])
    if plan and plan.mode == "local" and plan.statistics_noise_multiplier is not None:
        # The noise of several steps adds up like their variances do.
        scale = plan.statistics_noise_multiplier * math.sqrt(trained.steps)
        statistics += _gaussian(draws.noise, len(STATISTICS_NAMES), scale)
    return _encode(
        {UPDATE: flatten(trained.update), STATISTICS: statistics}, manifest, "train", draws
    )


def decode_training(total: Integers, manifest: Manifest) -> TrainingSum:
    """Read the sum of training vectors, or one of them: the inverse of `encode_training`."""
    sums, integers = _decode(total, manifest, "train")
    return TrainingSum(
        update=sums[UPDATE],
        statistics=_named(STATISTICS_NAMES, sums[STATISTICS]),
        noise_only=integers.get(NOISE_ONLY),
    )


def encode_evaluation(
    sums: Mapping[str, float], manifest: Manifest, *, plan: PrivacyPlan | None, draws: Draws
) -> Integers:
    """Turn what an evaluation found into a store's vector.

    Args:
        sums: Over customers, each of whom adds a number in [0, 1] to each; in the order of
            the task's `evaluation_names`.
        manifest: The store's.
        plan: Gives the noise; None for no privacy.
        draws: Fresh for this vector.

    Returns:
        Shape `(length,)` and within the bounds of the manifest's layout for evaluations.

    Guarantees:
        One customer adds a vector of norm at most the square root of how many sums there
        are; the noise is that times `evaluation_noise_multiplier`, or the store's share of it.
    """
    values = np.array(list(sums.values()), np.float64)
    if plan and plan.mode == "local" and plan.evaluation_noise_multiplier is not None:
        values += _gaussian(draws.noise, len(values), plan.evaluation_noise_multiplier)
    return _encode({EVALUATION: values}, manifest, "evaluate", draws)


def decode_evaluation(total: Integers, manifest: Manifest, task: TaskName) -> dict[str, float]:
    """Read the sum of evaluation vectors, or one of them: the inverse of `encode_evaluation`."""
    sums, _ = _decode(total, manifest, "evaluate")
    return _named(evaluation_names(task), sums[EVALUATION])


def flatten(arrays: Mapping[str, NDArray]) -> Floats:
    """Put named arrays one behind the other, sorted by name: float64, shape [parameters]."""
    return np.concatenate([np.ravel(array) for _, array in sorted(arrays.items())]).astype(
        np.float64
    )


def unflatten(vector: NDArray, like: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Take apart what `flatten` made of arrays with the shapes of `like`.

    Raises:
        OutOfTurn [wrong-header]: The vector has another length.
    """
    count = sum(array.size for array in like.values())
    if vector.shape != (count,):
        raise OutOfTurn(
            f"a model of {count} parameters has no update of shape {vector.shape}",
            code="wrong-header",
        )
    arrays, start = {}, 0
    for name, array in sorted(like.items()):
        arrays[name] = vector[start : start + array.size].reshape(array.shape)
        start += array.size
    return {name: arrays[name] for name in like}


def skellam_noise(generator: np.random.Generator, variance: float, length: int) -> Integers:
    """Draw Skellam noise: the difference of two Poisson variables of half the variance.

    Returns:
        Integers of shape [length], mean 0 and the given variance.
    """
    half = variance / 2
    return generator.poisson(half, length) - generator.poisson(half, length)


def _gaussian(noise: np.random.Generator, length: int, multiplier: float) -> Floats:
    """Gaussian noise for coordinates to which one customer adds a number in [0, 1] each."""
    return noise.normal(0.0, multiplier * math.sqrt(length), length)


def _encode(parts: Mapping[str, Floats], manifest: Manifest, kind: Kind, draws: Draws) -> Integers:
    """Clip, scale and round every section, then add its noise."""
    layout, integers = manifest.terms(kind).layout, {}
    terms = manifest.sections if kind == "train" else manifest.evaluation
    for section, term in zip(layout.sections, terms, strict=True):
        values = parts.get(section.name)
        if values is None:  # This section carries noise and nothing else.
            values = np.zeros(section.length)
        rounded = quantize(values, section, entropy=draws.rounding.bytes)
        if term.noise_variance:
            rounded += skellam_noise(draws.noise, term.noise_variance, section.length)
            # Noise beyond the headroom comes once in 10^22 draws; the bound holds all the same.
            np.clip(rounded, -section.bound, section.bound, out=rounded)
        integers[section.name] = rounded
    return layout.join(integers)


def _decode(
    total: Integers, manifest: Manifest, kind: Kind
) -> tuple[dict[str, Floats], dict[str, Integers]]:
    """Every section of a sum, as real numbers and as the integers that they were."""
    layout = manifest.terms(kind).layout
    integers = layout.split(total)
    return {s.name: dequantize(integers[s.name], s) for s in layout.sections}, integers


def _named(names: tuple[str, ...], values: Floats) -> dict[str, float]:
    return dict(zip(names, map(float, values), strict=True))
