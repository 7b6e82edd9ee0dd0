"""Every reply of a store over neighbouring data sets, for every task and everything it releases.

A store with one customer more or less says the same at every stage of every kind of exchange
that a task's manifest has: gradients, each phase of statistics, evaluations. The masked vector
alone differs, and its length does not. The tasks are those that are installed.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest

from hanse_common.phases import EVALUATE, TRAIN
from hanse_common.recipes import conversion
from hanse_simulations.datasets import campaigns
from hanse_simulations.experiment.conversion import study_of as conversion_study
from hanse_simulations.experiment.prepare import Prepared
from kits.apps.secure_federation import SecureFederation
from kits.encoder import tiny_encoder
from kits.public import (
    ReviewsFile,
    SequencesFile,
    category_stores,
    dealt,
    with_known_noise,
)
from kits.replies import replies

EVALUATED = {
    "privacy.evaluation_noise_multiplier": 60.0,
    "privacy.target_epsilon": 60.0,
    "federation.rounds": 3,
    "federation.evaluate_every": 3,
    "data.stores": 4,
    "data.min_customers": 2,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    tiny_encoder(folder / "encoder")
    return folder


def of_study(settings, study, stores, out: Path):
    """Settings, data by store and base model of research data."""
    base = out / "base"
    study.base(settings).save_pretrained(base)
    return with_known_noise(settings), stores, base


def items(home, out, *, described):
    settings, study = SequencesFile(described=described).study(home)
    settings = settings.with_changes(EVALUATED)
    return of_study(settings, study, dealt(study, settings), out)


def reviews(home, out):
    settings, study = ReviewsFile(named=False).study(home)
    settings = settings.with_changes(EVALUATED | {"federation.rounds": 2})
    return of_study(settings, study, dealt(study, settings), out)


def offers(home, out):
    settings = conversion().with_changes(EVALUATED)
    stores = dict(campaigns.load(settings.data, seed=settings.seed).stores)
    return of_study(settings, conversion_study(stores), stores, out)


def categories(home, out):
    settings, prepared = category_stores(home, out, EVALUATED)
    return settings, dict(zip(prepared.names, prepared.load(), strict=True)), prepared.base_model


CASES = {
    ("interest", "categories"): categories,
    ("next-item", "table"): lambda home, out: items(home, out, described=False),
    ("next-item", "texts"): lambda home, out: items(home, out, described=True),
    ("review", "sums"): reviews,
    ("conversion", "offers"): offers,
}
"""What makes a federation of a task, by the task and what it does. `interest` by visits is in
`test_neighbouring_stores.py`."""


def test_every_installed_task_has_a_case():
    assert {task for task, _ in CASES} == {
        entry.name for entry in entry_points(group="hanse.tasks")
    }


PAIRS = {
    "with and without the longest history": lambda order: (order, order[1:]),
    "one and none": lambda order: (order[:1], order[:0]),
}


def found(made, folder: Path, customers, patch) -> tuple[SecureFederation, str]:
    """A federation whose first store has some of its customers, and that store's name."""
    settings, stores, base = made
    folder.mkdir(parents=True)
    names, paths = [f"store-{number}" for number in range(len(stores))], []
    for number, data in enumerate(stores.values()):
        kept = data
        if number == 0:
            order = np.argsort(-data.sizes, kind="stable")
            some = np.sort(customers(order))
            kept = data.only(some) if hasattr(data, "visit_days") else data.select(some)
        path = folder / f"{number}.npz"
        kept.save(path)
        paths.append(path)
    prepared = Prepared(names=tuple(names), histories=tuple(paths), base_model=base, rejects=0)
    federation = SecureFederation(folder / "run", settings, prepared)
    federation.skip_clipping_check()
    patch.setenv("HANSE_FEDERATION", str(federation.folder.stores_dir))
    return federation, names[0]


def everything_said(federation: SecureFederation, store: str) -> dict[str, object]:
    """The store's replies at all stages of each kind of exchange."""
    manifest, said_in = federation.manifest(), {}
    schedule = manifest.schedule
    for number, kind in enumerate(manifest.kinds, start=1):
        if kind == EVALUATE:
            order, place = {"split": "validate"}, manifest.rounds
        else:
            order, place = {}, next(p.first for p in schedule.all if p.name == kind)
        known = schedule.known(federation.all_arrays, after=place - (kind != EVALUATE))
        message = EVALUATE if kind == EVALUATE else TRAIN
        said_in[kind] = replies(
            federation,
            store,
            message,
            run=number,
            arrays=known,
            **{"server-round": place, **order},
        )
    return said_in


@pytest.fixture(scope="module")
def made(request, home, tmp_path_factory):
    return CASES[request.param](home, tmp_path_factory.mktemp("made"))


@pytest.mark.parametrize("made", CASES, indirect=True, ids=" ".join)
@pytest.mark.parametrize("pair", PAIRS)
def test_replies_do_not_depend_on_a_customer_in_any_task(pair, made, tmp_path, monkeypatch):
    answers = []
    for number in (0, 1):
        federation, store = found(
            made,
            tmp_path / str(number),
            lambda order, number=number: PAIRS[pair](order)[number],
            monkeypatch,
        )
        answers.append(everything_said(federation, store))
    assert answers[0] == answers[1]
    for kind, stages in answers[0].items():
        errors = [reply for reply in stages.values() if isinstance(reply, tuple)]
        assert not errors, f"{kind}: {errors}"


@pytest.mark.parametrize("mode", ["local", "distributed"])
def test_a_statistic_that_fails_for_a_customer_is_noise_and_charged(mode, counting, monkeypatch):
    federation = counting(mode)

    def fail(*_, **__):
        raise OverflowError("of one customer")

    monkeypatch.setattr("kits.apps.counting_task.CountingTask.contributions", fail)
    store = federation.names[0]
    answers = replies(federation, store, TRAIN)
    assert not [reply for reply in answers.values() if isinstance(reply, tuple)]
    assert "OverflowError" in (federation.node(store).folder / "log.jsonl").read_text()
    assert federation.charged(store) == 1
