"""Derives a manifest from a run's settings, and checks messages against a manifest.

`manifest_for` writes a federation's terms, which the enrolment authority signs. By
`check_instructions` a store compares each message with the signed terms.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from hanse_common.codec import digest as hash_bytes
from hanse_common.config import RunSettings
from hanse_common.errors import ConfigError, PolicyViolation, PrivacyError
from hanse_common.instructions import Instructions, NDArray, model_digest
from hanse_common.manifest import Manifest, PhaseTerms, PrivacyTerms, SectionTerms
from hanse_common.manifest_noise import check_noise, with_shared_noise
from hanse_common.paths import CONFIG_FILE, WEIGHTS_FILE
from hanse_common.phase_settings import PhaseSettings
from hanse_common.phases import EVALUATE, RELEASED, trained
from hanse_common.privacy.budget import Grant
from hanse_common.privacy.plan import PrivacyPlan
from hanse_common.secagg.layout import DEFAULT_SCALE, largest_scale
from hanse_common.secagg.terms import SMALLEST_COHORT
from hanse_common.vector import (
    EVALUATION,
    NOISE_ONLY,
    STATISTICS,
    STATISTICS_NAMES,
    UPDATE,
    evaluation_names,
)

_SETTINGS_LABEL = b"hanse/settings/1"
_NOT_DIGESTED = {
    *("recipe", "seed", "privacy", "compute", "compare", "sweep"),
    *("continues", "transformer_training"),
}
_BASE_LABEL = b"hanse/base-model/1"

BASE_MODEL_FILES = (CONFIG_FILE, WEIGHTS_FILE)
"""Files that every store receives before the first round."""


def manifest_for(
    settings: RunSettings,
    arrays: Mapping[str, NDArray],
    stores: Iterable[str],
    *,
    federation: str,
    log_key: bytes | None = None,
) -> Manifest:
    """Return the terms of a federation that runs these settings.

    Args:
        settings: The run's settings, with the noise multiplier solved if training is private.
        arrays: Initial values of the trained parameters and of the sums to release, by name.
        stores: Ids of the stores.
        federation: Name of the federation.
        log_key: Public key of the coordinator's round log; None without a log.

    Raises:
        ConfigError: There are too few stores for secure aggregation.
        ProtocolError [unsafe-terms]: The terms break one of the protocol's promises.
        PrivacyError: The settings promise more than their noise can keep.
    """
    return _written(
        settings,
        {name: array.shape for name, array in arrays.items()},
        stores,
        federation=federation,
        # Of what the first round sends: sums that are not released yet do not exist.
        model_digest=model_digest(settings.schedule.known(arrays, after=0)).hex(),
        log_key=None if log_key is None else log_key.hex(),
    )


def planned_manifest(
    settings: RunSettings,
    parameters: int,
    stores: int,
    *,
    released: Mapping[str, int] | None = None,
) -> Manifest:
    """Return the terms of a federation whose model and stores do not exist yet.

    They show the noise and the sums of such a federation. Its stores have numbers for ids, and
    the model digest is zero.

    Args:
        settings: As for `manifest_for`.
        parameters: Number of trained parameters.
        stores: Number of stores.
        released: Length of the vector of each statistics phase; 1 where it is unknown, at
            which the noise lacks what the rounding of more numbers needs.

    Raises:
        ConfigError: As `manifest_for`.
        ProtocolError [unsafe-terms]: As `manifest_for`.
        PrivacyError: As `manifest_for`.
    """
    ids = [f"{number:05}" for number in range(stores)]
    arrays = {"planned": (parameters,)}
    lengths = {phase.name: 1 for phase in settings.schedule.statistics} | dict(released or {})
    arrays |= {RELEASED + name: (length + 1,) for name, length in lengths.items()}
    return _written(settings, arrays, ids, federation="planned", model_digest="0" * 64)


def base_model_digest(folder: Path) -> bytes | None:
    """Return the digest of a base model's files, byte for byte; None if a file is missing.

    Messages carry only the trained parameters. The digest makes sure that the frozen parameters
    are the same at all stores.
    """
    paths = [folder / name for name in BASE_MODEL_FILES]
    if not all(path.is_file() for path in paths):
        return None
    return hash_bytes(_BASE_LABEL, *(path.read_bytes() for path in paths))


def check_base_model(folder: Path, manifest: Manifest) -> None:
    """Check the files of the base model, if the manifest names a digest.

    Raises:
        PolicyViolation: The files are missing or have another digest.
    """
    agreed = manifest.base_digest
    if agreed is None:
        return
    actual = base_model_digest(folder)
    if actual is None or actual.hex() != agreed:
        raise PolicyViolation(
            "this store's base model is not the one that the manifest names",
            hint="import the coordinator's model folder as it is: `hanse store enrol --model DIR`",
        )


def check_instructions(
    instructions: Instructions,
    settings: RunSettings,
    arrays: Mapping[str, NDArray],
    manifest: Manifest,
) -> None:
    """Check that a message asks for nothing beyond the signed terms.

    Args:
        instructions: The message.
        settings: The settings in the message.
        arrays: The model in the message, by name.
        manifest: The store's manifest, checked against its policy.

    Raises:
        PolicyViolation: A field differs; the message names the first one and both values.

    Guarantees:
        If it returns, clipping, noise and sampling are those of the manifest, the manifest has
        such an exchange, and settings, trained arrays and, in round 1, the model are the ones
        that it names; and the manifest's noise is enough for the epsilon that it promises. The
        coordinator can vary nothing that a store's work on its data depends on, so that a
        refusal reveals nothing about the data.
    """

    def require(holds: bool, field: str, received: object, agreed: str) -> None:
        if not holds:
            raise PolicyViolation(
                f"the coordinator asks for {field}={received!r}, the manifest says {agreed}",
                hint="nothing was trained or sent; ask the federation which one is right",
            )

    # Settings that contradict themselves are refused like settings that differ.
    try:
        received, agreed = _privacy_terms(settings), manifest.privacy
    except PrivacyError as error:
        raise PolicyViolation(
            f"the coordinator asks for terms that do not hold: {error.message}",
            hint="nothing was trained or sent",
        ) from None
    for field in PrivacyTerms.model_fields:
        wanted, value = getattr(agreed, field), getattr(received, field)
        require(value == wanted, f"privacy.{field}", value, repr(wanted))
    if settings.phases or manifest.phases:
        phases = [(phase.name, phase.rounds) for phase in settings.schedule.all]
        signed = [(phase.name, phase.rounds) for phase in manifest.schedule.all]
        require(phases == signed, "phases", phases, repr(signed))
    asked, noise = _phase_noise(settings.phases), _phase_noise(manifest.phases)
    require(asked == noise, "phases.noise_multiplier", asked, repr(noise))
    digest = settings_digest(settings).hex()
    require(digest == manifest.settings_digest, "settings", digest, repr(manifest.settings_digest))
    _check_place(instructions, manifest, require)
    mu = _proximal_mu(settings) if instructions.kind == "train" else 0.0
    require(instructions.proximal_mu == mu, "proximal-mu", instructions.proximal_mu, repr(mu))
    before = 1 if instructions.kind == "train" else 0
    known = manifest.schedule.known(manifest.arrays, after=instructions.round - before)
    for name in sorted({*arrays, *known}):
        array, wanted = arrays.get(name), known.get(name)
        actual = None if array is None else (str(array.dtype), array.shape)
        fits = actual == (None if wanted is None else ("float32", wanted))
        require(fits, f"arrays.{name}", actual, f"float32 {wanted}" if wanted else "no such array")
    # Clipping cannot bound a gradient that is NaN.
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise PolicyViolation(
            "the coordinator's model holds values that are not finite",
            hint="nothing was trained or sent; the federation's training has diverged",
        )
    # Later models are sums of updates, which no store can know in advance.
    if instructions.kind == "train" and instructions.round == 1:
        model = instructions.model_digest.hex()
        require(model == manifest.model_digest, "model", model, manifest.model_digest)
    # Constructing the plan checks that the granted exchanges cost no more than the target epsilon.
    check_noise(manifest)
    try:
        plan_of(manifest)
    except PrivacyError as error:
        raise PolicyViolation(
            f"the manifest's noise does not last for what it grants: {error.message}",
            hint="ask the federation for a manifest whose noise lasts for its rounds",
        ) from None


def _check_place(
    instructions: Instructions,
    manifest: Manifest,
    require: Callable[[bool, str, object, str], None],
) -> None:
    """Check that the manifest has an exchange of this kind, in this round, on this split."""
    number, last = instructions.round, manifest.rounds
    if instructions.kind == "train":
        require(1 <= number <= last, "round", number, f"1 to {last}")
        return
    every = manifest.evaluate_every
    if every is None:
        require(False, "kind", "evaluate", "that no evaluation leaves a store")
    elif instructions.split == "validate":
        due = 0 <= number <= last and (number % every == 0 or number == last)
        require(due, "round", number, f"an evaluation every {every} rounds and after {last}")
    else:
        require(number == last, "round", number, f"that the test follows round {last}")


def plan_of(manifest: Manifest) -> PrivacyPlan | None:
    """Return the privacy plan of the terms; None without privacy.

    Raises:
        PrivacyError: The terms are incomplete, or cost more than their target epsilon.
    """
    terms = manifest.privacy
    if terms.mode == "none":
        return None
    if (
        terms.sample_rate is None
        or terms.max_grad_norm is None
        or (terms.noise_multiplier is None and manifest.schedule.gradient is not None)
        or terms.target_epsilon is None
        or terms.target_delta is None
    ):
        raise PrivacyError(
            "the manifest does not say sample_rate, max_grad_norm, noise_multiplier and target",
            hint="ask the federation for a complete manifest",
        )
    return PrivacyPlan(
        mode=terms.mode,
        sample_rate=terms.sample_rate,
        max_grad_norm=terms.max_grad_norm,
        # Without a gradient phase it is never used.
        noise_multiplier=terms.noise_multiplier or 1.0,
        target_epsilon=terms.target_epsilon,
        target_delta=terms.target_delta,
        steps_per_round=terms.local_steps or 1,
        rounds=manifest.rounds,
        statistics_noise_multiplier=terms.statistics_noise_multiplier,
        evaluation_noise_multiplier=terms.evaluation_noise_multiplier,
        evaluate_every=manifest.evaluate_every or manifest.rounds,
        max_stores_per_customer=terms.max_stores_per_customer or 1,
        spare=manifest.spare_exchanges,
        phases=manifest.schedule,
        phase_noise=_phase_noise(manifest.phases),
    )


def grant_of(manifest: Manifest) -> Grant | None:
    """Return what the terms let each store spend over all runs; None without privacy."""
    terms = manifest.privacy
    if terms.target_epsilon is None or terms.target_delta is None:
        return None
    return Grant(
        manifest_digest=manifest.digest(),
        max_epsilon=terms.target_epsilon,
        target_delta=terms.target_delta,
        exchanges={kind: manifest.granted(kind) for kind in (*manifest.kinds, EVALUATE)},
    )


def _proximal_mu(settings: RunSettings) -> float:
    """Return FedProx's mu, as the strategy of these settings sends it."""
    return float(settings.federation.strategy_options.get("proximal_mu", 0.0))


def settings_digest(settings: RunSettings) -> bytes:
    """Return the digest of the settings that a store's work depends on, except privacy.

    If the coordinator could choose these settings, it could probe a store: one that trains with
    `min_customers` at 24 and refuses at 25 has 24 customers. The digest leaves out the privacy
    terms, which are compared one by one, and settings that no store's work depends on.
    """
    table = settings.model_dump(mode="json", exclude=_NOT_DIGESTED)
    text = json.dumps(table, sort_keys=True, separators=(",", ":"))
    return hash_bytes(_SETTINGS_LABEL, text.encode())


def _written(
    settings: RunSettings,
    arrays: Mapping[str, tuple[int, ...]],
    stores: Iterable[str],
    *,
    federation: str,
    model_digest: str,
    log_key: str | None = None,
) -> Manifest:
    ids = tuple(sorted(stores))
    if len(ids) < SMALLEST_COHORT:
        raise ConfigError(
            f"{len(ids)} stores cannot hide one update among them, at least {SMALLEST_COHORT} can",
            hint="add stores, or switch masking off with --no-secure-aggregation",
        )
    plan = PrivacyPlan.from_settings(settings)
    cohort, survivors = _sizes(settings, len(ids))
    parameters = sum(math.prod(shape) for shape in trained(arrays).values())
    gradient = settings.schedule.gradient is not None
    evaluation = _evaluation(settings, plan, len(ids))
    draft = Manifest(
        federation=federation,
        stores=ids,
        minimum_cohort=cohort,
        minimum_survivors=survivors,
        colluders=settings.federation.colluders,
        sections=_sections(settings, plan, parameters, len(ids)) if gradient else (),
        phases=_phases(settings, plan, arrays, len(ids)),
        evaluation=evaluation,
        evaluate_every=settings.federation.evaluate_every if evaluation else None,
        spare_exchanges=settings.spare_exchanges,
        arrays=dict(arrays),
        model_digest=model_digest,
        settings_digest=settings_digest(settings).hex(),
        log_key=log_key,
        rounds=settings.federation.rounds,
        privacy=_privacy_terms(settings),
    )
    if plan is None or plan.mode != "distributed":
        return draft
    # `model_copy` validates nothing, and the modulus may have no room for so much noise.
    return Manifest.model_validate(with_shared_noise(draft).model_dump())


def _sizes(settings: RunSettings, stores: int) -> tuple[int, int]:
    """Return the minima of cohort and survivors; 0 survivors leaves the protocol's threshold."""
    federated = settings.federation
    if settings.privacy.mode != "distributed":
        cohort = min(federated.minimum_cohort, stores)
        return max(cohort, federated.minimum_survivors or 0), federated.minimum_survivors or 0
    # One in ten, rounded up, may be away: 2 of 12, 4 of 40. Its price in noise is what
    # `hanse server manifest sign` prints.
    survivors = federated.minimum_survivors or stores - math.ceil(stores / 10)
    return max(min(federated.minimum_cohort, stores), survivors, SMALLEST_COHORT), survivors


def _sections(
    settings: RunSettings, plan: PrivacyPlan | None, parameters: int, stores: int
) -> tuple[SectionTerms, ...]:
    federated = settings.federation
    statistics = _counts(STATISTICS, STATISTICS_NAMES, settings, stores)
    if plan is None or plan.mode != "distributed":
        return _section(UPDATE, parameters, federated.max_update_norm, stores), statistics
    update = _section(UPDATE, parameters, settings.max_drawn * plan.store_clip, stores)
    return update, statistics, *_noise_only(update, settings)


def _noise_only(update: SectionTerms, settings: RunSettings) -> tuple[SectionTerms, ...]:
    length = settings.federation.noise_only
    named = update.model_copy(update={"name": NOISE_ONLY, "length": length})
    return (named,) if length else ()


def _phases(
    settings: RunSettings,
    plan: PrivacyPlan | None,
    arrays: Mapping[str, tuple[int, ...]],
    stores: int,
) -> tuple[PhaseTerms, ...]:
    """Return the terms of the phases; none if all rounds release gradients."""
    terms = []
    for phase, numbered in zip(settings.phases, settings.schedule.all, strict=False):
        sections: tuple[SectionTerms, ...] = ()
        if phase.release == "statistics":
            # One less than in the array: the last number there is the noise's deviation.
            length = math.prod(arrays.get(numbered.array, (2,))) - 1
            update = _section(UPDATE, length, phase.max_norm, stores)
            shared = plan is not None and plan.mode == "distributed"
            sections = (update, *(_noise_only(update, settings) if shared else ()))
        terms.append(
            PhaseTerms(
                name=phase.name,
                release=phase.release,
                rounds=numbered.rounds,
                noise_multiplier=phase.noise_multiplier,
                sections=sections,
            )
        )
    return tuple(terms)


def _phase_noise(phases: Iterable[PhaseTerms | PhaseSettings]) -> dict[str, float]:
    return {
        phase.name: phase.noise_multiplier or 0.0
        for phase in phases
        if phase.release == "statistics"
    }


def _evaluation(
    settings: RunSettings, plan: PrivacyPlan | None, stores: int
) -> tuple[SectionTerms, ...]:
    if plan is not None and plan.evaluation_noise_multiplier is None:
        return ()
    names = evaluation_names(settings.task, settings.metrics)
    return (_counts(EVALUATION, names, settings, stores),)


def _counts(name: str, names: tuple[str, ...], settings: RunSettings, stores: int) -> SectionTerms:
    bound = settings.federation.max_customers * math.sqrt(len(names))
    return _section(name, len(names), bound, stores)


def _section(name: str, length: int, clip: float, stores: int) -> SectionTerms:
    # The factor 4/3 reserves a quarter of the modulus' range for noise.
    scale = min(largest_scale(clip * 4 / 3, stores), DEFAULT_SCALE)
    return SectionTerms(name=name, length=length, clip=clip, scale=scale)


def _privacy_terms(settings: RunSettings) -> PrivacyTerms:
    plan = PrivacyPlan.from_settings(settings)
    if plan is None:
        return PrivacyTerms(mode="none")
    return PrivacyTerms(
        mode=plan.mode,
        target_epsilon=plan.target_epsilon,
        target_delta=plan.target_delta,
        noise_multiplier=plan.noise_multiplier,
        sample_rate=plan.sample_rate,
        max_grad_norm=plan.max_grad_norm,
        local_steps=plan.steps_per_round,
        max_stores_per_customer=plan.max_stores_per_customer,
        one_home=settings.privacy.one_home,
        statistics_noise_multiplier=plan.statistics_noise_multiplier,
        evaluation_noise_multiplier=plan.evaluation_noise_multiplier,
    )
