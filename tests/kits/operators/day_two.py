"""A store's ordinary days, and new terms: new weeks, an offline authority, an erased customer."""

from __future__ import annotations

import shutil
from datetime import timedelta

import polars as pl

from hanse_client.deployment import enrol
from hanse_client.features.histories import Histories
from hanse_client.ingest.store_config import load_store
from hanse_common import recipes
from hanse_common.identity import AuthorityKey
from hanse_common.paths import AUTHORITY_FILE, AUTHORITY_KEY_FILE
from hanse_server.deployment.folder import FederationFolder
from hanse_server.deployment.sign import signed_manifest
from kits.deployment import Done, as_toml
from kits.operators.steps import (
    LATE,
    ROUNDS,
    SERVER_2,
    STORE_2,
    a_round_is_shown,
    answers,
    by_hand,
    nothing_is_wrong,
    port,
    rejoins,
    runs,
    says,
    signed,
    starts,
    stops,
    write_settings,
)
from kits.operators.walk import AUTHORITY, COORDINATOR, STORE, Walk


def erase_a_customer(walk: Walk) -> None:
    events = load_store(walk.stores[STORE].store_toml).events
    column, rows = events.source_of("user_id")[0], pl.read_parquet(events.path)
    walk.customers = set(Histories.load(walk.stores[STORE].histories).customers)
    rows.filter(pl.col(column) != rows[column].min()).write_parquet(events.path)


def one_is_gone(walk: Walk, done: Done) -> None:
    after = set(Histories.load(walk.stores[STORE].histories).customers)
    assert len(walk.customers - after) == 1 and after < walk.customers
    assert len(walk.charges(STORE)) == ROUNDS, "what was charged stays charged"


def another_task(walk: Walk) -> None:
    place = walk.home("other-task")
    settings = recipes.reviews().with_changes({"model.encoder": walk.encoder})
    table = settings.model_dump(mode="json", exclude_none=True)
    (place / "settings.toml").write_text(as_toml(table))
    (place / "stars.labels").write_text("1\n2\n3\n4\n5\n")


def move_the_dates(walk: Walk) -> None:
    split = walk.settings.data.split.model_dump()
    later = {key: day + timedelta(weeks=4) for key, day in split.items()}
    write_settings(walk, walk.settings.with_changes({"data.split": later}))


def others_go_on(walk: Walk) -> None:
    rejoins(walk)
    walk.take_in("bremen", "danzig")
    walk.wait_until_online("bremen", "danzig", STORE)


def another_coordinator(walk: Walk) -> None:
    walk.send(walk.home("another-authority") / AUTHORITY_FILE, "another-coordinator")


def has_no_authoritys_key(walk: Walk, done: Done) -> None:
    made = FederationFolder(walk.home("another-coordinator"))
    assert not made.authority_key.exists()
    key = AuthorityKey.load(walk.home("another-authority") / AUTHORITY_KEY_FILE)
    assert made.authority == key.public


def a_request_comes_in(walk: Walk) -> None:
    walk.send(walk.ask(LATE), COORDINATOR)


def the_folder_travels(walk: Walk, done: Done) -> None:
    shutil.move(walk.desk(COORDINATOR) / "journey", walk.desk(AUTHORITY) / "journey")


def it_comes_back(walk: Walk, done: Done) -> None:
    shutil.move(walk.desk(AUTHORITY) / "journey", walk.desk(COORDINATOR) / "journey")


def new_terms_are_in(walk: Walk, done: Done) -> None:
    stores = ("bremen", "danzig", STORE, LATE)
    assert signed_manifest(walk.folder).stores == stores
    enrol.accept_certificate(walk.stores[LATE], walk.folder.certificate(LATE))
    for name in stores:
        walk.send_terms(name)


def all_take_them_in(walk: Walk) -> None:
    walk.take_in("bremen", "danzig", LATE)
    walk.wait_until_online("bremen", "danzig", STORE, LATE)


STORE_DAY_TWO = [
    starts(
        STORE_2,
        "hanse store metrics --folder /var/lib/hanse",
        answers("/healthz", "/readyz", "/metrics"),
        adds=port,
    ),
    starts(STORE_2, "hanse store watch --folder /var/lib/hanse", answers("/"), adds=port),
    runs(STORE_2, "hanse store budget --folder /var/lib/hanse", says("spent", "rounds left")),
    runs(STORE_2, "hanse store join --dry-run", a_round_is_shown),
    by_hand(STORE_2, "Stop the node, install the new version", stops),
    runs(STORE_2, "hanse store doctor", nothing_is_wrong),
    by_hand(STORE_2, "run `hanse store doctor`, join", rejoins),
]


NEW_TERMS = [
    by_hand(SERVER_2, '`task = "review"` (stars or sentiment)', another_task),
    runs(
        SERVER_2,
        "hanse model init stars.labels --settings settings.toml --output model",
        at="other-task",
    ),
    by_hand(SERVER_2, "Move the dates in `settings.toml`", move_the_dates),
    runs(
        SERVER_2,
        "hanse server manifest sign --folder /var/lib/hanse --continue-from NAME "
        "--authority-key authority.key",
        signed("bremen", "danzig", STORE),
    ),
    by_hand(SERVER_2, "Hand out the new `manifest.json` and `settings.json`", stops),
    runs(
        SERVER_2,
        "hanse store enrol --folder /var/lib/hanse --manifest manifest.json "
        "--settings settings.json",
        at=STORE,
    ),
    by_hand(SERVER_2, "and join again", others_go_on),
    runs(SERVER_2, "hanse server authority init authority.key", at="another-authority"),
    by_hand(SERVER_2, "it writes the public key beside it", another_coordinator),
    runs(
        SERVER_2,
        "hanse server init --folder /var/lib/hanse --name baltic --address "
        "hanse.example.org:9443 --authority authority",
        has_no_authoritys_key,
        at="another-coordinator",
    ),
    by_hand(SERVER_2, "with the requests that came in", a_request_comes_in),
    runs(
        SERVER_2,
        "hanse server authority export journey luebeck.request --folder /var/lib/hanse",
        the_folder_travels,
        names={STORE: LATE},
    ),
    runs(
        SERVER_2,
        "hanse server admit journey/luebeck.request --folder journey --authority-key authority.key",
        at=AUTHORITY,
        names={STORE: LATE},
        confirm=True,
    ),
    runs(
        SERVER_2,
        "hanse server manifest sign --folder journey --authority-key authority.key",
        it_comes_back,
        at=AUTHORITY,
    ),
    runs(
        SERVER_2,
        "hanse server authority import journey --folder /var/lib/hanse",
        new_terms_are_in,
    ),
    runs(STORE_2, "hanse store enrol --folder /var/lib/hanse --manifest manifest.json"),
    by_hand(STORE_2, "**New terms.**", all_take_them_in),
    by_hand(STORE_2, "delete the rows from the source", erase_a_customer),
    runs(STORE_2, "hanse store data prepare --folder /var/lib/hanse", one_is_gone),
]
