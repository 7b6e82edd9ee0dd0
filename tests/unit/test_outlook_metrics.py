"""Precision, recall, calibration and the map of interests, against hand-made cases."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from hanse_client.tasks.interest import InterestModel
from hanse_client.tasks.interest.metrics import FALL, RISE, STAY
from hanse_simulations.evaluation.interest_map import interest_map
from hanse_simulations.evaluation.outlook_metrics import (
    best_threshold,
    calibration,
    outlook_metrics,
)
from hanse_simulations.report.interest_map import interest_plane
from hanse_simulations.report.outlook_metrics import outlook_curves, outlook_lines
from hanse_simulations.runs.results import RunResult
from kits.metrics import figures


def stated(chances, outcomes):
    """Figures of a forecaster that states these chances of a rise and of a fall."""
    logarithms = np.log(chances).astype(np.float32)
    base = figures(np.arange(len(outcomes) // 3), ndcg=0.5)
    changed = {"rise_scores": logarithms, "fall_scores": logarithms, "outcomes": outcomes}
    return type(base)(**{n: changed.get(n, getattr(base, n)) for n in base.__dataclass_fields__})


def test_the_threshold_is_the_one_with_the_best_f1():
    rng = np.random.default_rng(1)
    chances = rng.random(200)
    happened = rng.random(200) < chances
    found = best_threshold(chances, happened)
    best = max(f1_score(happened, chances >= value) for value in chances)
    assert f1_score(happened, chances >= found) == pytest.approx(best)


def test_calibrated_chances_have_a_small_error_and_doubled_ones_a_large():
    rng = np.random.default_rng(2)
    chances = rng.uniform(0.05, 0.45, 20_000)
    happened = rng.random(20_000) < chances
    assert calibration(chances, happened)[1] < 0.02
    assert calibration(2 * chances, happened)[1] == pytest.approx(0.25, abs=0.02)


def test_a_threshold_is_chosen_in_the_validation_weeks_only():
    rng = np.random.default_rng(3)
    chances = rng.uniform(0.05, 0.95, 600)
    outcomes = np.where(rng.random(600) < chances, RISE, STAY).astype(np.int8)
    test = stated(chances, outcomes)
    (one,), curves = outlook_metrics(stated(chances / 2, outcomes), test)
    assert one.side == "rise"  # nothing ever fell
    assert one.threshold == pytest.approx(best_threshold(chances / 2, outcomes == RISE), rel=1e-5)
    assert one.threshold < 0.5 * best_threshold(chances, outcomes == RISE) + 0.01
    assert one.roc_auc == pytest.approx(test.metrics()["rise_auc"])
    assert (curves[0].roc.x[0], curves[0].roc.y[-1]) == (0.0, 1.0)
    assert len(curves[0].roc.x) <= 82


def test_too_few_cases_give_no_instruments():
    outcomes = np.array([FALL, STAY, RISE] * 4, dtype=np.int8)
    chances = np.full(12, 0.5)
    assert outlook_metrics(stated(chances, outcomes), stated(chances, outcomes)) == ([], [])


def test_a_map_has_a_point_a_customer_and_no_names(small_stores):
    _, prepared = small_stores
    stores = prepared.load()
    model = InterestModel.from_pretrained(prepared.base_model)
    moment = float(max(store.visit_days.max() for store in stores)) - 30
    found = interest_map(stores, model, moment=moment, seed=1)
    assert found == interest_map(stores, model, moment=moment, seed=1)
    count = sum(len(store.until(moment).active()) for store in stores)
    assert len(found.pca) == len(found.tsne) == len(found.departments) == found.customers == count
    plot = interest_plane(found)
    assert "t-SNE" in plot.svg
    names = [str(name) for store in stores for name in store.customers]
    assert not any(name in plot.svg + found.model_dump_json() for name in names)
    assert interest_plane(None) is None
    assert interest_map(stores, model, moment=0.0, seed=1) is None


def test_the_page_shows_figures_and_curves():
    rng = np.random.default_rng(4)
    chances = rng.uniform(0.05, 0.95, 600)
    outcomes = np.where(rng.random(600) < chances, RISE, STAY).astype(np.int8)
    quality, curves = outlook_metrics(stated(chances, outcomes), stated(chances, outcomes))
    result = RunResult(recipe="x", run="x", outlook_metrics=quality)
    (line,) = outlook_lines(result)
    assert line.side == "Rise (600 interests)"
    assert "Calibration" in outlook_curves(curves, result).svg
    assert outlook_curves([], result) is None
