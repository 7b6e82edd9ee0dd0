"""The vector of an exchange: what a store encodes is what the coordinator decodes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from hanse_common.config import TaskName
from hanse_common.manifest import Manifest, PrivacyTerms, SectionTerms
from hanse_common.privacy.randomness import keystream, repeatable_key
from hanse_common.vector import (
    EVALUATION,
    NOISE_ONLY,
    STATISTICS,
    STATISTICS_NAMES,
    UPDATE,
    Draws,
    Trained,
    decode_evaluation,
    decode_training,
    encode_evaluation,
    encode_training,
    evaluation_names,
    flatten,
    skellam_noise,
    unflatten,
)
from kits.errors import raises

TASKS: tuple[TaskName, ...] = ("interest", "next-item", "review", "conversion")
CLIP, SCALE = 8.0, 2**12
SHAPES = some.dictionaries(
    some.sampled_from(["head.bias", "head.weight", "a", "z.b"]),
    some.lists(some.integers(1, 4), min_size=1, max_size=3).map(tuple),
    min_size=1,
)
SEEDS = some.integers(0, 2**30)


def draws(seed: int) -> Draws:
    return Draws(
        rounding=keystream(repeatable_key(seed, 0)), noise=keystream(repeatable_key(seed, 1))
    )


def manifest_of(
    shapes: dict[str, tuple[int, ...]], task: TaskName, *, variance: float = 0.0, only: int = 0
) -> Manifest:
    headroom = math.ceil(10 * math.sqrt(variance))

    def section(name: str, length: int, clip: float) -> SectionTerms:
        return SectionTerms(
            name=name,
            length=length,
            clip=clip,
            scale=SCALE,
            headroom=headroom,
            noise_variance=variance,
        )

    parameters = sum(math.prod(shape) for shape in shapes.values())
    sections = [section(UPDATE, parameters, CLIP), section(STATISTICS, 2, 200.0)]
    return Manifest(
        federation="f",
        stores=tuple(f"store-{number}" for number in range(5)),
        sections=(*sections, *([section(NOISE_ONLY, only, CLIP)] if only else [])),
        evaluation=(section(EVALUATION, len(evaluation_names(task)), 200.0),),
        evaluate_every=1,
        model_digest="00" * 32,
        arrays=shapes,
        rounds=1,
        privacy=PrivacyTerms(mode="none"),
    )


def update_of(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Arrays whose values together are within the clip."""
    generator = np.random.default_rng(seed)
    arrays = {name: generator.normal(size=shape) for name, shape in shapes.items()}
    norm = np.linalg.norm(flatten(arrays))
    return {name: array * (CLIP / norm) * 0.99 for name, array in arrays.items()}


@given(
    shapes=SHAPES,
    seed=SEEDS,
    drawn=some.integers(0, 100),
    losses=some.floats(0, 100),
    only=some.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_a_training_vector_decodes_to_what_was_encoded(shapes, seed, drawn, losses, only):
    manifest, update = manifest_of(shapes, "review", only=only), update_of(shapes, seed)
    trained = Trained(update=update, drawn=drawn, losses=losses, steps=1)
    found = decode_training(
        encode_training(trained, manifest, plan=None, draws=draws(seed)), manifest
    )
    for name, array in unflatten(found.update, update).items():
        np.testing.assert_allclose(array, update[name], rtol=0, atol=1 / SCALE)
    assert list(found.statistics) == list(STATISTICS_NAMES)
    assert list(found.statistics.values()) == pytest.approx([drawn, losses], abs=1 / SCALE)
    if only:
        assert found.noise_only.shape == (only,) and not found.noise_only.any()
    else:
        assert found.noise_only is None


@given(task=some.sampled_from(TASKS), seed=SEEDS, customers=some.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_an_evaluation_vector_decodes_to_what_was_encoded(task, seed, customers):
    manifest = manifest_of({"w": (3,)}, task)
    generator = np.random.default_rng(seed)
    sums = {name: customers * generator.random() for name in evaluation_names(task)}
    vector = encode_evaluation(sums, manifest, plan=None, draws=draws(seed))
    found = decode_evaluation(vector, manifest, task)
    assert list(found) == list(sums)
    assert list(found.values()) == pytest.approx(list(sums.values()), abs=1 / SCALE)


@given(shapes=SHAPES, seeds=some.lists(SEEDS, min_size=2, max_size=5, unique=True))
@settings(max_examples=30, deadline=None)
def test_a_sum_of_vectors_decodes_to_the_sum_of_what_was_encoded(shapes, seeds):
    manifest = manifest_of(shapes, "review")
    stores = [
        Trained(update=update_of(shapes, s), drawn=s % 40, losses=s % 7, steps=1) for s in seeds
    ]
    total = sum(
        encode_training(one, manifest, plan=None, draws=draws(s))
        for one, s in zip(stores, seeds, strict=True)
    )
    found = decode_training(total, manifest)
    expected = np.sum([flatten(one.update) for one in stores], axis=0)
    np.testing.assert_allclose(found.update, expected, rtol=0, atol=len(seeds) / SCALE)
    assert found.statistics["customers"] == pytest.approx(sum(one.drawn for one in stores))


@given(shapes=SHAPES, seed=SEEDS, only=some.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_what_is_added_to_a_noised_vector_is_the_skellam_noise_and_nothing_else(shapes, seed, only):
    variance = 50.0
    plain = manifest_of(shapes, "review", only=only)
    noised = manifest_of(shapes, "review", variance=variance, only=only)
    trained = Trained(update=update_of(shapes, seed), drawn=3, losses=1.5, steps=1)
    bare, found = (
        encode_training(trained, terms, plan=None, draws=draws(seed)) for terms in (plain, noised)
    )
    stream = draws(seed).noise
    noise = [skellam_noise(stream, variance, part.length) for part in noised.sections]
    np.testing.assert_array_equal(found - bare, np.concatenate(noise))
    np.testing.assert_array_equal(decode_training(found, noised).noise_only, noise[-1])


def test_an_update_of_another_model_is_refused():
    with raises("wrong-header"):
        unflatten(np.zeros(5), {"w": np.zeros((2, 2))})
