"""The terms that a run's settings imply, and whether what is asked keeps to the terms.

`manifest_for` is how a federation's terms are first written down; the enrolment authority
signs them. `check_asked` is how a store compares each message with the signed terms.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping

from hanse_common.codec import digest as hash_bytes
from hanse_common.config import RunSettings
from hanse_common.errors import ConfigError, PolicyViolation
from hanse_common.instructions import (
    EVALUATION,
    EVALUATION_NAMES,
    STATISTICS,
    STATISTICS_NAMES,
    UPDATE,
    Instructions,
    NDArray,
    model_digest,
)
from hanse_common.manifest import Manifest, PrivacyTerms, SectionTerms
from hanse_common.privacy.plan import PrivacyPlan
from hanse_common.secagg.layout import largest_scale
from hanse_common.secagg.terms import SMALLEST_COHORT

_SETTINGS_LABEL = b"hanse/settings/1"


def manifest_for(
    settings: RunSettings,
    arrays: Mapping[str, NDArray],
    stores: Iterable[str],
    *,
    federation: str,
) -> Manifest:
    """Write down the terms of a federation that runs these settings.

    Args:
        settings: With the noise solved for, where training is private.
        arrays: The trained parameters that the first round starts from.
        stores: Ids of the stores.
        federation: What it is called.

    Raises:
        ConfigError: There are too few stores to hide one among them.
        UnsafeTerms: The terms break one of the protocol's promises.
        PrivacyError: The settings promise more than their noise can keep.
    """
    ids = tuple(sorted(stores))
    if len(ids) < SMALLEST_COHORT:
        raise ConfigError(
            f"{len(ids)} stores cannot hide one update among them, at least {SMALLEST_COHORT} can",
            hint="add stores, or turn masking off with --no-secure-aggregation",
        )
    federated = settings.federation
    private = settings.privacy.mode != "none"
    evaluated = not private or settings.privacy.evaluation_noise_multiplier is not None

    def section(name: str, length: int, clip: float) -> SectionTerms:
        scale = largest_scale(clip, len(ids))
        return SectionTerms(name=name, length=length, clip=clip, scale=scale)

    def counts(name: str, names: tuple[str, ...]) -> SectionTerms:
        return section(name, len(names), federated.max_customers * math.sqrt(len(names)))

    parameters = sum(array.size for array in arrays.values())
    return Manifest(
        federation=federation,
        stores=ids,
        minimum_cohort=min(federated.minimum_cohort, len(ids)),
        colluders=federated.colluders,
        sections=(
            section(UPDATE, parameters, federated.max_update_norm),
            counts(STATISTICS, STATISTICS_NAMES),
        ),
        evaluation=(counts(EVALUATION, EVALUATION_NAMES),) if evaluated else (),
        model_digest=model_digest(arrays).hex(),
        settings_digest=settings_digest(settings).hex(),
        rounds=federated.rounds,
        privacy=_privacy_terms(settings),
    )


def check_asked(told: Instructions, settings: RunSettings, manifest: Manifest) -> None:
    """Check that a message asks for nothing beyond the signed terms.

    Args:
        told: The message.
        settings: That it carries.
        manifest: Of this store, checked against its policy.

    Raises:
        PolicyViolation: Names the first field that differs, with both values.

    Guarantees:
        Whoever passes is clipped, noised and sampled as the manifest says, for no more
        rounds than it says, from the model it names. Nothing that a store looks at in its
        data is the coordinator's to vary, so that whether it refuses says nothing new.
    """

    def require(holds: bool, field: str, asked: object, agreed: str) -> None:
        if not holds:
            raise PolicyViolation(
                f"the coordinator asks for {field}={asked!r}, the manifest says {agreed}",
                hint="nothing was trained or sent; ask the federation which one is right",
            )

    first = 1 if told.kind == "train" else 0
    within = first <= told.round <= manifest.rounds
    require(within, "round", told.round, f"{first} to {manifest.rounds}")
    asked, agreed = _privacy_terms(settings), manifest.privacy
    for field in PrivacyTerms.model_fields:
        wanted, value = getattr(agreed, field), getattr(asked, field)
        require(value == wanted, f"privacy.{field}", value, repr(wanted))
    if told.kind == "train" and told.round == 1:
        digest = told.model_digest.hex()
        require(digest == manifest.model_digest, "model", digest, manifest.model_digest)
    terms = settings_digest(settings).hex()
    require(terms == manifest.settings_digest, "settings", terms, repr(manifest.settings_digest))


def settings_digest(settings: RunSettings) -> bytes:
    """Return the digest of what a store's work on its data depends on, beside privacy.

    Were it the coordinator's to choose, a store that trains when asked for at least 24
    customers and refuses when asked for 25 would have told how many it has.
    """
    table = settings.model_dump(mode="json", include={"data", "model", "training"})
    text = json.dumps(table, sort_keys=True, separators=(",", ":"))
    return hash_bytes(_SETTINGS_LABEL, text.encode())


def _privacy_terms(settings: RunSettings) -> PrivacyTerms:
    plan = PrivacyPlan.from_settings(settings)
    if plan is None:
        return PrivacyTerms(mode="none")
    terms = settings.privacy
    return PrivacyTerms(
        mode=terms.mode,
        target_epsilon=plan.target_epsilon,
        target_delta=plan.target_delta,
        noise_multiplier=plan.noise_multiplier,
        sample_rate=plan.sample_rate,
        max_grad_norm=plan.max_grad_norm,
        local_steps=plan.steps_per_round,
        statistics_noise_multiplier=plan.statistics_noise_multiplier,
        evaluation_noise_multiplier=plan.evaluation_noise_multiplier,
    )
