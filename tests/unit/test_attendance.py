"""How many stores a round needs by default, and what is said of it after signing."""

from __future__ import annotations

import pytest

from hanse_common.manifest_terms import planned_manifest
from hanse_common.privacy.plan import solved
from hanse_common.recipes import synthetic
from hanse_server.deployment.attendance import attendance


def terms(stores: int, mode: str, **changes):
    settings = synthetic().with_changes({"privacy.mode": mode, "federation.rounds": 4, **changes})
    return planned_manifest(solved(settings), 100, stores)


@pytest.mark.parametrize(
    ("stores", "start", "end"), [(5, 5, 4), (6, 5, 5), (11, 9, 9), (12, 10, 10), (40, 36, 36)]
)
def test_one_store_in_ten_may_be_away_by_default(stores, start, end):
    found = attendance(terms(stores, "distributed"))
    assert (found.at_start, found.at_end) == (start, end)
    assert found.noise() == pytest.approx((stores / (end - 1)) ** 0.5)


def test_the_sentences_offer_other_choices_within_the_protocol(stores=12):
    lines = attendance(terms(stores, "distributed")).lines()
    assert lines[0].startswith("10 of 12 stores must be there when a round begins (2 may be away)")
    assert "1.15 times the noise" in lines[1]
    assert "11 stay: 1.10, 9 stay: 1.22, 8 stay: 1.31" in lines[2]


def test_where_every_store_adds_its_own_noise_attendance_costs_none():
    found = attendance(terms(12, "local"))
    assert found.noise() == 1.0
    assert len(found.lines()) == 1
