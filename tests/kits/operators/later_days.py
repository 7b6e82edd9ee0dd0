"""A coordinator's ordinary days: a company's store, a revoked one, a run that one leaves."""

from __future__ import annotations

from hanse_client.deployment import enrol
from hanse_common.identity import Certificate
from hanse_common.paths import AUTHORITY_KEY_FILE
from hanse_server.blame import Blame
from hanse_server.deployment.sign import signed_manifest
from hanse_server.stage_log import read_stages
from kits.deployment import Done
from kits.operators.steps import (
    COMPANY,
    LATE,
    LEAVING,
    PAGES,
    PORTS,
    ROUNDS,
    SERVER_2,
    TOLD,
    Check,
    answers,
    by_hand,
    comes_up,
    instead,
    is_out,
    port,
    runs,
    says,
    signed,
    starts,
)
from kits.operators.walk import AUTHORITY, COORDINATOR, STORE, Walk


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
