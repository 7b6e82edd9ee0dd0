"""docs/operators.md is tried by its own words: every command on it, in the order of the page.

One coordinator, one authority and five stores on this machine. The store `luebeck`, and whoever
stands on the other side of it, types the lines of the page as they stand; the other stores do
the same by what the commands call. The steps below are read beside the page: within a section
they come in its order, and a command of the page without a step fails a quick test. A name of a
command without its arguments, as sentences have it, is a step only where the walk types it so.
"""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

import polars as pl
import pytest
from packaging.requirements import Requirement

from hanse_client.deployment import enrol
from hanse_client.deployment.folder import StoreFolder
from hanse_client.deployment.tls_check import handshake
from hanse_client.features.histories import Histories
from hanse_client.ingest.store_config import load_store
from hanse_common.config import RunSettings
from hanse_common.identity import AuthorityKey, Certificate, StoreKey, fingerprint
from hanse_common.paths import AUTHORITY_FILE, AUTHORITY_KEY_FILE, LEDGER_HEAD_FILE
from hanse_server.blame import Blame
from hanse_server.deployment.folder import FederationFolder
from hanse_server.deployment.sign import signed_manifest
from hanse_server.stage_log import read_stages
from hanse_simulations import recipes
from hanse_simulations.datasets import make_stores
from kits.apps.deployment import fill_in
from kits.commands import NAMES, edit
from kits.company import Company
from kits.deployment import Done, as_toml, free_ports, wait_for
from kits.encoder import tiny_encoder
from kits.packages import PROJECT, ROOT
from kits.page import commands, name_of, operators_page, sections
from kits.walk import AUTHORITY, COORDINATOR, STORE, SUPERLINK_PORT, Walk

STORE_1, STORE_2 = "A store, day one", "A store, day two"
SERVER_1, SERVER_2 = "A coordinator, day one", "A coordinator, day two"
TOLD, LOST, LEAVING = "Who is told", "When something is lost", "Leaving"
PAGES, PORTS = "Pages to watch", "Ports, and what to expose"
ROUNDS = 2
LATE, COMPANY = "rostock", "riga"
"""Stores that come later: one whose request travels to the authority, one of a company."""

Check = Callable[[Walk, Done], None]


@dataclass(frozen=True, kw_only=True)
class Step:
    """What is done at one command of the page, or by hand where the page says so.

    Args:
        section: Where it stands.
        line: The command, or words of a sentence that asks for something by hand.
        how: Run it; start it and let it go on; do something else for a reason; or by hand.
        do: Checks what came of it; or what is done instead, or by hand.
        at: Who types it; by the command if unset.
        names: What stands here for names of the page, besides those that `Walk` replaces.
        adds: Words that are added, since all parties are on one machine or as the sentence says.
        confirm: Whether a question is answered with yes.
        reason: Why the line cannot be run.
    """

    section: str
    line: str
    how: Literal["runs", "starts", "instead", "by hand"]
    do: Callable[..., None]
    at: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    adds: Callable[[Walk], tuple[object, ...]] = lambda walk: ()
    confirm: bool = False
    reason: str = ""

    def take(self, walk: Walk) -> None:
        """Do it."""
        if self.how in ("instead", "by hand"):
            self.do(walk)
            return
        at = self.at or (COORDINATOR if self.line.split()[1] in ("server", "model") else STORE)
        words = {"at": at, "names": self.names, "adds": self.adds(walk)}
        if self.how == "starts":
            self.do(walk, walk.start(self.line, **words))
            return
        with walk.key_at_hand(at):
            done = walk.run(self.line, confirm=self.confirm, **words)
        assert done.status == 0, done.err + done.out
        self.do(walk, done)


def succeeds(walk: Walk, done: Done) -> None:
    """Nothing more is expected of it."""


def runs(section: str, line: str, do: Check = succeeds, **more) -> Step:
    return Step(section=section, line=line, how="runs", do=do, **more)


def starts(section: str, line: str, do: Callable[..., None], **more) -> Step:
    return Step(section=section, line=line, how="starts", do=do, **more)


def instead(section: str, line: str, reason: str, do: Callable[[Walk], None]) -> Step:
    return Step(section=section, line=line, how="instead", do=do, reason=reason)


def by_hand(section: str, words: str, do: Callable[[Walk], None]) -> Step:
    return Step(section=section, line=words, how="by hand", do=do)


# A coordinator, day one


def installed(line: str) -> Callable[[Walk], None]:
    def check(walk: Walk) -> None:
        assert (ROOT / "constraints.txt").exists()
        (wanted,) = re.findall(r"'(hanse\[[\w,]+\])'", line)
        assert Requirement(wanted).extras <= set(PROJECT["optional-dependencies"])

    return check


def founded(walk: Walk, done: Done) -> None:
    walk.folder = FederationFolder(walk.folder.path)
    for path in (walk.folder.authority_key, walk.folder.invitation, walk.folder.tls):
        assert path.exists()


def move_the_key(walk: Walk) -> None:
    shutil.move(walk.folder.authority_key, walk.desk(AUTHORITY) / AUTHORITY_KEY_FILE)


def fill_in_settings(walk: Walk) -> None:
    write_settings(walk, walk.settings)
    shutil.copy(walk.catalogue, walk.folder.path / "catalogue.parquet")


def write_settings(walk: Walk, settings: RunSettings) -> None:
    table = settings.model_dump(mode="json", exclude_none=True)
    (walk.folder.path / "settings.toml").write_text(as_toml(table))


def admitted(store: str) -> Check:
    def check(walk: Walk, done: Done) -> None:
        key = StoreKey.load(enrol.newest(walk.stores[store].store_key)).public
        assert fingerprint(key) in done.err, "the fingerprint that is compared by phone"
        walk.send(walk.folder.certificate(store), store)

    return check


def others_come_in(walk: Walk) -> None:
    for name in ("bremen", "danzig"):
        walk.admit(name, walk.ask(name))


def signed(*stores: str) -> Check:
    def check(walk: Walk, done: Done) -> None:
        assert signed_manifest(walk.folder).stores == stores
        assert f"signed for {len(stores)} stores" in done.err and "must be there" in done.err
        for name in stores:
            walk.send_terms(name)

    return check


def comes_up(walk: Walk, started) -> None:
    ca = (walk.folder.tls / "ca.crt").read_text()

    def answers() -> bool:
        assert started.process.poll() is None, started.said()
        try:
            return bool(handshake(f"127.0.0.1:{walk.fleet}", ca).expires)
        except Exception:
            return False

    wait_for(answers, f"the coordinator in\n{started.said()}", 120)


def others_join(walk: Walk) -> None:
    walk.take_in("bremen", "danzig")
    walk.wait_until_online()


def all_online(walk: Walk, done: Done) -> None:
    for name in walk.joined:
        (row,) = (line for line in done.out.splitlines() if name in line.split())
        assert "online" in row


def the_display_ends_and_the_run_goes_on(walk: Walk, started) -> None:
    """One node stands still, so that the round cannot end before the run is stopped."""
    walk.joined["bremen"].process.send_signal(signal.SIGSTOP)
    wait_for(lambda: walk.status()["run"] is not None, "a run", 120)
    walk.wait_for_round(walk.run_name, 1)
    started.process.send_signal(signal.SIGINT)
    assert started.wait_for_end() == 0, started.said()
    assert "the run goes on" in started.said()
    assert walk.status()["run"]["state"] == "underway"


def stopped(walk: Walk, done: Done) -> None:
    walk.joined["bremen"].process.send_signal(signal.SIGCONT)
    assert walk.status()["run"]["state"] == "stopped"


def finished(walk: Walk, done: Done) -> None:
    state = walk.status()["run"]
    assert (state["state"], state["round"]) == ("finished", ROUNDS)
    walk.names["NAME"] = walk.run_name


def exported(walk: Walk, done: Done) -> None:
    assert (walk.folder.path / "trained" / "model.safetensors").exists()


# A store, day one


def fill_in_data(walk: Walk) -> None:
    walk.stores[STORE] = StoreFolder(walk.home(STORE))
    fill_in(walk.stores[STORE], STORE, walk.data[STORE])


def set_limits(walk: Walk) -> None:
    edit(walk.stores[STORE].policy, walk.policy)
    walk.send(walk.folder.invitation, STORE)


def the_authority_is_compared(walk: Walk, done: Done) -> None:
    assert fingerprint(walk.authority.public) in done.err
    walk.send(walk.home(STORE) / f"{STORE}.request", COORDINATOR)


def a_company_certifies(walk: Walk) -> None:
    company = walk.company = Company()
    walk.ask(COMPANY)
    chain, key = company.certify(walk.desk("company"), dns=f"{COMPANY}.shops.example.org")
    walk.send(chain, COMPANY, "store.pem")
    shutil.copy2(key, walk.desk(COMPANY) / "store.pem.key")


def the_request_is_signed(walk: Walk, done: Done) -> None:
    walk.send(walk.home(COMPANY) / f"{COMPANY}.request", COORDINATOR)


def nothing_is_wrong(walk: Walk, done: Done) -> None:
    assert "failed" not in done.out and "connection" in done.out


def a_round_is_shown(walk: Walk, done: Done) -> None:
    assert "epsilon" in done.out
    assert not walk.charges(STORE) or len(walk.charges(STORE)) == ROUNDS


def joins(walk: Walk, started) -> None:
    walk.joined[STORE] = started
    walk.wait_until_online(STORE)


def rejoins(walk: Walk) -> None:
    """`join` once more, as day one has it."""
    joins(walk, walk.start("hanse store join --folder /var/lib/hanse", at=STORE))


def stops(walk: Walk) -> None:
    walk.joined[STORE].stop()


DAY_ONE = [
    instead(
        SERVER_1,
        line := "pip install --constraint constraints.txt 'hanse[server,metrics]'",
        "what is tested is installed here, and tests install nothing",
        installed(line),
    ),
    runs(
        SERVER_1,
        "hanse server init --folder /var/lib/hanse --name baltic --address hanse.example.org:9443",
        founded,
        adds=lambda walk: ("--bind", "127.0.0.1", SUPERLINK_PORT, walk.superlink),
    ),
    by_hand(SERVER_1, "Move `authority.key` to a machine that is not online", move_the_key),
    by_hand(SERVER_1, "Set in `settings.toml` what is trained", fill_in_settings),
    runs(
        SERVER_1,
        "hanse model init catalogue.parquet --settings settings.toml --output model",
    ),
    instead(
        STORE_1,
        line := "pip install --constraint constraints.txt 'hanse[client,postgres,metrics]'",
        "what is tested is installed here, and tests install nothing",
        installed(line),
    ),
    runs(STORE_1, "hanse store init luebeck --folder /var/lib/hanse"),
    by_hand(STORE_1, "**Describe the data** in `store.toml`", fill_in_data),
    runs(STORE_1, "hanse data check /var/lib/hanse/store.toml"),
    by_hand(STORE_1, "**Set your limits** in `policy.toml`", set_limits),
    runs(
        STORE_1,
        "hanse store enrol --folder /var/lib/hanse --invitation invitation.json",
        the_authority_is_compared,
        confirm=True,
    ),
    by_hand(STORE_1, "If your company has a certificate authority", a_company_certifies),
    runs(
        STORE_1,
        "hanse store enrol --folder /var/lib/hanse --certificate store.pem "
        "--certificate-key store.pem.key",
        the_request_is_signed,
        at=COMPANY,
    ),
    runs(
        SERVER_1,
        "hanse server admit luebeck.request --folder /var/lib/hanse --authority-key authority.key",
        admitted(STORE),
        confirm=True,
    ),
    by_hand(SERVER_1, "For each request that comes back", others_come_in),
    runs(
        SERVER_1,
        "hanse server manifest sign --folder /var/lib/hanse --authority-key authority.key",
        signed("bremen", "danzig", STORE),
    ),
    runs(
        STORE_1,
        "hanse store enrol --folder /var/lib/hanse --certificate luebeck --manifest manifest.json "
        "--settings settings.json --model model",
    ),
    starts(SERVER_1, "hanse server up --folder /var/lib/hanse", comes_up),
    runs(STORE_1, "hanse store doctor --folder /var/lib/hanse", nothing_is_wrong),
    runs(STORE_1, "hanse store join --folder /var/lib/hanse --dry-run", a_round_is_shown),
    starts(STORE_1, "hanse store join --folder /var/lib/hanse", joins),
    by_hand(SERVER_1, "accepts connections of stores", others_join),
    runs(SERVER_1, "hanse server status --folder /var/lib/hanse", all_online),
    starts(
        SERVER_1,
        "hanse server run --folder /var/lib/hanse",
        the_display_ends_and_the_run_goes_on,
    ),
    runs(SERVER_1, "hanse server stop", stopped),
    runs(SERVER_1, "hanse server resume", finished),
    runs(SERVER_1, "hanse model export runs/NAME --base model --output trained", exported),
]


# A store, day two


def port(walk: Walk) -> tuple[object, ...]:
    walk.port = free_ports(1)[0]
    return ("--port", walk.port)


def answers(*paths: str) -> Callable[..., None]:
    """It serves these paths, until it is stopped."""

    def check(walk: Walk, started) -> None:
        for path in paths:
            walk.wait_until_answers(started, walk.port, path)
        started.stop()

    return check


def says(*words: str) -> Check:
    def check(walk: Walk, done: Done) -> None:
        assert all(word in done.out + done.err for word in words), done.out + done.err

    return check


def erase_a_customer(walk: Walk) -> None:
    events = load_store(walk.stores[STORE].store_toml).events
    column, rows = events.source_of("user_id")[0], pl.read_parquet(events.path)
    walk.customers = set(Histories.load(walk.stores[STORE].histories).customers)
    rows.filter(pl.col(column) != rows[column].min()).write_parquet(events.path)


def one_is_gone(walk: Walk, done: Done) -> None:
    after = set(Histories.load(walk.stores[STORE].histories).customers)
    assert len(walk.customers - after) == 1 and after < walk.customers
    assert len(walk.charges(STORE)) == ROUNDS, "what was charged stays charged"


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


# A coordinator, day two, until there are new terms


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


# When something is lost


def lose_both_keys(walk: Walk) -> None:
    walk.joined[STORE].stop()
    for key in (walk.stores[STORE].store_key, walk.stores[STORE].node_key):
        key.unlink()


def a_request_is_sent(walk: Walk, done: Done) -> None:
    walk.send(walk.home(STORE) / f"{STORE}.request", COORDINATOR)


def is_out(store: str) -> Check:
    def check(walk: Walk, done: Done) -> None:
        wait_for(lambda: store not in walk.online(), f"{store} offline", 90)
        walk.joined[store].wait_for_end()
        assert "revoked" in walk.joined[store].said()

    return check


def lose_the_head(walk: Walk) -> None:
    walk.joined[STORE].stop()
    (walk.home(STORE) / LEDGER_HEAD_FILE).unlink()


def the_ledger_goes_on(walk: Walk, done: Done) -> None:
    assert len(walk.charges(STORE)) == ROUNDS
    rejoins(walk)


SOMETHING_IS_LOST = [
    by_hand(LOST, "`enrolment/store.key`, `node.key` or both", lose_both_keys),
    runs(
        LOST,
        "hanse store keys rotate --folder /var/lib/hanse --node-key",
        a_request_is_sent,
    ),
    runs(
        LOST,
        "hanse server admit luebeck.request --folder /var/lib/hanse --replace "
        "--authority-key authority.key",
        admitted(STORE),
        confirm=True,
    ),
    runs(LOST, "hanse store enrol --folder /var/lib/hanse --certificate luebeck"),
    by_hand(LOST, "Then join", rejoins),
    runs(LOST, "hanse server revoke luebeck --folder /var/lib/hanse", is_out(STORE)),
    runs(
        LOST,
        "hanse store keys rotate --folder /var/lib/hanse --node-key",
        a_request_is_sent,
    ),
    runs(
        LOST,
        "hanse server admit luebeck.request --folder /var/lib/hanse --authority-key authority.key",
        admitted(STORE),
        confirm=True,
    ),
    runs(LOST, "hanse store enrol --folder /var/lib/hanse --certificate luebeck"),
    by_hand(LOST, "Then the same, without `--replace`", rejoins),
    by_hand(LOST, "If it cannot be restored", lose_the_head),
    runs(
        LOST,
        "hanse store ledger accept-head PATH",
        the_ledger_goes_on,
        names={"PATH": "."},
        confirm=True,
    ),
]


# A coordinator, day two, to the end


def trust_a_company(walk: Walk) -> None:
    walk.company.save_root(walk.folder.path / "company-ca.pem")
    with (walk.folder.path / "federation.toml").open("a") as file:
        file.write('\n[enrolment]\nca = "company-ca.pem"\n')


def vouched_for(walk: Walk, done: Done) -> None:
    assert "vouched for by the company" in done.err
    enrol.accept_certificate(walk.stores[COMPANY], walk.folder.certificate(COMPANY))
    ends = Certificate.load(walk.stores[COMPANY].certificate).valid_until
    assert ends < Certificate.load(walk.stores[STORE].certificate).valid_until


def up_again(walk: Walk, done: Done) -> None:
    comes_up(walk, walk.start("hanse server up --folder /var/lib/hanse", at=COORDINATOR))
    walk.wait_until_online("bremen", "danzig", STORE)


def hand_out(walk: Walk) -> None:
    for name in ("bremen", "danzig", STORE, COMPANY):
        walk.take_in(name)
    walk.wait_until_online("bremen", "danzig", STORE, COMPANY)


def the_leaver_was_in_the_first_round(walk: Walk, done: Done) -> None:
    state = walk.status()["run"]
    assert (state["state"], state["round"]) == ("finished", ROUNDS)
    lines = [line for line in read_stages(walk.run_dir(walk.run_name)) if line["stage"] == "train"]
    assert [line["replies"] for line in lines] == [4, 3]
    assert list(lines[1]["refusals"]) == [STORE]
    assert "[store-left]" in lines[1]["refusals"][STORE]
    assert "[store-left]" in walk.joined[STORE].said()
    assert len(walk.charges(STORE)) == ROUNDS + 1


def hold_something_against_it(walk: Walk) -> None:
    """What the coordinator writes down when a store's shares are proven to be wrong."""
    Blame(walk.folder.path).exclude({STORE: "wrong-share"}, number=1)


def without(store: str) -> Check:
    def check(walk: Walk, done: Done) -> None:
        assert store not in signed_manifest(walk.folder).stores
        assert walk.folder.certificate(store).exists(), "it stays admitted"

    return check


def answers_on_ipv6(walk: Walk, started) -> None:
    walk.wait_until_answers(started, walk.port, "/healthz", host="[::1]")
    started.stop()


def nothing(walk: Walk) -> None:
    """There is nothing that it could be tried on here."""


NEXT_RUNS = [
    by_hand(SERVER_2, "**Certificates of a company.**", trust_a_company),
    runs(
        SERVER_2,
        "hanse server admit",
        vouched_for,
        adds=lambda walk: (
            walk.desk(COORDINATOR) / f"{COMPANY}.request",
            "--authority-key",
            walk.desk(AUTHORITY) / AUTHORITY_KEY_FILE,
        ),
    ),
    runs(
        SERVER_2,
        "hanse server revoke luebeck --folder /var/lib/hanse",
        is_out(LATE),
        names={STORE: LATE},
    ),
    runs(SERVER_2, "hanse server down", up_again),
    starts(SERVER_2, "hanse server watch --folder /var/lib/hanse", answers("/"), adds=port),
    starts(
        SERVER_2,
        "hanse server metrics --folder /var/lib/hanse",
        answers("/healthz", "/readyz", "/metrics"),
        adds=port,
    ),
    runs(SERVER_2, "hanse server tls renew --folder /var/lib/hanse"),
    runs(SERVER_2, "hanse server status --folder /var/lib/hanse", says("finished", STORE)),
    runs(
        SERVER_2,
        "hanse server manifest sign --folder /var/lib/hanse --continue-from NAME "
        "--authority-key authority.key",
        signed("bremen", "danzig", STORE, COMPANY),
    ),
    by_hand(SERVER_2, "hand out the terms", hand_out),
    runs(
        LEAVING,
        "hanse store leave --folder /var/lib/hanse --after-round 12",
        names={"12": "1"},
    ),
    runs(SERVER_2, "hanse server run", the_leaver_was_in_the_first_round),
    by_hand(SERVER_2, "`excluded` after proof", hold_something_against_it),
    runs(SERVER_2, "hanse server blame --folder /var/lib/hanse", says("excluded", "wrong-share")),
    runs(
        SERVER_2,
        "hanse server blame --folder /var/lib/hanse --readmit luebeck",
        says("takes part again"),
    ),
    runs(
        LEAVING,
        "hanse server manifest sign --folder /var/lib/hanse --without luebeck "
        "--authority-key authority.key",
        without(STORE),
    ),
    runs(TOLD, "hanse server notify"),
    runs(TOLD, "hanse store notify"),
    instead(TOLD, "systemctl status", "no service manager runs the tests", nothing),
    instead(
        PAGES,
        "ssh -L 9466:127.0.0.1:9466 hanse.example.org",
        "the page and the browser are on one machine here",
        nothing,
    ),
    starts(
        PAGES,
        "hanse server watch --folder /var/lib/hanse --public-host watch.example.org",
        answers("/"),
        adds=port,
    ),
    instead(PORTS, "ulimit -Hn", "the limit is this machine's and stays as it is", nothing),
    runs(
        PORTS,
        "hanse server init --name baltic --address '[2001:db8::7]:9443' --bind '[::]'",
        at="on-ipv6",
    ),
    starts(PORTS, "hanse store metrics --host ::1", answers_on_ipv6, adds=port),
]

CHAPTERS = {
    "day one": DAY_ONE,
    "a store's day two": STORE_DAY_TWO,
    "new terms": NEW_TERMS,
    "something is lost": SOMETHING_IS_LOST,
    "next runs": NEXT_RUNS,
}
ELSEWHERE = {
    "hanse plan": "tests/cli/test_plan_cli.py::"
    "test_the_grocery_recipe_prints_what_the_documentation_says",
}
"""Commands that sentences name and other tests run."""
STEPS = [step for chapter in CHAPTERS.values() for step in chapter]


def ordered(section: str) -> list[str]:
    """The lines of a section's steps, in their order."""
    return [step.line for step in STEPS if step.section == section and step.how != "by hand"]


@pytest.mark.parametrize("section", sections(operators_page()))
def test_every_command_of_the_page_is_a_step_in_the_order_of_the_page(section: str):
    steps = ordered(section)
    for line in commands(sections(operators_page())[section]):
        if steps[:1] == [line]:
            steps.pop(0)
        else:
            alone = line.startswith("hanse ") and name_of(line) == line
            assert alone, f"say in STEPS how `{line}` is tried; next is {steps[:1]}"
    assert not steps, "the page does not show these, or in another order"


def test_every_command_that_a_sentence_names_is_run_in_full():
    text = "".join(sections(operators_page()).values())
    named = {line for line in commands(text) if name_of(line) == line and line[:6] == "hanse "}
    run = {name_of(step.line) for step in STEPS if step.how in ("runs", "starts")}
    assert named - run - set(ELSEWHERE) == set()
    for test in ELSEWHERE.values():
        file, _, function = test.partition("::")
        assert f"def {function}(" in (ROOT / file).read_text(encoding="utf-8")


def test_whatever_is_done_by_hand_or_instead_is_on_the_page():
    page = sections(operators_page())
    for step in STEPS:
        assert step.how != "by hand" or step.line in page[step.section], step.line
        assert bool(step.reason) == (step.how == "instead")


@pytest.fixture(scope="module")
def walk(secure_stores, store_cache, tmp_path_factory) -> Iterator[Walk]:
    settings = secure_stores[0].with_changes(
        {
            "federation.rounds": ROUNDS,
            "federation.evaluate_every": ROUNDS,
            "federation.minimum_cohort": 3,
            "federation.spare_exchanges": 20,
            "privacy.noise_multiplier": 20.0,
        }
    )
    made = make_stores(settings.data, seed=settings.seed, cache=store_cache)
    root = tmp_path_factory.mktemp("page")
    # A copy, as a customer is deleted from it.
    shops = shutil.copytree(made.folders[0].parent, root / "shops")
    walk = Walk(
        root,
        {name: shops / data.name for name, data in zip(NAMES, made.folders, strict=True)},
        {"minimum_cohort": 3, "max_epsilon": 60.0},
    )
    walk.settings, walk.catalogue = settings, shops / "catalogue.parquet"
    walk.encoder = tiny_encoder(root / "encoder")
    try:
        yield walk
    finally:
        walk.close()


@pytest.mark.slow
@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_page_does_what_it_says(walk: Walk, chapter: str):
    """In their order, since each chapter goes on from what the one before has left."""
    assert walk.chapters == list(CHAPTERS)[: len(walk.chapters)], "a chapter before this failed"
    for step in CHAPTERS[chapter]:
        try:
            step.take(walk)
        except BaseException as error:
            error.add_note(f"at `{step.line}` in {step.section!r} of docs/operators.md")
            raise
    walk.chapters.append(chapter)


@pytest.mark.slow
def test_the_ledgers_are_true_after_all_of_it(walk: Walk):
    assert walk.chapters == list(CHAPTERS)
    assert walk.audit()["ok"]
