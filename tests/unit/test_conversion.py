"""Offers: nothing of a campaign's own time in what was known before it, and trained by the same
rounds."""

import json
from datetime import date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
import torch

from hanse_client.clipping.per_customer import check_exactness
from hanse_client.node import Node
from hanse_client.tasks import task_of
from hanse_client.tasks.conversion.features import (
    NAMES,
    USUAL_RATE,
    Mailings,
    check_mailings,
    prepare_offers,
)
from hanse_client.tasks.conversion.metrics import Conversions
from hanse_client.tasks.conversion.model import ConversionModel
from hanse_client.tasks.conversion.offers import Offers
from hanse_client.training.train import check_size, train_alone, train_round, trained_arrays
from hanse_common.config import RunSettings
from hanse_common.recipes import conversion
from hanse_common.vector import evaluation_names, flatten
from hanse_simulations.evaluation.conversion_baselines import judge_baselines
from hanse_simulations.experiment.conversion import study_of
from hanse_simulations.experiment.study import arms_of
from kits.errors import raises

TASK = task_of("conversion")
BEGIN = date(2017, 1, 1)
CLIP = 0.05


def day(number):
    return BEGIN + timedelta(days=number)


def purchases(rows):
    """Rows of (user, item, day number, spent); a basket each."""
    kinds = {
        "milk": "DAIRY/MILK",
        "cream": "DAIRY/MILK",
        "soap": "HOME/SOAP",
        "candle": "HOME/SOAP",
    }
    return pl.DataFrame(
        {
            "user_id": [row[0] for row in rows],
            "item_id": [row[1] for row in rows],
            "category": [kinds[row[1]] for row in rows],
            "timestamp": [datetime.combine(day(row[2]), datetime.min.time()) for row in rows],
            "basket_id": [str(number) for number in range(len(rows))],
            "spent": [float(row[3]) for row in rows],
        }
    )


def mailings(campaigns, sent, redemptions):
    """Rows of (id, kind, start, end), (id, user) and (id, user, day); coupons are for
    milk and for candles, which come under soap."""
    return Mailings(
        campaigns=pl.DataFrame(
            [(number, kind, day(start), day(end)) for number, kind, start, end in campaigns],
            schema={"campaign_id": pl.Int64, "kind": pl.String, "start": pl.Date, "end": pl.Date},
            orient="row",
        ),
        coupons=pl.DataFrame(
            [
                (row[0], f"coupon {row[0]}", *good)
                for row in campaigns
                for good in (("milk", "DAIRY/MILK"), ("candle", "HOME/SOAP"))
            ],
            schema={
                "campaign_id": pl.Int64,
                **dict.fromkeys(("coupon_id", "item_id", "category"), pl.String),
            },
            orient="row",
        ),
        sent=pl.DataFrame(
            sent, schema={"campaign_id": pl.Int64, "user_id": pl.String}, orient="row"
        ),
        redemptions=pl.DataFrame(
            [(number, user, f"coupon {number}", day(when)) for number, user, when in redemptions],
            schema={
                "campaign_id": pl.Int64,
                "user_id": pl.String,
                "coupon_id": pl.String,
                "day": pl.Date,
            },
            orient="row",
        ),
    )


CAMPAIGNS = [(1, "A", 100, 120), (2, "B", 150, 160), (3, "A", 200, 220)]
SENT = [(number, user) for number in (1, 2, 3) for user in ("ann", "bob")]
REDEEMED = [(1, "ann", 105), (1, "ann", 106), (2, "bob", 160), (3, "ann", 201)]
BOUGHT = [
    ("ann", "milk", 90, 4),
    ("ann", "soap", 95, 6),
    ("ann", "cream", 149, 5),
    ("bob", "soap", 20, 3),
    ("bob", "milk", 199, 2),
]


def prepared(bought=BOUGHT, campaigns=CAMPAIGNS, sent=SENT, redeemed=REDEEMED):
    usable, _ = check_mailings(mailings(campaigns, sent, redeemed), observed_from=BEGIN)
    return prepare_offers(purchases(bought), usable)


def feature(offers, user, campaign, name):
    owner = int(np.flatnonzero(offers.customers == user)[0])
    row = np.flatnonzero((offers.owners == owner) & (offers.campaigns == campaign))
    return float(offers.features[int(row[0]), NAMES.index(name)])


def many(count=30, seed=1):
    """Customers of whom those who shop much redeem mostly."""
    rng = np.random.default_rng(seed)
    users = [f"{number:02d}" for number in range(count)]
    visits = {user: int(rng.integers(1, 12)) for user in users}
    bought = [(user, "milk", 99 - i, 5) for user in users for i in range(visits[user])]
    bought += [(user, "milk", 199 - i, 5) for user in users for i in range(visits[user])]
    redeemed = [
        (number, user, 100 * number + 3)
        for number in (1, 2, 3)
        for user in users
        if rng.random() < (0.9 if visits[user] > 6 else 0.05)
    ]
    campaigns = [(1, "A", 100, 120), (2, "B", 200, 220), (3, "A", 300, 320)]
    sent = [(number, user) for number in (1, 2, 3) for user in users]
    bought += [(user, "milk", 299 - i, 5) for user in users for i in range(visits[user])]
    return prepared(bought, campaigns, sent, redeemed)


@pytest.fixture
def settings():
    table = {
        "recipe": "x",
        "task": "conversion",
        "data": {
            "source": "complete-journey",
            "min_customers": 2,
            "split": {
                "train_until": datetime.combine(day(250), datetime.min.time()),
                "validate_until": datetime.combine(day(299), datetime.min.time()),
                "test_until": datetime.combine(day(350), datetime.min.time()),
            },
        },
        "training": {"sample_rate": 0.5, "non_private_learning_rate": 1.0},
        "privacy": {"mode": "none"},
    }
    return RunSettings.parse(table)


@pytest.fixture
def model():
    return ConversionModel.fresh(NAMES, usual_rate=USUAL_RATE)


@pytest.fixture
def node(tmp_path):
    many().save(tmp_path / "offers.npz")
    table = {"name": "a", "histories": "offers.npz", "base_model": "none", "seed": 3}
    (tmp_path / "node.json").write_text(json.dumps(table))
    return Node(tmp_path)


def private(settings):
    return settings.with_changes(
        {
            "privacy.mode": "distributed",
            "privacy.noise_multiplier": 50.0,
            "privacy.max_grad_norm": CLIP,
            "training.sample_rate": 1.0,
        }
    )


# What was known


def test_a_redemption_on_a_day_of_the_campaign_is_a_conversion_its_last_day_too():
    offers = prepared()
    assert list(offers.customers) == ["ann", "bob"]
    assert offers.campaigns.tolist() == [1, 2, 3, 1, 2, 3]
    assert offers.redeemed.tolist() == [True, False, True, False, True, False]
    assert (offers.ends - offers.starts).tolist() == [20, 10, 20] * 2


def test_features_count_what_was_before_the_campaign():
    offers = prepared()
    assert feature(offers, "ann", 1, "prior") == 0  # nothing known: the usual rate
    rate = (1 + 4 * USUAL_RATE) / (2 + 4)  # one of two campaigns by the third one's start
    usual = np.log(USUAL_RATE / (1 - USUAL_RATE))
    for user in ("ann", "bob"):
        known = feature(offers, user, 3, "prior")
        assert known == pytest.approx(np.log(rate / (1 - rate)) - usual, rel=1e-5)
    assert feature(offers, "ann", 2, "coupons_redeemed") == pytest.approx(np.log(3) / 2)
    assert feature(offers, "ann", 1, "coupon_share") == pytest.approx(0.4 - 0.5)
    assert feature(offers, "ann", 1, "visits_28") == pytest.approx(np.log(3) / 3 - 0.5)
    # Soap and cream are of a coupon's category, and no goods of it.
    assert feature(offers, "ann", 1, "category_visits_28") == pytest.approx(np.log(3) / 3 - 0.5)
    assert feature(offers, "ann", 2, "coupon_visits_28") == -0.5
    assert feature(offers, "ann", 2, "category_visits_28") == pytest.approx(np.log(2) / 3 - 0.5)
    assert feature(offers, "bob", 1, "visits_28") == -0.5
    assert feature(offers, "bob", 1, "visits_84") == pytest.approx(np.log(2) / 4 - 0.5)


@pytest.mark.parametrize("start", [100, 150, 200])
def test_nothing_from_a_campaigns_first_day_on_changes_its_features(start):
    plain = prepared()
    later = [(user, "milk", when, 99) for user in ("ann", "bob") for when in (start, start + 1)]
    kept = [row for row in BOUGHT if row[2] < start]
    none = [row for row in REDEEMED if row[2] < start]
    more = [*none, *((c[0], u, c[2]) for c in CAMPAIGNS if c[2] >= start for u in ("ann", "bob"))]
    longer = [(n, k, s, e if s < start else e + 30) for n, k, s, e in CAMPAIGNS]
    judged = (plain.starts + 1 > (day(start) - date(1970, 1, 1)).days) & (
        plain.starts <= (day(start) - date(1970, 1, 1)).days
    )
    assert judged.sum() == 2
    length = NAMES.index("length")
    for other in (
        prepared(bought=kept),
        prepared(bought=[*BOUGHT, *later]),
        prepared(redeemed=none),
        prepared(redeemed=more),
        prepared(campaigns=longer),
    ):
        found, expected = other.features[judged].copy(), plain.features[judged].copy()
        found[:, length] = expected[:, length] = 0  # the announced length is known
        np.testing.assert_array_equal(found, expected)


def test_another_customer_changes_no_feature():
    both = prepared()
    alone = prepared(
        [row for row in BOUGHT if row[0] == "ann"],
        sent=[row for row in SENT if row[1] == "ann"],
        redeemed=[row for row in REDEEMED if row[1] == "ann"],
    )
    np.testing.assert_array_equal(alone.features, both.features[:3])
    more = prepared([*BOUGHT, ("bob", "candle", 30, 3), ("bob", "candle", 240, 3)])
    np.testing.assert_array_equal(more.features[:3], both.features[:3])


def test_a_customer_who_never_shopped_has_features_too():
    offers = prepared(bought=BOUGHT[:3])
    assert np.isfinite(offers.features).all()
    assert feature(offers, "bob", 1, "visits_84") == -0.5


def test_rows_that_cannot_be_used_are_left_out_and_counted():
    campaigns = [*CAMPAIGNS, (3, "A", 10, 20), (4, "B", 90, 80), (5, "Z", 90, 99), (6, "C", -9, 9)]
    sent = [*SENT, (4, "ann"), (9, "ann"), (6, "bob"), (1, "ann")]
    redeemed = [*REDEEMED, (9, "ann", 100), (1, "ann", 121), (1, "cid", 105), (6, "bob", 3)]
    usable, left_out = check_mailings(mailings(campaigns, sent, redeemed), observed_from=BEGIN)
    assert left_out == {
        "campaigns listed twice": 1,
        "campaigns that end before they start": 1,
        "campaigns of no kind of A, B, C": 1,
        "campaigns from before the records begin": 1,
        "mailings of unknown campaigns": 2,
        "redemptions of unknown campaigns": 1,
        "redemptions outside the campaign's days": 1,
        "redemptions by customers whom nothing was sent": 1,
        "coupons of unknown campaigns": 4,
    }
    found = prepare_offers(purchases(BOUGHT), usable)
    np.testing.assert_array_equal(found.features, prepared().features)
    np.testing.assert_array_equal(found.redeemed, prepared().redeemed)


def test_a_store_without_any_mailing_is_empty(settings):
    offers = prepared(sent=[], redeemed=[])
    assert len(offers) == 0 and offers.features.shape == (0, len(NAMES))
    with raises("empty-store"):
        check_size("x", offers, settings)


# Offers


def test_what_is_saved_is_read_again_and_homes_are_not_known(tmp_path):
    offers = many()
    offers.save(tmp_path / "o.npz")
    np.testing.assert_array_equal(Offers.load(tmp_path / "o.npz").features, offers.features)
    with raises("config"):
        offers.at_home(0, 2)
    np.savez(tmp_path / "x.npz", visit_days=np.zeros(1))
    with raises("data"):
        Offers.load(tmp_path / "x.npz")


def test_stores_in_one_place_keep_everybodys_offers():
    first = prepared()
    second = many(5)
    pooled = Offers.pooled([first, second])
    assert list(pooled.customers) == sorted([*first.customers, *second.customers])
    for store in (first, second):
        for number, name in enumerate(store.customers):
            place = int(np.flatnonzero(pooled.customers == name)[0])
            np.testing.assert_array_equal(
                pooled.features[pooled.owners == place], store.features[store.owners == number]
            )
            np.testing.assert_array_equal(
                pooled.redeemed[pooled.owners == place], store.redeemed[store.owners == number]
            )


def test_campaigns_that_were_not_over_change_no_training_batch(model, settings):
    for until, expected in ((221, 2), (220, 1)):  # its last day is day 220
        moved = settings.with_changes(
            {"data.split.train_until": datetime.combine(day(until), datetime.min.time())}
        )
        known = TASK.training_data(many(), moved)
        draw = TASK.draw(known, known.active(), model, moved, np.random.default_rng(0))
        assert TASK.collate(known, draw, model).mask.sum(1).tolist() == [expected] * 30


# The model and its rounds


def test_an_untrained_model_says_the_prior_rate(model, settings, tmp_path):
    model.save_pretrained(tmp_path / "m")
    found = TASK.evaluate(many(), TASK.load_model(tmp_path / "m"), settings, "test")
    prior = many().features[many().campaigns == 3, 0]
    usual = np.log(USUAL_RATE / (1 - USUAL_RATE))
    assert found.chances == pytest.approx(1 / (1 + np.exp(-usual - prior)), rel=1e-4)


def test_clipped_sums_equal_one_by_one_gradients(model, settings):
    settings = private(settings)
    model.double()
    known = TASK.training_data(many(), settings)
    cut = TASK.collate(known, TASK.draw(known, known.active()[:5], model, settings, None), model)
    cut.mask[1, 1] = 0  # somebody with fewer offers
    batch = type(cut)(features=cut.features.double(), redeemed=cut.redeemed, mask=cut.mask)
    worst = check_exactness(model, batch, losses=lambda some: TASK.losses(model, some, settings))
    assert worst < 1e-4


def test_how_far_a_batch_is_padded_changes_no_loss(model, settings):
    torch.nn.init.normal_(model.head.weight)
    known = TASK.training_data(many(), settings)
    batch = TASK.collate(known, TASK.draw(known, known.active(), model, settings, None), model)
    wide = type(batch)(
        features=torch.cat([batch.features, torch.zeros_like(batch.features)], 1),
        redeemed=torch.cat([batch.redeemed, torch.zeros_like(batch.redeemed)], 1),
        mask=torch.cat([batch.mask, torch.zeros_like(batch.mask)], 1),
    )
    torch.testing.assert_close(
        TASK.losses(model, batch, settings), TASK.losses(model, wide, settings)
    )


def test_a_customer_moves_the_sum_of_a_round_by_at_most_the_clip(node, model, settings):
    settings = private(settings)
    TASK.freeze(model, settings)
    arrays = trained_arrays(model)
    whole = many()
    without = whole.only(whole.owners != 4)
    sums, drawn = [], []
    for offers in (whole, without):
        offers.save(node.folder / "offers.npz")
        trained = train_round(Node(node.folder), model, settings, arrays, 1)
        sums.append(flatten(trained.update))
        drawn.append(trained.drawn)
    assert drawn == [30, 29]
    assert 0 < np.linalg.norm(sums[0] - sums[1]) <= CLIP * (1 + 1e-4)


def test_a_store_learns_who_redeems(node, model, settings):
    settings = settings.with_changes({"federation.rounds": 60, "training.local_steps": 2})
    data = node.prepared(Offers)
    before = TASK.evaluate(data, model, settings, "test").metrics()
    train_alone(node, model, settings)
    after = TASK.evaluate(data, model, settings, "test").metrics()
    assert after["auc"] > 0.8 and after["ece"] < before["ece"]


# Figures


def test_figures_of_a_small_table_are_those_worked_out_by_hand():
    found = Conversions(
        chances=np.array([0.1, 0.4, 0.35, 0.8], np.float32),
        redeemed=np.array([False, False, True, True]),
        campaigns=np.array([1, 2, 1, 2]),
        customers=np.array([0, 0, 1, 2]),
    )
    metrics = found.metrics()
    assert metrics["auc"] == 0.75 and metrics["auc_within"] == 1.0
    assert metrics["mean_predicted"] == pytest.approx(0.4125) and metrics["observed"] == 0.5
    sums = found.sums()
    assert tuple(sums) == evaluation_names("conversion")
    assert sums["brier"] == pytest.approx((0.01 + 0.16) / 2 + 0.65**2 + 0.04, rel=1e-5)
    assert found.sums(np.array([2])) == pytest.approx({"customers": 1.0, "brier": 0.04}, rel=1e-5)
    none = Conversions.pooled([found]).__class__(
        chances=found.chances[:0],
        redeemed=found.redeemed[:0],
        campaigns=found.campaigns[:0],
        customers=found.customers[:0],
    )
    assert np.isnan(list(none.metrics().values())).all() and none.sums()["customers"] == 0


def test_baselines_are_judged_on_the_same_offers(settings):
    found = judge_baselines([many(seed=1), many(seed=2)], settings)
    assert set(found) == {"prior_rate", "stores_alone", "logistic_regression", "boosted_trees"}
    assert len({one["observed"] for one in found.values()}) == 1
    assert found["logistic_regression"]["auc"] > 0.8


def test_arms_keep_the_split_and_one_has_all_customers_in_one_place():
    study = study_of({"a": many(3, seed=1)})
    arms = {arm.name: arm.settings(conversion()) for arm in arms_of(conversion(), study)}
    assert list(arms) == [
        "federated_private", "federated_private_half", "federated", "centralized",
    ]  # fmt: skip
    assert arms["federated_private_half"].privacy.target_epsilon == 4.0
    assert len({arm.data.split for arm in arms.values()}) == 1
    assert list(study.stores(arms["centralized"])) == ["all"]
    assert list(study.stores(arms["federated"])) == ["a"]
    compared = conversion().with_changes({"sweep": {}})
    assert "alone" not in {arm.name for arm in arms_of(compared, study)}
    two = study_of({"a": many(3, seed=1), "b": many(4, seed=2)})
    alone = {arm.name: arm.settings(compared) for arm in arms_of(compared, two)}["alone"]
    assert list(two.stores(alone)) == ["a", "b"]
    assert (alone.privacy.mode, alone.training.sample_rate) == ("none", 1.0)
