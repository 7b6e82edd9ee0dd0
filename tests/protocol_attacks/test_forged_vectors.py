"""A forged vector moves the model no further than an honest store with the largest clip.

Masks hide it, so that it can only be cut: the sum to the public norm, whatever is in it. What
lies beyond the reach of honest stores is a lost round.
"""

from __future__ import annotations

import numpy as np
import pytest

from hanse_common.manifest_noise import sum_norm
from hanse_common.vector import flatten
from hanse_server.rounds import run_rounds
from kits.forgery import forge, random_words, trained

CULPRIT = "synthetic-03"
MODES = {
    "local": {},
    "distributed": {"privacy.mode": "distributed", "training.local_steps": 1},
    "none": {
        "privacy.mode": "none",
        "privacy.noise_multiplier": None,
        "federation.secure_aggregation": True,
    },
}


def moved(federation, forged):
    """How one round moves the model if one store's vector is forged; in units of the update."""
    forge(federation, {CULPRIT}, forged)
    grid = federation.grid(stage_seconds=0.02)
    arrays = run_rounds(grid, federation.folder.path, federation.settings)
    settings = federation.settings
    step = abs(settings.update_factor(1)) / 5
    return (flatten(arrays) - flatten(federation.arrays)) / step


def update(federation):
    return federation.manifest().sections[0]


def beside(vector, values, section):
    """The vector with other values in the place of its update."""
    forged = vector.copy()
    forged[: section.length] = np.rint(values * section.scale)
    return forged


def towards_one_class(federation, norm):
    """All of the norm on one parameter: the shift of one class's popularity."""
    section = update(federation)
    values = np.zeros(section.length)
    values[20] = -norm
    return lambda vector: beside(vector, values, section)


def just_within_reach(federation):
    """As long as all honest stores together could make the sum, in any direction."""
    section = update(federation)
    direction = np.random.default_rng(3).normal(size=section.length)
    values = direction / np.linalg.norm(direction) * 0.95 * 5 * section.clip
    return lambda vector: beside(vector, values, section)


def honest_at_the_largest_clip(federation):
    """The store's own vector, as long as its clip lets it be."""
    section = update(federation)

    def scaled(vector):
        values = vector[: section.length] / section.scale
        return beside(vector, values / np.linalg.norm(values) * section.clip, section)

    return scaled


@pytest.fixture(params=MODES)
def federation(request, found_federation):
    return found_federation({**MODES[request.param], "federation.rounds": 1})


def test_random_words_move_nothing(federation):
    assert not moved(federation, random_words).any()
    assert [line["outcome"] for line in trained(federation)] == ["forged-vector"]


def test_a_vector_within_the_reach_of_all_stores_moves_as_much_as_one_at_its_clip(federation):
    found = moved(federation, just_within_reach(federation))
    assert [line["outcome"] for line in trained(federation)] == ["summed"]
    assert trained(federation)[0]["cut"] < 1
    assert np.linalg.norm(found) <= sum_norm(federation.manifest()) * (1 + 1e-4)


def test_the_largest_vector_towards_one_class_moves_it_as_one_store_at_its_clip_can(federation):
    section = update(federation)
    found = moved(federation, towards_one_class(federation, 0.95 * 5 * section.clip))
    assert np.abs(found).max() <= sum_norm(federation.manifest()) * (1 + 1e-4)
    # Before there was a norm, it would have been moved by all of it.
    assert np.abs(found).max() < 0.5 * 0.95 * 5 * section.clip


def test_an_honest_store_at_its_clip_is_not_cut_beyond_what_the_others_add(federation):
    """The public norm leaves room for one store at the largest clip, and for all the noise."""
    found = moved(federation, honest_at_the_largest_clip(federation))
    clip, longest = update(federation).clip, sum_norm(federation.manifest())
    assert clip <= longest
    assert 0.5 * clip <= np.linalg.norm(found) <= longest * (1 + 1e-4)


def test_the_public_norm_is_one_clip_and_the_noise_of_all_stores(found_federation):
    for mode, changes in MODES.items():
        manifest = found_federation(changes, name=mode).manifest()
        section = manifest.sections[0]
        noise = 5 * section.noise_variance * section.length / section.scale**2
        assert sum_norm(manifest) == pytest.approx(max(section.clip, np.sqrt(noise)))
        assert (noise > 0) == (mode == "distributed")
