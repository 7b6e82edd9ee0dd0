"""Windows of four weeks, one after the other, with and without new rounds."""

import pytest

from hanse_common.recipes import synthetic
from hanse_simulations.bench import folds, rolling


@pytest.fixture
def small(store_cache, monkeypatch):
    monkeypatch.setenv("HANSE_CACHE", str(store_cache))
    return synthetic().with_changes(
        {
            "data.stores": 3,
            "data.customers": 24,
            "federation.rounds": 2,
            "compute.workers": 1,
            "compare": False,
        }
    )


@pytest.mark.slow
def test_what_goes_on_pays_for_its_rounds_and_what_stops_does_not(small):
    rows = rolling.rolling(small, windows=2, new_rounds=1, anew=True)
    found = {(row.window, row.model): row for row in rows}
    first, second = dict.fromkeys(row.window for row in rows)
    assert first < second
    once, later = found[first, "continued"], found[second, "continued"]
    assert (once.rounds, later.rounds) == (2, 3)
    assert later.epsilon > once.epsilon
    assert found[second, "once"].epsilon == once.epsilon == found[second, "anew"].epsilon
    assert found[first, "once"].figures == pytest.approx(once.figures)
    assert found[second, "untrained"].epsilon is None
    table = rolling.render(rows)
    assert table.row_count == 2 * 4 + 4


@pytest.mark.slow
def test_cross_validation_judges_every_customer_once(small):
    rows = folds.folds(small, count=2)
    left = [row for row in rows if row.who == "held out"]
    kept = [row for row in rows if row.who == "trained on"]
    judged = sum(row.customers for row in left)
    assert 0.9 * 3 * 24 < judged <= 3 * 24  # some have no visit in the test weeks
    assert sum(row.customers for row in kept) == judged
    assert folds.render(rows).row_count == 3
