"""Steps of a walk along docs/operators.md, and what several of them check."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from hanse_client.deployment import enrol
from hanse_client.deployment.tls_check import handshake
from hanse_common.config import RunSettings
from hanse_common.identity import StoreKey, fingerprint
from hanse_server.deployment.sign import signed_manifest
from kits.deployment import Done, as_toml, free_ports, wait_for
from kits.operators.walk import COORDINATOR, STORE, Walk

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


def admitted(store: str) -> Check:
    def check(walk: Walk, done: Done) -> None:
        key = StoreKey.load(enrol.newest(walk.stores[store].store_key)).public
        assert fingerprint(key) in done.err, "the fingerprint that is compared by phone"
        walk.send(walk.folder.certificate(store), store)

    return check


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


def write_settings(walk: Walk, settings: RunSettings) -> None:
    table = settings.model_dump(mode="json", exclude_none=True)
    (walk.folder.path / "settings.toml").write_text(as_toml(table))


def nothing_is_wrong(walk: Walk, done: Done) -> None:
    assert re.search(r"admission +ok", done.out), done.out


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


def is_out(store: str) -> Check:
    def check(walk: Walk, done: Done) -> None:
        wait_for(lambda: store not in walk.online(), f"{store} offline", 90)
        walk.joined[store].wait_for_end()
        assert "revoked" in walk.joined[store].said()

    return check
