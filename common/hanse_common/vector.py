"""The vector of an exchange: encoded by each store, decoded from the sum by the coordinator.

    gradient     update [parameters] | statistics [customers, losses] | noise_only [coordinates]
    statistics   update [the phase's numbers] | noise_only [coordinates]
    evaluation   evaluation [one sum for each of the task's metrics]

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hanse_common.config import TaskName
from hanse_common.errors import OutOfTurn
from hanse_common.manifest import Manifest
from hanse_common.privacy.plan import PrivacyPlan
from hanse_common.secagg.layout import Floats, Integers
from hanse_common.secagg.quantize import dequantize, quantize

NDArray = npt.NDArray[Any]

UPDATE, STATISTICS, EVALUATION = "update", "statistics", "evaluation"
NOISE_ONLY = "noise_only"
"""Names of the sections. The update is a change of the model or, in mode `distributed`, a sum of
clipped gradients; in a phase of statistics it is the sum of them."""
STATISTICS_NAMES: Final = ("customers", "losses")
"""Sums over the customers drawn: of 1, and of the loss in units of `training.loss_clip`."""
EVALUATION_NAMES: Final = (
    *("customers", "hr@10", "recall@10", "ndcg@10"),
    *("explore_customers", "explore_hr@10", "explore_recall@10", "explore_ndcg@10"),
)
"""Task `interest`: sums over the evaluated customers of 1 and of each of the customer's metrics;
then the same over the customers who bought something new to them."""

_EVALUATIONS: Final[Mapping[TaskName, tuple[str, ...]]] = {
    "interest": EVALUATION_NAMES,
    "next-item": ("customers", "hr@10", "ndcg@10", "mrr"),
    "review": ("customers", "accuracy"),
    "conversion": ("customers", "brier"),
}


def evaluation_names(task: TaskName, metrics: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the names of the sums of a task's evaluation, in the order of the vector.

    Args:
        task: The task.
        metrics: The names that the settings list. The coordinator knows no tasks, so a task or an
            app of another package sends these beside its number of customers; the rest of its
            figures stays at the store.

    >>> evaluation_names("interest")[:2]
    ('customers', 'hr@10')
    >>> evaluation_names("digits", ["accuracy"])
    ('customers', 'accuracy')
    """
    return _EVALUATIONS.get(task, ("customers", *metrics))


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """The result of a store's round of training.

    Args:
        update: By parameter, the change of the model or, in mode `distributed`, the sum of the
            customers' clipped gradients.
        drawn: Number of customers drawn, over all steps.
        losses: Sum of their losses, each clipped to `loss_clip` and divided by it.
        steps: Number of steps taken.
    """

    update: Mapping[str, NDArray]
    drawn: int
    losses: float
    steps: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainingSum:
    """The decoded sum of the stores' training vectors.

    Args:
        update: Sum of the stores' updates, shape `[parameters]` in the order of `flatten`.
        statistics: Sums by `STATISTICS_NAMES`.
        noise_only: The integers that carry only noise, shape `[coordinates]`; None if the
            manifest has no such section.
    """

    update: Floats
    statistics: Mapping[str, float]
    noise_only: Integers | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StatisticsSum:
    """The decoded sum of the stores' vectors in a phase of statistics.

    Args:
        total: Sum over all customers, shape [the phase's numbers].
        noise_only: As in `TrainingSum`.
    """

    total: Floats
    noise_only: Integers | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Draws:
    """The two random streams of one vector, which must not be used for anything else."""

    rounding: np.random.Generator
    noise: np.random.Generator


def encode_training(
    trained: Trained, manifest: Manifest, *, plan: PrivacyPlan | None, draws: Draws
) -> Integers:
    """Encode the result of a round of training as a store's vector.

    Args:
        trained: The update, counts and losses.
        manifest: The store's manifest.
        plan: Determines the noise on counts and losses; None without privacy.
        draws: Random streams that are fresh for this vector.

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
        # Each step is charged as a release with noise of its own, and variances add up.
        scale = plan.statistics_noise_multiplier * math.sqrt(trained.steps)
        statistics += _gaussian(draws.noise, len(STATISTICS_NAMES), scale)
    return _encode(
        {UPDATE: flatten(trained.update), STATISTICS: statistics}, manifest, "train", draws
    )


def decode_training(total: Integers, manifest: Manifest) -> TrainingSum:
    """Decode the sum of training vectors, or one of them: the inverse of `encode_training`."""
    sums, integers = _decode(total, manifest, "train")
    return TrainingSum(
        update=sums[UPDATE],
        statistics=_named(STATISTICS_NAMES, sums[STATISTICS]),
        noise_only=integers.get(NOISE_ONLY),
    )


def encode_statistics(
    values: Floats, manifest: Manifest, kind: str, *, plan: PrivacyPlan | None, draws: Draws
) -> Integers:
    """Encode a store's sum of statistics as its vector.

    Args:
        values: Sum over the store's customers, each of whom adds a vector of norm at most
            `plan.person_share`, shape [the phase's numbers].
        manifest: The store's manifest.
        kind: Name of the phase.
        plan: Determines the noise; None without privacy.
        draws: Random streams that are fresh for this vector.

    Raises:
        ProtocolError [bad-vector]: A value is not finite, or the length is not the manifest's.

    Guarantees:
        The noise is that of the manifest for a person who adds a vector of norm 1 over all of
        their stores, or the store's share of it.
    """
    if plan and plan.mode == "local":
        values = values + draws.noise.normal(0.0, plan.phase_noise[kind], len(values))
    return _encode({UPDATE: values}, manifest, kind, draws)


def decode_statistics(total: Integers, manifest: Manifest, kind: str) -> StatisticsSum:
    """Decode the sum of vectors of statistics, or one of them: inverse of `encode_statistics`."""
    sums, integers = _decode(total, manifest, kind)
    return StatisticsSum(total=sums[UPDATE], noise_only=integers.get(NOISE_ONLY))


def released_array(total: NDArray, deviation: float) -> npt.NDArray[np.float32]:
    """Return the array of a released sum, shape [numbers + 1], float32.

    Args:
        total: The sum, shape [numbers].
        deviation: Standard deviation of the noise in each of them; 0 without noise.
    """
    return np.append(total, deviation).astype(np.float32)


def encode_evaluation(
    sums: Mapping[str, float], manifest: Manifest, *, plan: PrivacyPlan | None, draws: Draws
) -> Integers:
    """Encode the sums of an evaluation as a store's vector.

    Args:
        sums: Sums over customers, each of whom adds a number in [0, 1]; in the order of the
            task's `evaluation_names`.
        manifest: The store's manifest.
        plan: Determines the noise; None without privacy.
        draws: Random streams that are fresh for this vector.

    Returns:
        Shape `(length,)` and within the bounds of the manifest's layout for evaluations.

    Guarantees:
        One customer adds a vector of norm at most the square root of the number of sums; the
        noise is that times `evaluation_noise_multiplier`, or the store's share of it.
    """
    values = np.array(list(sums.values()), np.float64)
    if plan and plan.mode == "local" and plan.evaluation_noise_multiplier is not None:
        values += _gaussian(draws.noise, len(values), plan.evaluation_noise_multiplier)
    return _encode({EVALUATION: values}, manifest, "evaluate", draws)


def decode_evaluation(
    total: Integers, manifest: Manifest, task: TaskName, metrics: Sequence[str] = ()
) -> dict[str, float]:
    """Decode the sum of evaluation vectors, or one of them: inverse of `encode_evaluation`."""
    sums, _ = _decode(total, manifest, "evaluate")
    return _named(evaluation_names(task, metrics), sums[EVALUATION])


def flatten(arrays: Mapping[str, NDArray]) -> Floats:
    """Concatenate named arrays, sorted by name: float64, shape [parameters]."""
    # Sorted: stores and coordinator need one order, and a dictionary's is that of its making.
    return np.concatenate([np.ravel(array) for _, array in sorted(arrays.items())]).astype(
        np.float64
    )


def unflatten(vector: NDArray, like: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Split the output of `flatten` into arrays with the names and shapes of `like`.

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
    # NumPy draws Poisson variables in double precision, which is wrong by 2 % at 1e14; the
    # manifest's scale keeps the variance below 2^42.
    half = variance / 2
    return generator.poisson(half, length) - generator.poisson(half, length)


def _gaussian(noise: np.random.Generator, length: int, multiplier: float) -> Floats:
    """Draw Gaussian noise for sums to which one customer adds a number in [0, 1] each."""
    # sqrt(length) is the L2 sensitivity of these sums.
    return noise.normal(0.0, multiplier * math.sqrt(length), length)


def _encode(parts: Mapping[str, Floats], manifest: Manifest, kind: str, draws: Draws) -> Integers:
    """Clip, scale and round every section, then add its noise."""
    layout, integers = manifest.terms(kind).layout, {}
    terms = manifest.sections_of(kind)
    for section, term in zip(layout.sections, terms, strict=True):
        values = parts.get(section.name)
        if values is None:  # This section carries noise and nothing else.
            values = np.zeros(section.length)
        rounded = quantize(values, section, entropy=draws.rounding.bytes)
        if term.noise_variance:
            rounded += skellam_noise(draws.noise, term.noise_variance, section.length)
            # Noise beyond the headroom occurs once in 10^22 draws; the bound must hold even then,
            # because sums must not overflow.
            np.clip(rounded, -section.bound, section.bound, out=rounded)
        integers[section.name] = rounded
    return layout.join(integers)


def _decode(
    total: Integers, manifest: Manifest, kind: str
) -> tuple[dict[str, Floats], dict[str, Integers]]:
    """Return every section of a sum, as real numbers and as integers."""
    layout = manifest.terms(kind).layout
    integers = layout.split(total)
    return {s.name: dequantize(integers[s.name], s) for s in layout.sections}, integers


def _named(names: tuple[str, ...], values: Floats) -> dict[str, float]:
    return dict(zip(names, map(float, values), strict=True))
