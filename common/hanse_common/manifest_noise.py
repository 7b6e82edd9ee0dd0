"""The noise in a manifest: how much each section needs, and how long a sum may be.

In mode `distributed` every store adds a share of Skellam noise to each section of its vector;
`check_noise` proves that the shares of the honest stores add up to the noise that is accounted
(Agarwal, Kairouz and Liu 2021). `sum_norm` bounds what one store can do to the model.
"""

from __future__ import annotations

import math

from hanse_common.config import RunSettings
from hanse_common.errors import PolicyViolation
from hanse_common.manifest import Manifest, PrivacyTerms, SectionTerms
from hanse_common.phases import EVALUATE, TRAIN
from hanse_common.privacy.accounting import skellam_variance
from hanse_common.secagg.terms import Terms
from hanse_common.vector import EVALUATION, NOISE_ONLY, STATISTICS, UPDATE

_DEVIATIONS = 10
"""Headroom for noise, in standard deviations of one store's share; exceeded once in 10^22."""

LARGEST_VARIANCE = 2.0**42
"""Largest variance of one store's noise. NumPy's Poisson sampler compares logarithms of
probabilities in double precision: at a variance of 10^14 it is off by 2 %, at 4 x 10^15 by
14 %."""

_FLOAT_SLACK = 2e-4
"""Rounding error of a sum in float32, relative to one clip: twice the 10^-4 of a sum of 256
clipped gradients; see docs/privacy.md."""

_PLANNING_ERROR = 2.0
"""How many times as many customers as planned a federation may have."""
_NORM_DEVIATIONS = 6.0


def check_noise(manifest: Manifest) -> None:
    """Check that the stores' shares of noise add up to the noise that is accounted.

    Raises:
        PolicyViolation: A section has too little noise, none, or more than can be sampled.

    Guarantees:
        Every section that a private mode fills from customers' data has a noise multiplier. In
        mode `distributed`, the honest stores of the smallest admissible sum add Skellam noise to
        every section that is at least as strong as the Gaussian noise in the accounting.
    """
    if manifest.privacy.mode == "none":
        return
    for kind in manifest.kinds:
        for section in manifest.sections_of(kind):
            if _carries_data(section) and _multiplier(section, manifest, kind) is None:
                raise PolicyViolation(
                    f"manifest has section {section.name!r}, and no noise multiplier for it",
                    hint="ask the federation for a manifest that says what noise it adds",
                )
            if manifest.privacy.mode != "distributed":
                continue
            least = _least_noise(section, manifest, kind)
            # The slack allows for other rounding on the machine that wrote the manifest.
            if section.noise_variance < least * (1 - 1e-12):
                raise PolicyViolation(
                    f"manifest gives section {section.name!r} noise of variance "
                    f"{section.noise_variance:.6g} a store, its promise needs {least:.6g}",
                    hint="ask the federation for a manifest whose noise adds up",
                )
            if section.noise_variance > LARGEST_VARIANCE:
                raise PolicyViolation(
                    f"manifest gives section {section.name!r} noise of variance "
                    f"{section.noise_variance:.6g} a store, at most {LARGEST_VARIANCE:.6g} can "
                    "be drawn",
                    hint="ask the federation for a manifest with a smaller scale",
                )


def honest_survivors(terms: Terms) -> int:
    """Return how many honest stores the smallest admissible sum has; only their noise counts."""
    return terms.survivors(terms.minimum_cohort) - terms.colluders


def with_shared_noise(draft: Manifest) -> Manifest:
    """Return a manifest of mode `distributed` with the noise that every store adds to a section.

    The result is not validated: the modulus may have no room for so much noise.
    """
    # Scales before noise, for all kinds: the noise-only section copies the update's variance.
    for change in (_with_drawable_scale, _with_noise):
        changed = {
            kind: tuple(change(section, draft, kind) for section in draft.sections_of(kind))
            for kind in draft.kinds
        }
        phases = tuple(
            phase.model_copy(update={"sections": changed[phase.name]})
            if phase.release == "statistics"
            else phase
            for phase in draft.phases
        )
        draft = draft.model_copy(
            update={
                "sections": changed.get(TRAIN, ()),
                "evaluation": changed.get(EVALUATE, ()),
                "phases": phases,
            }
        )
    return draft


def _with_drawable_scale(section: SectionTerms, draft: Manifest, kind: str) -> SectionTerms:
    """Return the section with a scale so small that its noise can be sampled exactly."""
    while _least_noise(section, draft, kind) > LARGEST_VARIANCE and section.scale > 1:
        if section.name == NOISE_ONLY:
            break  # it follows the update
        section = section.model_copy(update={"scale": section.scale // 2})
    return section


def _with_noise(section: SectionTerms, draft: Manifest, kind: str) -> SectionTerms:
    variance = _least_noise(section, draft, kind)
    headroom = math.ceil(_DEVIATIONS * math.sqrt(variance))
    return section.model_copy(update={"noise_variance": variance, "headroom": headroom})


def _carries_data(section: SectionTerms) -> bool:
    """Return whether a section is filled from the store's data; others hold only noise."""
    return section.name in (UPDATE, STATISTICS, EVALUATION)


def _multiplier(section: SectionTerms, manifest: Manifest, kind: str) -> float | None:
    privacy = manifest.privacy
    update = privacy.noise_multiplier
    if kind not in (TRAIN, EVALUATE):
        update = {phase.name: phase.noise_multiplier for phase in manifest.phases}[kind]
    return {
        UPDATE: update,
        NOISE_ONLY: update,
        STATISTICS: privacy.statistics_noise_multiplier,
        EVALUATION: privacy.evaluation_noise_multiplier,
    }.get(section.name)


def _least_noise(section: SectionTerms, manifest: Manifest, kind: str) -> float:
    """Return the least variance of one store's noise in a section, in integer steps squared."""
    if section.name == NOISE_ONLY:
        # The update's variance, so that measuring this section measures the update's noise.
        updates = [part for part in manifest.sections_of(kind) if part.name == UPDATE]
        return _least_noise(updates[0], manifest, kind) if updates else 0.0
    noise = _multiplier(section, manifest, kind)
    if noise is None:
        return 0.0
    l2 = _one_customer(section, manifest.privacy, kind)
    # Skellam's bound needs the L1 norm too, which is at most sqrt(length) times the L2 norm.
    variance = skellam_variance(noise, l2, math.sqrt(section.length) * l2)
    return variance / honest_survivors(manifest.terms(kind))


def _one_customer(section: SectionTerms, privacy: PrivacyTerms, kind: str) -> float:
    """Return the largest L2 norm of one person's contribution to a section, in integer steps.

    Each of their stores rounds on its own, which can move every coordinate by one step.
    """
    stores = privacy.max_stores_per_customer or 1
    if section.name == UPDATE and kind != TRAIN:
        # A person's rows of statistics have norm 1, over all of their stores together.
        values = 1 + _FLOAT_SLACK
    elif section.name == UPDATE:
        values = (privacy.max_grad_norm or math.inf) * (1 + _FLOAT_SLACK)
    else:
        values = math.sqrt(section.length) * stores
    return values * section.scale + stores * math.sqrt(section.length)


def sum_norm(manifest: Manifest) -> float:
    """Return the L2 norm to which the coordinator clips the sum of a round's updates.

    It is max(clip, sqrt(stores · noise_variance · length) / scale) in the units of the update:
    the largest norm of one honest store's update, or the expected norm of all stores' noise.

    Guarantees:
        Whatever one store sends, the sum moves the model no further than one honest store's
        largest update, or than the noise of any round. The norm is public and the sum is
        released before it is clipped, so that clipping costs no epsilon.

    Edge cases:
        In modes `local` and `none` a store's noise is within its clip, and the norm is the clip.
        Sums of statistics are not clipped: what is computed from them may not depend on their
        length. `statistics_norm` bounds them.
    """
    section = _update(manifest, TRAIN)
    noise = len(manifest.stores) * section.noise_variance * section.length
    return max(section.clip, math.sqrt(noise) / section.scale)


def step_noise(manifest: Manifest, settings: RunSettings) -> float | None:
    """Return the noise of a step: standard deviation of one number of the mean gradient, in clips.

    It is sqrt(stores · noise_variance) / (scale · clip · stores · expected_batch_size), of a sum
    of all stores; None where no noise is shared (modes `local` and `none`) or no gradient is
    released.
    """
    clip = manifest.privacy.max_grad_norm
    if manifest.privacy.mode != "distributed" or clip is None or TRAIN not in manifest.kinds:
        return None
    section, stores = _update(manifest, TRAIN), len(manifest.stores)
    deviation = math.sqrt(stores * section.noise_variance) / section.scale
    return deviation / (clip * stores * settings.training.expected_batch_size)


def rate_share(manifest: Manifest, settings: RunSettings) -> float:
    """Return the share of `training.learning_rate` that steps take in this federation, at most 1.

    It is (reference_noise / step_noise)⁴, by the public terms alone.
    """
    reference, noise = settings.training.reference_noise, step_noise(manifest, settings)
    if reference is None or noise is None:
        return 1.0
    return min(1.0, (reference / noise) ** 4)


def planned_customers(settings: RunSettings) -> float:
    """Return the number of customers of a store that the settings were planned with; public."""
    return settings.training.expected_batch_size / settings.training.sample_rate


def statistics_norm(manifest: Manifest, settings: RunSettings, kind: str) -> float:
    """Return the largest L2 norm that all stores' sums of statistics together may have.

    A customer's row has a norm of at most 1, and the sum of all rows therefore at most their
    number. A longer sum is not used, so that a forged vector adds no more than this to it.

    Args:
        manifest: The federation's manifest.
        settings: The run's settings.
        kind: Name of the phase.

    Returns:
        Twice the planned number of customers of all stores or, if it is more, the largest norm
        of one store's sum (`max_norm` of the phase), before rounding and shared noise. In mode
        `local` it includes the noise of all stores.
    """
    section, stores = _update(manifest, kind), len(manifest.stores)
    most = max(section.clip, _PLANNING_ERROR * stores * planned_customers(settings))
    if manifest.privacy.mode == "local":
        noise = (_multiplier(section, manifest, kind) or 0.0) * math.sqrt(stores)
        # The norm of Gaussian noise exceeds this with a chance of e^-18 (Laurent, Massart 2000).
        most += noise * (math.sqrt(section.length) + _NORM_DEVIATIONS)
    return most


def _update(manifest: Manifest, kind: str) -> SectionTerms:
    return next(part for part in manifest.sections_of(kind) if part.name == UPDATE)
