"""Noise that a manifest promises: enough whatever the settings, and never too large for a sum."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from hanse_common.config import RunSettings
from hanse_common.errors import PrivacyError, ProtocolError
from hanse_common.instructions import SETTINGS, Instructions
from hanse_common.manifest import Manifest
from hanse_common.manifest_noise import LARGEST_VARIANCE, check_noise, honest_survivors
from hanse_common.manifest_terms import check_instructions, manifest_for
from hanse_common.recipes import synthetic
from hanse_common.secagg.layout import LARGEST_SUM
from kits.errors import raises


def run_settings(**changes) -> RunSettings:
    return synthetic().with_changes(
        {
            "privacy.mode": "distributed",
            "privacy.noise_multiplier": 4.0,
            "privacy.target_epsilon": 1e6,
            "federation.rounds": 1,
            **{name.replace("__", "."): value for name, value in changes.items()},
        }
    )


def write(settings: RunSettings, *, stores: int = 10, length: int = 100) -> Manifest:
    arrays = {"w": np.zeros(length, np.float32)}
    ids = [f"store-{number:05}" for number in range(stores)]
    return manifest_for(settings, arrays, ids, federation="f")


def parts_of(manifest):
    return {part.name: part for part in (*manifest.sections, *manifest.evaluation)}


def with_section(manifest, name, **changes):
    """The manifest with one section's terms changed, unchecked as a signer could write it."""
    return manifest.model_copy(
        update={
            field: tuple(
                part.model_copy(update=changes) if part.name == name else part
                for part in getattr(manifest, field)
            )
            for field in ("sections", "evaluation")
        }
    )


manifests = st.builds(
    lambda **terms: terms,
    stores=st.integers(5, 400),
    length=st.integers(1, 20_000),
    # Few values, for each new one has to be accounted for.
    noise=st.sampled_from([4.0, 40.0]),
    statistics=st.sampled_from([10.0]),
    evaluation=st.sampled_from([None, 3.0]),
    clip=st.floats(1e-3, 30),
    customers=st.integers(1, 200_000),
    drawn=st.integers(1, 2000),
    per_person=st.sampled_from([1, 5]),
    colluders=st.integers(0, 2),
)


def built(terms):
    """A manifest, or none where the settings are refused as they should be."""
    try:
        return write(
            run_settings(
                privacy__noise_multiplier=terms["noise"],
                privacy__statistics_noise_multiplier=terms["statistics"],
                privacy__evaluation_noise_multiplier=terms["evaluation"],
                privacy__max_grad_norm=terms["clip"],
                privacy__max_stores_per_customer=terms["per_person"],
                federation__max_customers=terms["customers"],
                federation__max_drawn=terms["drawn"],
                federation__colluders=terms["colluders"],
            ),
            stores=terms["stores"],
            length=terms["length"],
        )
    except PrivacyError:
        return None
    except ProtocolError as error:
        assert error.code == "unsafe-terms"
        return None


@hypothesis_settings(max_examples=150, deadline=None)
@given(terms=manifests)
def test_every_manifest_that_is_written_down_passes_and_no_sum_of_it_overflows(terms):
    manifest = built(terms)
    assume(manifest is not None)
    check_noise(manifest)
    for kind in ("train", "evaluate") if manifest.evaluation else ("train",):
        found = manifest.terms(kind)
        assert found.layout.largest_cohort() >= found.maximum_cohort == terms["stores"]
    for part in parts_of(manifest).values():
        assert part.noise_variance <= LARGEST_VARIANCE
        assert part.headroom >= 10 * math.sqrt(part.noise_variance)
        bound = math.ceil(part.clip * part.scale) + part.headroom
        assert bound * terms["stores"] <= LARGEST_SUM
    assert Manifest.model_validate(manifest.model_dump()) == manifest


@hypothesis_settings(max_examples=60, deadline=None)
@given(terms=manifests, data=st.data())
def test_noise_lowered_by_a_thousandth_in_any_section_is_refused_by_name(terms, data):
    manifest = built(terms)
    assume(manifest is not None)
    part = data.draw(st.sampled_from(sorted(parts_of(manifest).items())))[1]
    low = part.noise_variance * 0.999
    with raises("policy-violation") as refusal:
        check_noise(with_section(manifest, part.name, noise_variance=low))
    assert f"{part.name!r}" in refusal.value.message
    assert f"{low:.6g}" in refusal.value.message
    assert f"{part.noise_variance:.6g}" in refusal.value.message


@hypothesis_settings(max_examples=60, deadline=None)
@given(terms=manifests)
def test_the_honest_survivors_together_have_the_gaussians_variance_for_one_person(terms):
    """By the definition, not by the code's own formula: sigma times all that a person adds."""
    manifest = built(terms)
    assume(manifest is not None)
    per_person, privacy = terms["per_person"], manifest.privacy
    for part in parts_of(manifest).values():
        noise, share = {
            "update": (privacy.noise_multiplier, terms["clip"] / per_person),
            "noise_only": (privacy.noise_multiplier, terms["clip"] / per_person),
            "statistics": (privacy.statistics_noise_multiplier, math.sqrt(2)),
            "evaluation": (privacy.evaluation_noise_multiplier, math.sqrt(8)),
        }[part.name]
        # At each store a person moves the values, and rounding moves every coordinate.
        length = terms["length"] if part.name == "noise_only" else part.length
        scale = parts_of(manifest)["update"].scale if part.name == "noise_only" else part.scale
        at_one_store = share * scale + math.sqrt(length)
        needed = (noise * per_person * at_one_store) ** 2
        honest = honest_survivors(manifest.terms())
        assert part.noise_variance * honest >= needed * (1 - 1e-9)


def test_more_survivors_mean_a_smaller_share_for_each():
    shares = [
        parts_of(write(run_settings(federation__minimum_survivors=count), stores=20))[
            "update"
        ].noise_variance
        for count in range(14, 21)
    ]
    assert all(np.diff(shares) < 0)
    # Fourteen survivors, one of whom may collude: thirteen shares make up the whole.
    assert shares[0] / shares[-1] == pytest.approx(19 / 13)


@pytest.mark.parametrize("colluders", [0, 1, 3])
def test_colluders_noise_does_not_count(colluders):
    settings = run_settings(federation__minimum_survivors=12, federation__colluders=colluders)
    manifest = write(settings, stores=12)
    assert honest_survivors(manifest.terms()) == 12 - colluders
    alone = run_settings(federation__minimum_survivors=12, federation__colluders=0)
    ratio = (
        parts_of(manifest)["update"].noise_variance
        / parts_of(write(alone, stores=12))["update"].noise_variance
    )
    assert ratio == pytest.approx(12 / (12 - colluders))


def test_the_smallest_sum_of_a_larger_roster_has_no_less_noise():
    """Noise is measured by the smallest roster; every larger one needs as many survivors."""
    terms = write(run_settings(), stores=40).terms()
    least = honest_survivors(terms)
    for cohort in range(terms.minimum_cohort, terms.maximum_cohort + 1):
        assert terms.survivors(cohort) - terms.colluders >= least


def test_noise_too_large_to_be_drawn_right_is_avoided_by_coarser_steps_or_refused():
    manifest = write(run_settings(privacy__max_grad_norm=30.0), stores=5)
    update = parts_of(manifest)["update"]
    assert update.scale < 2**18
    assert LARGEST_VARIANCE / 5 < update.noise_variance <= LARGEST_VARIANCE
    with raises("policy-violation", match="'update'"):
        check_noise(with_section(manifest, "update", noise_variance=LARGEST_VARIANCE * 1.01))


# What a store compares with the manifest


ARRAYS = {"w": np.zeros(100, np.float32)}


def told(settings):
    config = {SETTINGS: settings.model_dump_json(), "server-round": 1, "run": 1, "attempt": 1}
    return Instructions.read(config, ARRAYS, kind="train")


def test_what_the_manifest_says_is_accepted():
    settings = run_settings()
    check_instructions(told(settings), settings, ARRAYS, write(settings))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"privacy__noise_multiplier": 3.996}, "privacy.noise_multiplier"),
        ({"training__sample_rate": 0.2}, "privacy.sample_rate"),
        ({"privacy__max_grad_norm": 0.51}, "privacy.max_grad_norm"),
        ({"privacy__max_stores_per_customer": 2}, "privacy.max_stores_per_customer"),
        ({"privacy__statistics_noise_multiplier": 9.0}, "privacy.statistics_noise_multiplier"),
        ({"privacy__evaluation_noise_multiplier": 9.0}, "privacy.evaluation_noise_multiplier"),
        ({"privacy__target_epsilon": 1.1e6}, "privacy.target_epsilon"),
        ({"privacy__target_delta": 1e-5}, "privacy.target_delta"),
        ({"privacy__mode": "local"}, "privacy.mode"),
        ({"privacy": {"mode": "none"}}, "privacy.mode"),
        ({"privacy__mode": "local", "training__local_steps": 2}, "privacy.mode"),
    ],
)
def test_a_store_refuses_what_differs_from_the_manifest_by_name(changes, field):
    manifest = write(run_settings())
    asked = run_settings().with_changes(
        {name.replace("__", "."): value for name, value in changes.items()}
    )
    with raises("policy-violation", match=f"{field}="):
        check_instructions(told(asked), asked, ARRAYS, manifest)


def test_more_steps_are_refused_in_the_mode_that_allows_them():
    settings = run_settings().with_changes({"privacy.mode": "local"})
    more = settings.with_changes({"training.local_steps": 2})
    with raises("policy-violation", match=r"privacy\.local_steps=2"):
        check_instructions(told(more), more, ARRAYS, write(settings))


# Manifests that an authority should not have signed


def hostile(manifest, **changes):
    return Manifest.model_validate({**manifest.model_dump(), **changes})


def test_a_manifest_with_noise_for_another_number_of_survivors_is_refused():
    manifest = write(run_settings(federation__minimum_survivors=9))
    for changes in ({"minimum_survivors": 8}, {"colluders": 2}):
        weaker = hostile(manifest, **changes)
        assert honest_survivors(weaker.terms()) < honest_survivors(manifest.terms())
        with raises("policy-violation", match="'update'"):
            check_noise(weaker)


def test_an_evaluation_that_is_called_update_does_not_excuse_the_update():
    """Sections are told apart by exchange: a decoy of one coordinate needs little noise."""
    manifest = with_section(write(run_settings()), "update", noise_variance=1000.0)
    decoy = parts_of(manifest)["update"].model_copy(
        update={"length": 1, "scale": 1, "noise_variance": 1000.0, "headroom": 400}
    )
    quiet = with_section(manifest, "noise_only", noise_variance=1000.0)
    with raises("policy-violation", match="'update'"):
        check_noise(quiet.model_copy(update={"evaluation": (decoy,)}))


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("noise_multiplier", "update"),
        ("statistics_noise_multiplier", "statistics"),
        ("evaluation_noise_multiplier", "evaluation"),
    ],
)
@pytest.mark.parametrize("mode", ["distributed", "local"])
def test_a_section_that_is_sent_without_any_promised_noise_is_refused(field, name, mode):
    settings = run_settings(privacy__evaluation_noise_multiplier=9.0, privacy__mode=mode)
    manifest = write(settings)
    silent = manifest.privacy.model_copy(update={field: None})
    manifest = with_section(manifest, name, noise_variance=0.0)
    with raises("policy-violation", match=f"{name!r}"):
        check_noise(manifest.model_copy(update={"privacy": silent}))


def test_a_manifest_for_more_rounds_than_its_noise_lasts_is_refused():
    settings = synthetic().with_changes({"federation.rounds": 2})
    plan_noise = {"privacy.noise_multiplier": 4.0, "privacy.target_epsilon": 1.0}
    settings = settings.with_changes(plan_noise)
    manifest = write(settings)
    check_instructions(told(settings), settings, ARRAYS, manifest)
    with raises("policy-violation", match="rounds"):
        check_instructions(told(settings), settings, ARRAYS, hostile(manifest, rounds=2000))
