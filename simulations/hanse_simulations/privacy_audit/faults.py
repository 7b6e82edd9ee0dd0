"""Faults in the stores' noise that an audit must detect; only the attack can cause them.

No message, manifest, policy or setting can ask a store for one. The faults spare the noise-only
coordinates, as a store would that cheats the coordinator's own measure of the noise; otherwise
the coordinator would stop the run.
"""

from __future__ import annotations

from enum import StrEnum

from hanse_common.manifest import Manifest
from hanse_common.manifest_noise import honest_survivors
from hanse_common.vector import STATISTICS, UPDATE


class Fault(StrEnum):
    """The fault in the stores' noise, while their claim stays the same."""

    NONE = "none"
    NO_NOISE = "no-noise"
    NOISE_OVER_N = "noise-over-n"


def faulty_manifest(manifest: Manifest, fault: Fault) -> Manifest:
    """The manifest with the noise that faulty stores of mode `distributed` add.

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
                # The noise-only section keeps its noise: with less, the coordinator stops the run.
                if section.name in (UPDATE, STATISTICS)
                else section
                for section in manifest.sections
            )
        }
    )


def noise_factor(fault: Fault, stores: int) -> float:
    """Factor on the noise of stores of mode `local`, where each must add all of it."""
    return {Fault.NONE: 1.0, Fault.NO_NOISE: 0.0, Fault.NOISE_OVER_N: 1 / stores}[fault]
