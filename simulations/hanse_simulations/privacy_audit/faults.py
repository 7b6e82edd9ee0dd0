"""Faults in the stores' noise that an audit must detect; only the attack can cause them.

No message, manifest, policy or setting can ask a store for one. The faults spare the noise-only
coordinates, as a store would that cheats the coordinator's own measure of the noise; otherwise
the coordinator would stop the run.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import cast

import numpy as np
import numpy.typing as npt

from hanse_common.manifest import Manifest, SectionTerms
from hanse_common.manifest_noise import honest_survivors
from hanse_common.vector import STATISTICS, UPDATE, Draws


class Fault(StrEnum):
    """The fault in the stores' noise, while their claim stays the same."""

    NONE = "none"
    NO_NOISE = "no-noise"
    NOISE_OVER_N = "noise-over-n"


def faulty_manifest(manifest: Manifest, fault: Fault) -> Manifest:
    """The manifest with the noise that faulty stores of mode `distributed` add, in all phases.

    Where n honest stores share the noise sigma, each must add sigma/sqrt(n); a store that
    adds sigma/n has divided the deviation where the variance was meant.
    """
    if fault is Fault.NONE:
        return manifest
    part = 0.0 if fault is Fault.NO_NOISE else 1 / honest_survivors(manifest.terms())

    def faulty(sections: tuple[SectionTerms, ...]) -> tuple[SectionTerms, ...]:
        return tuple(
            section.model_copy(update={"noise_variance": section.noise_variance * part})
            # The noise-only section keeps its noise: with less, the coordinator stops the run.
            if section.name in (UPDATE, STATISTICS)
            else section
            for section in sections
        )

    phases = tuple(
        phase.model_copy(update={"sections": faulty(phase.sections)}) for phase in manifest.phases
    )
    return manifest.model_copy(update={"sections": faulty(manifest.sections), "phases": phases})


def noise_factor(fault: Fault, stores: int) -> float:
    """Factor on the noise of stores of mode `local`, where each must add all of it."""
    return {Fault.NONE: 1.0, Fault.NO_NOISE: 0.0, Fault.NOISE_OVER_N: 1 / stores}[fault]


def faulty_draws(draws: Draws, factor: float) -> Draws:
    """The streams of a store of mode `local` that adds `factor` times the noise of its sums."""
    return replace(draws, noise=cast(np.random.Generator, _LessNoise(draws.noise, factor)))


class _LessNoise:
    """Draws Gaussian noise as a generator does, with a fraction of the deviation."""

    def __init__(self, generator: np.random.Generator, factor: float) -> None:
        self._generator, self._factor = generator, factor

    def normal(self, mean: float, deviation: float, size: int) -> npt.NDArray[np.float64]:
        return self._generator.normal(mean, self._factor * deviation, size)
