"""Every action that an enrolled store answers, against every way to be wrong.

Whatever is wrong, the store refuses before it looks at a customer: nothing is trained, charged,
masked or written but the refusal. The cases are generated from the store's own table of actions,
so that a new action without cases of its own fails here.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from hanse_client.app import ACTIONS
from hanse_client.deployment.leave import Leaving
from hanse_client.guard import DESCRIBE, OPENING
from hanse_common.identity import AuthorityKey, CoordinatorKey
from hanse_common.instructions import MESSAGE
from hanse_common.manifest import SignedManifest
from hanse_common.phases import is_released
from hanse_common.privacy.accounting import SampledGaussianSteps
from hanse_common.privacy.charge import Charge, Release
from hanse_common.secagg.terms import MAX_ATTEMPTS
from hanse_server.roundlog import RoundLog
from kits.apps.secure_federation import STAGES, ByHand, forbid_work

STORE = "synthetic-03"
BEFORE = {kind: list(STAGES)[number - 1] for number, kind in enumerate(STAGES.values()) if number}
"""The stage before each later message type."""


@dataclass
class Attack:
    """A federation in which everything is ready for the action, and an order that is right."""

    federation: object
    action: str
    record: RecordDict
    by_hand: ByHand | None = None

    @property
    def node(self):
        return self.federation.node(STORE)

    def reannounce(self) -> None:
        """Announce what the record says now, as a coordinator of bad intent would."""
        entries = {k: v for k, v in self.config.items() if k not in ("log", "log-proofs")}
        record = RecordDict({**self.record, "config": ConfigRecord(entries)})
        self.record = self.federation.announced(record, self.action)

    @property
    def config(self) -> dict:
        return dict(self.record["config"])

    def entry(self, announce: bool = True, **changes) -> None:
        """Change entries of the configuration; None takes one out."""
        entries = {**self.config, **{k.replace("_", "-"): v for k, v in changes.items()}}
        entries = {key: value for key, value in entries.items() if value is not None}
        self.record = RecordDict({**self.record, "config": ConfigRecord(entries)})
        if announce and self.action in OPENING:
            self.reannounce()

    def settings(self, **changes) -> None:
        changes = {key.replace("__", "."): value for key, value in changes.items()}
        text = self.federation.settings.with_changes(changes).model_dump_json()
        self.entry(settings=text)

    def arrays(self, change: Callable[[dict], dict]) -> None:
        found = {name: array.numpy() for name, array in self.record["arrays"].items()}
        content = self.federation.content(arrays=change(found))
        self.record = RecordDict({**self.record, "arrays": content["arrays"]})
        self.reannounce()

    def records(self, change: Callable[[dict], dict]) -> None:
        self.record = RecordDict(change(dict(self.record)))


def ready(federation, action: str) -> Attack:
    """Bring the store to where it would answer the action."""
    if action == DESCRIBE:
        return Attack(federation, action, RecordDict())
    if action in OPENING:
        extra = {} if action == "train" else {"split": "validate", "server-round": 2}
        record = federation.announced(federation.order(**extra), action)
        return Attack(federation, action, record)
    by_hand = ByHand(federation).upto(BEFORE[action])
    data = by_hand.coordinator.advance()[STORE].encode()
    record = RecordDict({"config": ConfigRecord({MESSAGE: data})})
    return Attack(federation, action, record, by_hand)


WAYS: dict[str, tuple[str, str, Callable[[Attack], None]]] = {}
"""By name: for which actions (any, opening, stage, or one of them), the code, what is done."""


def way(actions: str, code: str):
    def register(attack: Callable[[Attack], None]) -> Callable[[Attack], None]:
        WAYS[attack.__name__] = (actions, code, attack)
        return attack

    return register


# The store, its terms and its decisions


@way("any", "bad-manifest")
def manifest_of_another_authority(attack):
    folder = attack.node.enrolment.folder
    terms = SignedManifest.load(folder / "manifest.json").unchecked
    SignedManifest.sign(terms, AuthorityKey.generate()).save(folder / "manifest.json")


@way("any", "policy-violation")
def policy_that_the_manifest_violates(attack):
    path = attack.node.enrolment.folder / "policy.toml"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("max_rounds")]
    path.write_text("\n".join([*lines, "max_rounds = 1"]) + "\n")


@way("any", "store-left")
def after_leaving(attack):
    Leaving(after_round=0).save(attack.node.folder)


@way("any", "foreign-code")
def bundle_that_the_manifest_does_not_name(attack):
    grid = attack.federation.faults
    context = grid.contexts[grid.node_of(STORE)]
    context.node_config |= {"bundle-digest": "ab" * 32, "bundle-holds": "it holds no code"}


@way("opening", "budget-spent")
def manifest_whose_exchanges_are_spent(attack):
    spend(attack, under_manifest=True)


@way("opening", "budget-spent")
def policy_whose_budget_is_spent(attack):
    spend(attack, under_manifest=False)


@way("train.mask", "budget-spent")
def budget_that_was_spent_after_the_hello(attack):
    spend(attack, under_manifest=True)


def spend(attack, *, under_manifest: bool) -> None:
    manifest = attack.federation.manifest()
    digest = manifest.digest() if under_manifest else bytes(32)
    noise = 1e3 if under_manifest else 0.5
    steps = SampledGaussianSteps(noise_multiplier=noise, sample_rate=1.0, count=1)
    for kind in {*manifest.kinds, "train", "evaluate"}:
        for _ in range(manifest.granted(kind) if under_manifest else 40):
            release = Release(kind=kind, manifest_digest=digest)
            attack.node.charge(Charge(steps=steps, target_delta=1e-6, release=release))


@way("opening", "policy-violation")
def another_base_model(attack):
    path = attack.node.settings.base_model / "config.json"
    original = path.read_bytes()
    attack.federation.restore = functools.partial(path.write_bytes, original)
    path.write_bytes(original + b" ")


# The form of the message


@way("any", "config")
def record_too_many(attack):
    attack.records(lambda records: {**records, "more": ConfigRecord({"x": 1})})


@way("stage", "config")
def no_record(attack):
    attack.records(lambda records: {})


@way("opening", "config")
def no_model(attack):
    attack.records(lambda records: {"config": records["config"]})


@way("opening", "config")
def no_configuration(attack):
    attack.records(lambda records: {"arrays": records["arrays"]})


@way("opening", "config")
def records_under_each_others_names(attack):
    attack.records(lambda r: {"arrays": r["config"], "config": r["arrays"]})


@way("stage", "config")
def configuration_of_arrays(attack):
    attack.records(lambda records: {"config": ArrayRecord({})})


@way("stage", "config")
def entry_too_many(attack):
    attack.entry(more=1)


@way("stage", "config")
def no_bytes(attack):
    attack.entry(message=None, other=b"x")


@way("stage", "config")
def text_for_bytes(attack):
    attack.entry(message="hnse")


@way("opening", "config")
def unknown_entry(attack):
    attack.entry(announce=False, min_customers=3)


@way("opening", "config")
def missing_settings(attack):
    attack.entry(announce=False, settings=None)


@way("opening", "config")
def settings_that_are_no_json(attack):
    attack.entry(settings="{")


@way("opening", "config")
def settings_with_an_unknown_key(attack):
    attack.entry(settings='{"recipe": "x", "data": {"source": "synthetic"}, "spy": 1}')


@way("opening", "config")
def missing_round(attack):
    attack.entry(announce=False, server_round=None)


@way("opening", "config")
def round_that_is_a_text(attack):
    attack.entry(announce=False, server_round="1")


@way("opening", "config")
def split_that_is_a_path(attack):
    attack.entry(announce=False, split="../../validate")


@way("opening", "config")
def split_that_does_not_exist(attack):
    attack.entry(announce=False, split="everything")


@way("opening", "malformed-message")
def third_attempt(attack):
    attack.entry(announce=False, attempt=MAX_ATTEMPTS + 1)


@way("opening", "malformed-message")
def negative_run(attack):
    attack.entry(announce=False, run=-1)


# The round log


@way("opening", "log-forked")
def unannounced(attack):
    attack.entry(announce=False, log=None, log_proofs=None)


@way("opening", "log-forked")
def announced_as_something_else(attack):
    attack.entry(announce=False, run=77)


@way("opening", "log-forked")
def announced_in_another_coordinators_log(attack):
    folder = attack.federation.folder.path
    other = RoundLog.open(folder / "other.sqlite", CoordinatorKey.generate())
    entries = {k: v for k, v in attack.config.items() if k not in ("log", "log-proofs")}
    record = RecordDict({**attack.record, "config": ConfigRecord(entries)})
    attack.record = attack.federation.announced(record, attack.action, log=other)


# The instructions against the manifest


@way("train", "policy-violation")
def round_beyond_the_last(attack):
    attack.entry(server_round=3)


@way("evaluate", "policy-violation")
def evaluation_that_is_not_due(attack):
    attack.entry(server_round=1)


@way("evaluate", "policy-violation")
def last_weeks_before_the_last_round(attack):
    attack.entry(server_round=0, split="test")


@way("train", "policy-violation")
def pull_of_another_strategy(attack):
    attack.entry(proximal_mu=0.5)


@way("train", "policy-violation")
def another_start(attack):
    attack.arrays(lambda arrays: {n: a + np.float32(1e-7) for n, a in arrays.items()})


@way("opening", "policy-violation")
def less_noise(attack):
    attack.settings(privacy__noise_multiplier=3.9)


@way("opening", "policy-violation")
def a_limit_on_customers_to_ask_for_their_number(attack):
    attack.settings(data__min_customers=24)


@way("opening", "policy-violation")
def a_split_moved_to_ask_for_a_first_visit(attack):
    split = attack.federation.settings.data.split.model_dump()
    earlier = split["train_until"].replace(second=1)
    attack.settings(data__split=split | {"train_until": earlier})


@way("opening", "policy-violation")
def other_settings_of_the_federation(attack):
    attack.settings(federation__max_update_norm=15.0)


def shaped(change: Callable[[str, np.ndarray], np.ndarray]) -> Callable[[dict], dict]:
    """Change the first array, and leave the others."""

    def changed(arrays: dict) -> dict:
        first = sorted(arrays)[0]
        return arrays | {first: change(first, arrays[first])}

    return changed


@way("opening", "policy-violation")
def another_shape(attack):
    attack.arrays(shaped(lambda _, a: np.append(a.ravel(), np.float32(0))))


@way("opening", "policy-violation")
def another_type(attack):
    attack.arrays(shaped(lambda _, a: a.astype(np.float64)))


@way("opening", "policy-violation")
def a_frozen_parameter(attack):
    attack.arrays(lambda arrays: arrays | {"encoder.wte.weight": np.zeros((3, 3), np.float32)})


@way("opening", "policy-violation")
def a_trained_parameter_missing(attack):
    attack.arrays(lambda arrays: dict(sorted(arrays.items())[1:]))


@way("opening", "policy-violation")
def a_model_that_is_not_finite(attack):
    attack.arrays(shaped(lambda _, a: np.full_like(a, np.nan)))


# A round of statistics, and what was released before


def phase(attack, **changes) -> None:
    """Change the settings' phase of statistics."""
    first, *rest = attack.federation.settings.phases
    phases = [first.model_copy(update=changes), *rest]
    attack.settings(phases=[part.model_dump() for part in phases])


@way("statistics", "policy-violation")
def less_noise_on_statistics(attack):
    phase(attack, noise_multiplier=0.99 * attack.federation.settings.phases[0].noise_multiplier)


@way("statistics", "policy-violation")
def statistics_of_another_name(attack):
    phase(attack, name="first-visits")


@way("statistics", "policy-violation")
def statistics_with_another_bound(attack):
    phase(attack, max_norm=1e6)


@way("statistics", "policy-violation")
def statistics_in_two_rounds(attack):
    phase(attack, rounds=2)


@way("statistics", "policy-violation")
def phases_the_other_way_round(attack):
    phases = reversed(attack.federation.settings.phases)
    attack.settings(phases=[part.model_dump() for part in phases])


@way("statistics", "policy-violation")
def gradients_where_the_terms_have_statistics(attack):
    attack.settings(phases=[])


@way("statistics", "policy-violation")
def a_sum_before_its_release(attack):
    attack.arrays(lambda arrays: arrays | released(attack))


@way("statistics", "policy-violation")
def the_sum_missing_after_its_release(attack):
    attack.entry(server_round=2)


@way("statistics", "policy-violation")
def a_sum_of_another_length(attack):
    attack.entry(server_round=2)
    attack.arrays(lambda arrays: arrays | {n: a[1:] for n, a in released(attack).items()})


@way("statistics", "policy-violation")
def a_sum_that_is_not_finite(attack):
    attack.entry(server_round=2)
    attack.arrays(lambda arrays: arrays | {n: a + np.inf for n, a in released(attack).items()})


@way("statistics", "policy-violation")
def a_sum_of_another_name(attack):
    attack.entry(server_round=2)
    attack.arrays(lambda arrays: arrays | {f"{n}.x": a for n, a in released(attack).items()})


@way("statistics", "budget-spent")
def statistics_once_more_under_another_run_number(attack):
    ByHand(attack.federation, run=41).upto("mask")
    attack.entry(run=42)


def released(attack) -> dict[str, np.ndarray]:
    """The sums that are released, as they are sent afterwards."""
    return {n: a for n, a in attack.federation.all_arrays.items() if is_released(n)}


# Again, and out of turn


@way("opening", "attempt-refused")
def the_same_attempt_once_more(attack):
    assert not attack.federation.give(STORE, attack.record, attack.action).has_error()


@way("opening", "attempt-refused")
def more_run_numbers_than_the_manifest_lets_an_exchange_begin(attack):
    limit = attack.federation.manifest().max_openings
    for number in range(2, limit + 2):
        attack.entry(run=number)
        assert not attack.federation.give(STORE, attack.record, attack.action).has_error()
    attack.entry(run=limit + 2)


@way("stage", "out-of-turn")
def with_nothing_waiting(attack):
    (attack.node.folder / "secagg" / "waiting").unlink()


@way("stage", "out-of-turn")
def a_stage_twice(attack):
    assert not attack.federation.give(STORE, attack.record, attack.action).has_error()


def applies(actions: str, action: str, terms: str) -> bool:
    stage = action not in OPENING and action != DESCRIBE
    return (
        actions in ("any", action)
        or (actions == "statistics" and terms == "statistics" and action == "train")
        or (actions == "opening" and action in OPENING)
        or (actions == "stage" and stage)
    )


ANSWERED = {"gradients": tuple(ACTIONS), "statistics": ("train", "train.mask")}
"""The actions by the terms of the federation: under those with a phase of statistics, the first
round's order, and the stage that charges it."""
CASES = [
    (terms, action, name)
    for terms, actions in ANSWERED.items()
    for action in actions
    for name, (those, _, _) in WAYS.items()
    if applies(those, action, terms)
]


@pytest.fixture
def attacked(request, found_federation, counting):
    """A federation that evaluates under noise too, so that every action can be right."""
    if getattr(request, "param", "gradients") == "statistics":
        federation = counting()
    else:
        federation = found_federation(
            {"privacy.evaluation_noise_multiplier": 30.0, "privacy.target_epsilon": 12.0}
        )
    federation.restore = lambda: None
    yield federation
    federation.restore()


def everything_kept(node) -> Mapping[str, object]:
    """What must not change by a refusal."""
    secagg = node.folder / "secagg"
    return {
        "charges": [entry.hash for entry in node.ledger if entry.spends],
        "journal": (secagg / "journal").read_bytes() if secagg.exists() else b"",
        "evaluations": sorted(path.name for path in node.folder.glob("evaluations/*")),
        "beside": sorted(path.name for path in node.folder.parent.iterdir()),
    }


@pytest.mark.parametrize(("attacked", "action", "name"), CASES, indirect=["attacked"])
def test_every_action_is_refused_in_every_way_before_a_customer_is_looked_at(
    action, name, attacked, monkeypatch
):
    _, code, attack = WAYS[name]
    prepared = ready(attacked, action)
    attack(prepared)
    before = everything_kept(prepared.node)
    forbid_work(monkeypatch)
    reply = attacked.give(STORE, prepared.record, action)
    assert reply.has_error(), "the store did as it was told"
    assert reply.error.reason.startswith(f"[{code}] "), reply.error.reason
    after = everything_kept(prepared.node)
    assert after == before


@pytest.mark.parametrize(
    ("attacked", "action"),
    [(terms, action) for terms, actions in ANSWERED.items() for action in actions],
    indirect=["attacked"],
)
def test_every_action_is_answered_when_nothing_is_wrong(action, attacked):
    """So that the refusals above are not the kit's own failings; and each has its cases."""
    prepared = ready(attacked, action)
    assert not attacked.give(STORE, prepared.record, action).has_error()
    assert {name for _, found, name in CASES if found == action}


@pytest.mark.parametrize(
    "kind",
    [
        *("train.alone", "train.default", "evaluate.default", "evaluate.alone", "query"),
        *("query.share", "train.unmask", "train.confirm", "query.budget", "query.describe_more"),
    ],
)
def test_what_is_not_on_the_list_is_refused_in_one_sentence(kind, attacked, monkeypatch):
    forbid_work(monkeypatch)
    message = Message(attacked.order(), attacked.faults.node_of(STORE), "train")
    message.metadata.__dict__["_message_type"] = kind
    reply = attacked.faults.deliver(message)
    assert reply.error.reason == "[not-answered] this store does not answer such messages"


def test_an_enrolled_store_judges_no_model_where_no_evaluation_leaves(federation, monkeypatch):
    forbid_work(monkeypatch)
    record = federation.announced(federation.order(split="test", **{"server-round": 2}), "evaluate")
    reply = federation.give(STORE, record, "evaluate")
    assert reply.error.reason.startswith("[policy-violation] ")
    assert not list(federation.node(STORE).folder.glob("evaluations/*"))


def test_a_node_that_is_no_member_answers_nothing(federation, monkeypatch):
    forbid_work(monkeypatch)
    path = federation.node(STORE).folder / "node.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "enrolment": None}))
    for action in ACTIONS:
        reply = federation.give(STORE, federation.order(), action)
        assert reply.error.reason.startswith("[not-answered] ")


def test_a_round_after_the_release_is_answered_with_the_sum(counting):
    """So that what is refused about released sums is refused for what is wrong with it."""
    federation = counting()
    order = federation.order(arrays=federation.all_arrays, **{"server-round": 2})
    reply = federation.give(STORE, federation.announced(order))
    assert not reply.has_error(), reply.error.reason
