"""What one customer can change in what a store releases, measured on the whole client step.

Neighbours are made adversarially: customers with enormous, empty or late histories, models
that were blown up. Lots and anchors are the same on both sides, drawn for each customer from
that customer's name, so that the sums differ by nothing but the customer.
"""

import hashlib
import json
from dataclasses import fields, replace
from functools import partial

import numpy as np
import pytest
import torch

from hanse_client.features.histories import Histories, days
from hanse_client.node import Node
from hanse_client.tasks.interest import InterestModel, task
from hanse_client.tasks.interest.features import Anchors, training_anchors
from hanse_client.training import train
from hanse_client.training.evaluate import evaluate_round
from hanse_client.training.train import train_round, trained_arrays
from hanse_common.manifest_terms import manifest_for
from hanse_common.secagg import quantize
from hanse_common.vector import flatten
from hanse_simulations.experiment.prepare import prepare_stores

CLIP = 0.5


def anchors_by_name(histories, customers, **terms):
    """The real anchors, drawn for one customer at a time from the customer's name."""
    found = []
    for customer in customers:
        seed = hashlib.sha256(str(histories.customers[customer]).encode()).digest()
        rng = np.random.default_rng(list(seed))
        found.append(training_anchors(histories, np.array([customer]), **{**terms, "rng": rng}))
    if not found:
        return training_anchors(histories, customers, **terms)
    parts = {f.name: [getattr(one, f.name) for one in found] for f in fields(Anchors)}
    return Anchors(**{name: np.concatenate(arrays) for name, arrays in parts.items()})


def without(histories, removed):
    """A store's histories as they would be had this customer never come."""
    kept = [i for i in range(len(histories)) if i != removed]
    return chosen(histories, kept)


def chosen(histories, kept):
    visits = np.concatenate(
        [np.arange(*histories.visit_offsets[i : i + 2]) for i in kept] or [np.zeros(0, int)]
    ).astype(int)
    pairs = np.concatenate(
        [np.arange(*histories.pair_offsets[v : v + 2]) for v in visits] or [np.zeros(0, int)]
    ).astype(int)
    counts = np.diff(histories.visit_offsets)[kept]
    sizes = np.diff(histories.pair_offsets)[visits]
    return replace(
        histories,
        customers=histories.customers[kept],
        homes=histories.homes[kept],
        visit_offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        visit_days=histories.visit_days[visits],
        visit_vectors=histories.visit_vectors[visits],
        visit_facts=histories.visit_facts[visits],
        pair_offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        pair_classes=histories.pair_classes[pairs],
    )


def crafted(histories, *, visits, classes, huge=1.0):
    """The store with one more customer: visits at these days, all classes at each."""
    count, each = len(visits), len(classes)
    vectors = np.full((count, histories.visit_vectors.shape[1]), huge, np.float16)
    facts = np.full((count, histories.visit_facts.shape[1]), huge, np.float32)
    return replace(
        histories,
        customers=np.append(histories.customers, "zz-crafted"),
        homes=np.append(histories.homes, 0),
        visit_offsets=np.append(histories.visit_offsets, histories.visit_offsets[-1] + count),
        visit_days=np.append(histories.visit_days, np.sort(visits)),
        visit_vectors=np.concatenate([histories.visit_vectors, vectors]),
        visit_facts=np.concatenate([histories.visit_facts, facts]),
        pair_offsets=np.append(
            histories.pair_offsets, histories.pair_offsets[-1] + each * np.arange(1, count + 1)
        ),
        pair_classes=np.append(histories.pair_classes, np.tile(classes, count)).astype(np.int32),
    )


@pytest.fixture
def store(small_node, monkeypatch):
    """Run the client step on any histories; every customer is drawn."""
    node, settings = small_node
    monkeypatch.setattr(task, "training_anchors", anchors_by_name)
    settings = settings.with_changes(
        {
            "privacy.mode": "distributed",
            "federation.secure_aggregation": True,
            "privacy.max_grad_norm": CLIP,
            "privacy.noise_multiplier": 50.0,
            "training.local_steps": 1,
            "training.sample_rate": 1.0,
            "data.min_customers": 2,
        }
    )
    return Store(node, settings)


class Store:
    def __init__(self, node, settings):
        self.node, self.settings = node, settings
        self.real = node.histories

    def model(self, trainable, blow_up=1.0):
        model = InterestModel.from_pretrained(self.node.settings.base_model)
        model.train_only(trainable)
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
                    parameter.mul_(blow_up)
        return model, trained_arrays(model)

    def holding(self, histories):
        path = self.node.folder / "histories.npz"
        histories.save(path)
        table = json.loads((self.node.folder / "node.json").read_text())
        (self.node.folder / "node.json").write_text(json.dumps({**table, "histories": str(path)}))
        return Node(self.node.folder)

    def sums(self, histories, trainable="rules", blow_up=1.0, **changes):
        model, arrays = self.model(trainable, blow_up)
        settings = self.settings.with_changes({"model.trainable": trainable, **changes})
        trained = train_round(self.holding(histories), model, settings, arrays, 1)
        return flatten(trained.update), np.array([trained.drawn, trained.losses])


def assert_neighbours(store, one, other, **terms):
    (update, statistics), (update2, statistics2) = (
        store.sums(one, **terms),
        store.sums(other, **terms),
    )
    moved = float(np.linalg.norm(update - update2))
    # Beyond the clip only by what float32 sums round.
    rounding = 1e-6 * CLIP + 4e-7 * float(np.linalg.norm(update))
    assert moved <= CLIP + rounding
    assert np.linalg.norm(statistics - statistics2) <= np.sqrt(2) * (1 + 1e-5)
    return moved


@pytest.mark.parametrize("trainable", ["rules", "heads", "all"])
@pytest.mark.parametrize("removed", [0, 11])
def test_removing_a_customer_moves_the_sum_by_at_most_the_clip(store, trainable, removed):
    moved = assert_neighbours(store, store.real, without(store.real, removed), trainable=trainable)
    assert moved > 0.2 * CLIP  # the customer did matter


@pytest.mark.parametrize("trainable", ["rules", "all"])
@pytest.mark.parametrize("blow_up", [1e3, 1e8, 1e18])
def test_a_blown_up_model_does_not_help(store, trainable, blow_up):
    """A coordinator may send any finite model: losses and gradients of any size."""
    assert_neighbours(
        store, store.real, without(store.real, 3), trainable=trainable, blow_up=blow_up
    )


@pytest.mark.parametrize(
    "kind", ["enormous", "one visit", "nothing", "too late", "all at once", "huge values"]
)
@pytest.mark.parametrize("trainable", ["rules", "all"])
def test_no_crafted_customer_moves_the_sum_by_more_than_the_clip(store, kind, trainable):
    until = days(store.settings.data.split.train_until)
    first = store.real.observed_from
    classes = np.arange(int(store.real.pair_classes.max()) + 1)
    add = partial(crafted, store.real, classes=classes)
    more = {
        "enormous": lambda: add(visits=np.linspace(first, until, 3000, endpoint=False)),
        "one visit": lambda: add(visits=np.array([until - 40.0])),
        "nothing": lambda: add(visits=np.zeros(0)),
        "too late": lambda: add(visits=until + np.arange(5.0)),
        "all at once": lambda: add(visits=np.full(500, until - 35.0)),
        "huge values": lambda: add(visits=until - 60.0 + np.arange(30.0), huge=6e4),
    }[kind]()
    moved = assert_neighbours(store, more, store.real, trainable=trainable)
    if kind in ("nothing", "too late"):
        assert moved == 0


def test_a_store_of_one_customer_and_an_empty_batch(store):
    """All of a sum is one customer's, and nobody's is zero."""
    until = days(store.settings.data.split.train_until)
    nobody = store.real.until(store.real.observed_from - 1)
    alone = chosen(store.real, [4])
    both = crafted(alone, visits=until + np.arange(3.0), classes=np.arange(3))
    changes = {"data.min_customers": 2}
    for histories, expected in ((both, 1), (nobody, 0)):
        model, _ = store.model("rules")
        settings = store.settings.with_changes(changes)
        work = train._Work(
            node=store.holding(histories),
            task=task.InterestTask(),
            model=model,
            data=histories.until(until),
            settings=settings,
        )
        plan = train.PrivacyPlan.from_settings(settings)
        update = {}
        (losses,) = train._gradient_sum(work, plan, 1, update)
        assert len(losses) == expected
        norm = np.linalg.norm(flatten(update))
        assert norm == 0 if expected == 0 else 0 < norm <= CLIP * (1 + 1e-6)


def test_a_person_of_two_stores_adds_half_a_clip_at_each(store):
    two = {"privacy.max_stores_per_customer": 2}
    update, _ = store.sums(store.real, **two)
    less, _ = store.sums(without(store.real, 0), **two)
    assert np.linalg.norm(update - less) <= CLIP / 2 * (1 + 1e-5)


@pytest.mark.parametrize("trainable", ["rules", "all"])
def test_on_the_integers_a_customer_moves_the_sum_by_at_most_what_noise_is_measured_by(
    store, trainable
):
    """With the same rounding on both sides: scale x C, and a step for every coordinate."""
    _, arrays = store.model(trainable)
    settings = store.settings.with_changes({"model.trainable": trainable})
    manifest = manifest_for(settings, arrays, [f"s{i}" for i in range(5)], federation="f")
    section = manifest.terms().layout.sections[0]
    sums = [store.sums(h, trainable)[0] for h in (store.real, without(store.real, 5))]
    for seed in range(5):
        entropy = np.random.default_rng(seed).bytes(32)
        one, other = (quantize(s, section, entropy=lambda _, e=entropy: e) for s in sums)
        moved = float(np.linalg.norm(one - other))
        assert moved <= section.scale * CLIP + np.sqrt(section.length)


def test_a_sum_beyond_its_bound_is_cut_without_a_customer_moving_it_by_more(store):
    """Projecting on a ball brings no two points further apart; so 24 customers on one's room."""
    settings = store.settings.with_changes({"federation.max_drawn": 1})
    _, arrays = store.model("rules")
    manifest = manifest_for(settings, arrays, [f"s{i}" for i in range(5)], federation="f")
    section = manifest.terms().layout.sections[0]
    assert section.clip == CLIP
    update, _ = store.sums(store.real)
    less, _ = store.sums(without(store.real, 0))
    assert np.linalg.norm(less) > CLIP
    entropy = bytes(32)
    one, other = (quantize(s, section, entropy=lambda _: entropy) for s in (update, less))
    assert np.linalg.norm(one - other) <= section.scale * CLIP + np.sqrt(section.length)


def test_losses_are_at_most_one_a_customer_whatever_the_model(store):
    for blow_up in (1.0, 1e3, 1e18):
        _, (drawn, losses) = store.sums(store.real, blow_up=blow_up)
        assert drawn == 24
        assert 0 <= losses <= 24


@pytest.mark.parametrize("blow_up", [1.0, 1e6])
def test_a_customer_moves_evaluation_sums_by_at_most_the_root_of_eight(store, blow_up):
    model, arrays = store.model("rules", blow_up)

    def judged(histories):
        node = store.holding(histories)
        figures = evaluate_round(node, model, store.settings, arrays, split="test", number=1)
        return np.array(list(figures.sums().values()))

    whole = judged(store.real)
    for removed in range(0, 24, 4):
        moved = np.abs(whole - judged(without(store.real, removed)))
        assert moved.max() <= 1 + 1e-9
        assert np.linalg.norm(moved) <= np.sqrt(8) * (1 + 1e-9)
    busy = crafted(
        store.real,
        visits=days(store.settings.data.split.validate_until) + np.linspace(0, 10, 400),
        classes=np.arange(5),
    )
    assert np.abs(judged(busy) - whole).max() <= 1 + 1e-9


def test_where_each_person_has_one_home_their_evaluation_counts_there_alone(store):
    """Two stores with the same customers: what both send is what one would, to the last."""
    model, arrays = store.model("rules")
    node = store.holding(store.real)
    figures = evaluate_round(node, model, store.settings, arrays, split="test", number=1)
    homes = [store.real.at_home(index, 2).active() for index in range(2)]
    assert all(len(people) > 4 for people in homes)
    parts = [figures.sums(people) for people in homes]
    for name, whole in figures.sums().items():
        assert sum(part[name] for part in parts) == pytest.approx(whole, abs=1e-9)
    assert set(figures.sums(np.zeros(0, np.int64)).values()) == {0.0}


def test_in_local_mode_a_customer_moves_one_step_by_at_most_the_step_of_a_clip(store):
    """The same node noise on both sides cancels; what is left is the customer."""
    local = {"privacy.mode": "local"}
    training = store.settings.training
    limit = training.learning_rate * CLIP / training.expected_batch_size
    update, _ = store.sums(store.real, **local)
    less, _ = store.sums(without(store.real, 0), **local)
    moved = float(np.linalg.norm(update - less))
    # The noise is much larger than the sums, and so is its rounding to float32.
    rounding = 2e-7 * np.abs(update).max() * np.sqrt(update.size)
    assert 0.2 * limit < moved <= limit + rounding


@pytest.mark.parametrize("declared", ["observed_from = 2023-01-02\n", ""])
def test_a_customer_before_all_others_moves_no_day_of_theirs(small_settings, tmp_path, declared):
    """Preparation is a part of the step: what is known of all may not hang on one of them."""
    rows = [
        f"{who},1,2023-0{month}-1{day}"
        for who in ("ada", "bob", "eve")
        for month in (3, 5, 7)
        for day in (1, 4)
    ]
    split = {
        "train_until": "2023-10-01",
        "validate_until": "2023-11-01",
        "test_until": "2023-12-01",
    }
    settings = small_settings.with_changes({"data.split": split})
    found = []
    for name, more in (("with", ["first,1,1980-01-01", "first,1,2023-06-01"]), ("without", [])):
        folder = tmp_path / name
        folder.mkdir()
        sales = "\n".join(["user_id,item_id,timestamp", *more, *rows])
        (folder / "sales.csv").write_text(sales + "\n")
        (folder / "items.csv").write_text("item_id,text,category\n1,milk,DAIRY/MILK\n")
        (folder / "store.toml").write_text(
            f"name = 'corner'\n{declared}[events]\npath = 'sales.csv'\n"
            "[catalogue]\npath = 'items.csv'\n"
        )
        (folder / "customer.key").write_bytes(bytes(32))
        (folder / "customer.key").chmod(0o600)
        found.append(prepare_stores([folder], settings, tmp_path / "cache").load()[0])
    whole, rest = found
    assert len(whole) == 4
    others = chosen(whole, [i for i in range(4) if whole.customers[i] in set(rest.customers)])
    assert others.observed_from == rest.observed_from
    for field in fields(Histories):
        if field.name != "observed_from":
            np.testing.assert_array_equal(getattr(others, field.name), getattr(rest, field.name))
