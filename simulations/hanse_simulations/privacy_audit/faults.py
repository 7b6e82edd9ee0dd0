"""Faults of noise that an audit must find, put into stores by the attack alone.

A store cannot be told any of this: no message, manifest, policy or setting has a word for
it. The faults leave the noise-only coordinates alone, as a store would that cheats the
coordinator's own measure of the noise; without that, the coordinator stops the run.
"""

from __future__ import annotations

from enum import StrEnum

from hanse_common.manifest import Manifest
from hanse_common.manifest_terms import honest_survivors
from hanse_common.vector import STATISTICS, UPDATE


class Fault(StrEnum):
    """What is wrong with the stores' noise, while the claim stands."""

    NONE = "none"
    NO_NOISE = "no-noise"
    NOISE_OVER_N = "noise-over-n"


def faulty_manifest(manifest: Manifest, fault: Fault) -> Manifest:
    """What stores of mode `distributed` take for their share of the noise.

    Where n honest stores share the noise sigma, each must add sigma/sqrt(n); a store that
    adds sigma/n has divided the deviation where the variance was meant.
    """
    if fault is Fault.NONE:
        return manifest
    part = 0.0 if fault is Fault.NO_NOISE else 1 / honest_survivors(manifest.terms())
    return manifest.model_copy(
        update={
            "sections": tuple(
                section.model_copy(update={"noise_variance": section.noise_variance * part})
                if section.name in (UPDATE, STATISTICS)
                else section
                for section in manifest.sections
            )
        }
    )


def noise_factor(fault: Fault, stores: int) -> float:
    """What stores of mode `local` multiply their noise by; there each must add all of it."""
    return {Fault.NONE: 1.0, Fault.NO_NOISE: 0.0, Fault.NOISE_OVER_N: 1 / stores}[fault]
