"""A forged vector in a round of statistics: what cannot be the planned customers' is not used.

A sum of statistics is released once, and models may take ratios of it, so that cutting a forged
one would not help. The stores are the production ClientApp; what one of them sends is forged at
the last moment.
"""

from __future__ import annotations

import numpy as np
import pytest

from hanse_common.manifest_noise import planned_customers, statistics_norm
from hanse_common.phases import RELEASED
from hanse_common.secagg.reach import largest_norm
from hanse_server.rounds import run_rounds
from kits.apps.counting_task import PHASE
from kits.forgery import blamed, forge, lost, random_words, trained

ARRAY = RELEASED + PHASE
CULPRIT, OTHER = "synthetic-03", "synthetic-05"
FEW = {"federation.minimum_cohort": 3, "federation.minimum_survivors": 3}
"""Two of the five may be absent from a sum."""


def run(federation):
    grid = federation.grid(stage_seconds=0.02)
    return run_rounds(grid, federation.folder.path, federation.settings, timeout=0.02)


def section(federation):
    return federation.manifest().terms(PHASE).layout.sections[0]


def most(federation):
    return statistics_norm(federation.manifest(), federation.settings, PHASE)


def one_cell(federation, norm):
    """A store's own vector with so many customers more in one class."""
    step = round(norm * section(federation).scale)

    def forged(vector):
        if vector.size != federation.manifest().terms(PHASE).layout.length:
            return vector  # of a round of gradients
        found = vector.copy()
        found[7] += step
        return found

    return forged


@pytest.mark.parametrize("mode", ["distributed", "local", "none"])
def test_more_than_all_planned_customers_can_add_is_not_used(mode, counting):
    federation = counting(mode)
    # Every store's clip admits it: the sum is within five of them.
    forge(federation, {CULPRIT}, one_cell(federation, 1.2 * most(federation)))
    arrays = run(federation)
    first, *rest = trained(federation)
    assert first["outcome"] == "forged-vector"
    assert "planned with 80 customers (the model is unchanged; if " in first["note"]
    assert "raise max_norm of the phase); " in first["note"]
    assert not arrays[ARRAY].any(), "the model keeps its public prior"
    assert [line["outcome"] for line in rest] == ["summed"] * 2


@pytest.mark.parametrize("mode", ["distributed", "local", "none"])
def test_what_is_used_is_no_longer_than_the_planned_customers_and_the_noise(mode, counting):
    federation = counting(mode)
    forge(federation, {CULPRIT}, one_cell(federation, 0.6 * most(federation)))
    array = run(federation)[ARRAY]
    assert trained(federation)[0]["outcome"] == "summed"
    part = section(federation)
    bound = largest_norm(part, 5, most=most(federation)) / part.scale
    assert 0.3 * most(federation) < np.linalg.norm(array[:-1]) <= bound


def test_random_words_in_a_round_of_statistics_cost_that_round_alone(counting):
    federation = counting()
    forge(federation, {CULPRIT}, random_words, when=lambda: federation.charged(CULPRIT) < 1)
    arrays = run(federation)
    assert lost(federation) == [1]
    assert not arrays[ARRAY].any()


def test_honest_sums_of_twice_the_planned_customers_are_used(counting):
    """The plan counts with 80 customers; the stores have 120."""
    federation = counting("none")
    assert 5 * planned_customers(federation.settings) == 80
    array = run(federation)[ARRAY]
    assert trained(federation)[0]["outcome"] == "summed" and array.any()


def test_a_larger_max_norm_admits_a_federation_that_outgrew_its_plan(counting):
    phases = [
        {"name": PHASE, "release": "statistics", "share": 0.5, "max_norm": 4096.0},
        {"share": 0.5},
    ]
    federation = counting("none", phases=phases)
    assert most(federation) == 4096.0
    small = counting("none", name="small")
    assert most(small) == 160.0


@pytest.mark.parametrize("norm", [None, 10.0], ids=["random words", "ten times the bound"])
def test_forty_rounds_with_statistics_and_one_hostile_store_lose_three_at_most(norm, counting):
    """It forges in every round, and is found although the statistics are released once only."""
    federation = counting(**FEW, **{"federation.rounds": 40, "privacy.target_epsilon": 60.0})
    forged = random_words
    if norm is not None:

        def forged(vector):
            found = vector.copy()
            sections = (part.clip * part.scale for part in (section(federation), gradient))
            found[7] += round(norm * 5 * max(sections))
            return found

        gradient = federation.manifest().terms("train").layout.sections[0]
    forge(federation, {CULPRIT}, forged)
    run(federation)
    assert len(lost(federation)) <= 3
    assert set(blamed(federation)) == {CULPRIT}
    assert blamed(federation)[CULPRIT] in ("singled out", "excluded")
    masked = len([line for line in trained(federation) if CULPRIT not in line["refusals"]])
    assert federation.charged(CULPRIT) == masked


def test_a_store_that_is_left_out_is_left_out_of_statistics_too(counting):
    federation = counting(**FEW)
    forge(federation, {CULPRIT})
    grid = federation.grid(stage_seconds=0.02)
    grid._blame.exclude({CULPRIT: "wrong-share"}, number=0)
    arrays = run_rounds(grid, federation.folder.path, federation.settings, timeout=0.02)
    assert lost(federation) == [] and arrays[ARRAY].any()


def test_a_second_sum_is_not_asked_for_when_the_first_was_forged(counting):
    """One more would cost as much as the first: the store refuses it under any run number."""
    federation = counting()
    forge(federation, {CULPRIT})
    run(federation)
    for number in (5, 6):
        reply = federation.tell(OTHER, run=number)
        assert reply.error.reason.startswith("[budget-spent] ")
    kinds = [entry.release.kind for entry in federation.node(OTHER).ledger if entry.spends]
    assert kinds.count(PHASE) == 1


def test_noise_that_is_missing_from_statistics_is_measured_there(counting):
    federation = counting()
    forge(
        federation,
        {CULPRIT, OTHER, "synthetic-01"},
        np.zeros_like,
        when=lambda: federation.charged(CULPRIT) <= 1,
    )
    arrays = run(federation)
    assert trained(federation)[0]["outcome"] == "round-noise-missing"
    assert not arrays[ARRAY].any()
