"""The first day of a coordinator and of a store, up to a trained model."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Callable

from packaging.requirements import Requirement

from hanse_client.deployment.folder import StoreFolder
from hanse_common.identity import fingerprint
from hanse_common.paths import AUTHORITY_KEY_FILE
from hanse_server.deployment.folder import FederationFolder
from kits.apps.deployment import fill_in
from kits.commands import edit
from kits.company import Company
from kits.deployment import Done, wait_for
from kits.operators.steps import (
    COMPANY,
    ROUNDS,
    SERVER_1,
    STORE_1,
    a_round_is_shown,
    admitted,
    by_hand,
    comes_up,
    instead,
    joins,
    nothing_is_wrong,
    runs,
    signed,
    starts,
    write_settings,
)
from kits.operators.walk import AUTHORITY, COORDINATOR, STORE, Walk
from kits.packages import PROJECT, ROOT


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


def others_come_in(walk: Walk) -> None:
    for name in ("bremen", "danzig"):
        walk.admit(name, walk.ask(name))


def others_join(walk: Walk) -> None:
    walk.take_in("bremen", "danzig")
    walk.wait_until_online(*walk.joined)


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
        adds=lambda walk: ("--bind", "127.0.0.1", "--superlink-port", walk.superlink),
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
