"""Random networks: hypothesis drops, delays, repeats and reorders messages between the real
state machines. Whatever it does, a round ends in the exact sum or fails by name, and no
store ever gives both kinds of share.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hanse_common.errors import OutOfTurn, ProtocolError, RoundFailed
from hanse_common.secagg import Aggregate, Stage, decode
from hanse_common.secagg.messages import Message, Unmasking
from kits.federation import STAGES, Federation, is_wiped

DELIVER, DROP, TWICE, LATE, SWAP = range(5)


class Network:
    """Carries bytes between one federation's parties, as a tape of choices says."""

    def __init__(self, federation: Federation, tape: list[int]) -> None:
        self.federation = federation
        self.tape = iter(tape)
        self.late: list[bytes] = []
        self.late_to_store: dict[str, list[Message | None]] = {}
        self.seen: list[Message] = []
        """Everything that a store ever sent, delivered or not."""

    def choice(self) -> int:
        return next(self.tape, DELIVER)

    def run(self, federation: Federation) -> Aggregate:
        self.federation = federation
        outgoing: dict[str, Message] = {}
        for stage in STAGES:
            names = list(federation.names if stage == "hello" else outgoing)
            names += [name for name in self.late_to_store if name not in names]
            for place in range(len(names) - 1):
                if self.choice() == SWAP:
                    names[place], names[place + 1] = names[place + 1], names[place]
            arrived: list[bytes] = []
            for name in names:
                arrived += self._store_turn(name, outgoing.get(name), starts=stage == "hello")
            overdue, self.late = self.late, []
            for data in [*arrived, *overdue]:
                self._to_coordinator(data)
            if stage != "unmask":
                outgoing = federation.coordinator.advance()
        return federation.coordinator.finish()

    def _store_turn(self, name: str, message: Message | None, *, starts: bool) -> list[bytes]:
        """Bring a store its message: now, later, twice or never; return replies that arrive."""
        overdue = self.late_to_store.pop(name, [])
        choice = self.choice()
        due: list[Message | None] = [message] if starts or message is not None else []
        if choice == DROP:
            due = []
        elif choice == LATE and message is not None:
            self.late_to_store[name], due = [message], []
        return self._bring(name, due * (2 if choice == TWICE else 1) + overdue)

    def _bring(self, name: str, messages: list[Message | None]) -> list[bytes]:
        replies: list[bytes] = []
        for message in messages:
            try:
                if message is None:
                    reply: Message = self.federation.start(name).hello
                elif name not in self.federation.stores:
                    continue  # it has nothing to answer from
                else:
                    reply = self.federation.reply(name, decode(message.encode()))
            except ProtocolError as error:
                assert error.code in {"out-of-turn", "attempt-refused", "wrong-header"}, error
                continue
            self.seen.append(reply)
            fate = self.choice()
            if fate == LATE:
                self.late.append(reply.encode())
            elif fate != DROP:
                replies += [reply.encode()] * (2 if fate == TWICE else 1)
        return replies

    def _to_coordinator(self, data: bytes) -> None:
        try:
            self.federation.receive(data)
        except OutOfTurn:
            pass
        except ProtocolError as error:
            assert error.code == "bad-roster", error  # late, from a store never in the roster


def check(count: int, colluders: int, tape: list[int]) -> None:
    federation = Federation(
        count,
        minimum_cohort=max(3, colluders + 2),
        colluders=colluders,
        length=5,
        rng=np.random.default_rng(count),
    )
    network = Network(federation, tape)
    outcomes = []
    for attempt in (1, 2):
        if attempt == 2:
            federation = federation.next_attempt()
        try:
            aggregate = network.run(federation)
        except RoundFailed as error:
            assert "needed are" in error.message
            outcomes.append(None)
            continue
        federation.assert_exact(aggregate)
        cohort = len(federation.coordinator._indices)
        assert len(aggregate.survivors) >= federation.attempt.terms.survivors(cohort)
        outcomes.append(aggregate)
        break
    released: dict[str, int] = {}
    for message in network.seen:
        if isinstance(message, Unmasking):
            released[message.store_id] = released.get(message.store_id, 0) + 1
    assert set(released.values()) <= {1}, "a store released shares twice"
    for name in released:
        store = federation.stores.get(name)
        if store is not None and store.stage is Stage.FINISHED:
            assert is_wiped(store)


TAPES = st.lists(st.sampled_from([DELIVER, DELIVER, DELIVER, DROP, TWICE, LATE, SWAP]), max_size=90)
ROUNDS = given(count=st.integers(3, 8), colluders=st.integers(0, 2), tape=TAPES)
HEALTH = [HealthCheck.too_slow, HealthCheck.filter_too_much]


def run(count: int, colluders: int, tape: list[int]) -> None:
    check(max(count, colluders + 2), colluders, tape)


@settings(max_examples=250, deadline=None, suppress_health_check=HEALTH)
@ROUNDS
def test_random_schedules(count, colluders, tape):
    run(count, colluders, tape)


@pytest.mark.slow
@settings(max_examples=5000, deadline=None, suppress_health_check=HEALTH)
@ROUNDS
def test_thousands_of_random_schedules(count, colluders, tape):
    run(count, colluders, tape)
