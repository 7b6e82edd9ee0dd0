"""A whole federation in one process, over real bytes, for tests to tamper with.

Every message crosses `encode` and `decode`; every store is put away and resumed between
stages, as in production. `to_store` and `to_coordinator` sit on the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from hanse_common.errors import ProtocolError
from hanse_common.identity import AuthorityKey, Certificate, StoreKey
from hanse_common.secagg import (
    Aggregate,
    Attempt,
    Coordinator,
    Header,
    Journal,
    Layout,
    Section,
    Store,
    Terms,
    decode,
)
from hanse_common.secagg.messages import Hello, Message

NOW = 1_750_000_000
STAGES = ("hello", "share", "mask", "confirm", "unmask")
Tamper = Callable[[str, Message], Message | bytes | None]


def unchanged(name: str, message: Message) -> Message:
    return message


def header(*, run: int = 7, round: int = 3, attempt: int = 1, **other: bytes) -> Header:
    digests = {"manifest_digest": b"M" * 32, "model_digest": b"W" * 32} | other
    return Header(run=run, round=round, attempt=attempt, **digests)


HEADER = header()


def names(count: int) -> list[str]:
    return [f"store-{index:03}" for index in range(count)]


def is_wiped(store: Store) -> bool:
    state = store._state
    singles = (state.mask_key, state.share_key, state.seed)
    many = (state.channels, state.pairs, state.mask_key_shares, state.seed_shares)
    return not any(singles) and not any(many)


class Federation:
    def __init__(
        self,
        count: int = 5,
        *,
        length: int = 16,
        header: Header = HEADER,
        authority: AuthorityKey | None = None,
        journals: Mapping[str, Journal] | None = None,
        keys: Mapping[str, StoreKey] | None = None,
        excluded: Collection[str] = (),
        rng: np.random.Generator | None = None,
        **terms: Any,
    ) -> None:
        self.authority = authority or AuthorityKey.generate()
        self.names = names(count)
        terms = {"minimum_cohort": min(5, count), "maximum_cohort": max(count, 5)} | terms
        layout = terms.pop("layout", None) or Layout((Section("update", length, clip=1.0),))
        self.attempt = Attempt(
            header=header,
            terms=Terms(layout=layout, **terms),
            authority=self.authority.public,
            now=NOW,
        )
        self.keys = dict(keys or {name: StoreKey.generate() for name in self.names})
        self.journals = dict(journals or {name: Journal() for name in self.names})
        self.coordinator = Coordinator(self.attempt, excluded=frozenset(excluded))
        self.stores: dict[str, Store] = {}
        rng = rng or np.random.default_rng(1)
        bound = layout.sections[0].bound
        self.vectors = {
            name: rng.integers(-bound // 8, bound // 8, layout.length) for name in self.names
        }
        self.errors: list[tuple[str, ProtocolError]] = []

    # Parts

    def certificate(self, name: str, **changes: Any) -> Certificate:
        fields = {"valid_from": NOW - 10, "valid_until": NOW + 10} | changes
        return self.authority.certify(name, self.keys[name].public, **fields)

    def start(self, name: str, attempt: Attempt | None = None) -> Store:
        store = Store.start(
            attempt or self.attempt,
            key=self.keys[name],
            certificate=self.certificate(name),
            journal=self.journals[name],
        )
        self.journals[name] = store.journal
        self.stores[name] = store
        return store

    def restored(self, name: str) -> Store:
        """Put the store away and take it out again."""
        old = self.stores[name]
        store = Store.resume(
            old.attempt, old.encode(), key=self.keys[name], journal=self.journals[name]
        )
        self.stores[name] = store
        return store

    def reply(self, name: str, message: Message) -> Message:
        """What an honest store answers to a message of the coordinator."""
        store = self.restored(name)
        try:
            match type(message).__name__:
                case "Roster":
                    answer: Message = store.share(message)
                case "Delivery":
                    store.accept(message)
                    answer = store.mask(self.vectors[name])
                case "Survivors":
                    answer = store.confirm(message)
                case "UnmaskRequest":
                    answer = store.unmask(message)
                case other:
                    raise ValueError(other)
        finally:
            self.journals[name] = store.journal
        return answer

    def receive(self, message: Message | bytes) -> None:
        data = message if isinstance(message, bytes) else message.encode()
        self.coordinator.receive(decode(data))

    def forged_hello(self, name: str, **changes: Any) -> Hello:
        """A Hello with some fields replaced, signed by the store's own key."""
        return replace(self.stores[name].hello, **changes).sign(self.keys[name])

    # Whole rounds

    def up_to(
        self,
        stage: str,
        *,
        drop: Mapping[str, Collection[str]] | None = None,
        to_store: Tamper = unchanged,
        to_coordinator: Tamper = unchanged,
    ) -> dict[str, Message]:
        """Run the stages before `stage`; return what the coordinator sends for it.

        A store whose check fails leaves with a signed refusal. What the coordinator
        refuses is noted in `errors`.
        """
        drop = drop or {}
        outgoing: dict[str, Message] = {}
        for current in STAGES[: STAGES.index(stage)] if stage != "end" else STAGES:
            present = self.names if current == "hello" else list(outgoing)
            for name in present:
                if name in drop.get(current, ()):
                    continue
                self._one(current, name, outgoing.get(name), to_store, to_coordinator)
            if current != "unmask":
                outgoing = self.coordinator.advance()
        return outgoing

    def run(self, **hooks: Any) -> Aggregate:
        self.up_to("end", **hooks)
        return self.coordinator.finish()

    def _one(
        self,
        stage: str,
        name: str,
        message: Message | None,
        to_store: Tamper,
        to_coordinator: Tamper,
    ) -> None:
        try:
            if message is None:
                answer: Message = self.start(name).hello
            else:
                altered = to_store(name, message)
                if altered is None:
                    return
                data = altered if isinstance(altered, bytes) else altered.encode()
                answer = self.reply(name, decode(data))
        except ProtocolError as error:
            self.errors.append((name, error))
            self.receive(self.stores[name].refuse(error))
            return
        try:
            sent = to_coordinator(name, answer)
            if sent is not None:
                self.receive(sent)
        except ProtocolError as error:
            self.errors.append((name, error))

    def expected(self, survivors: Collection[str]) -> np.ndarray:
        return np.sum([self.vectors[name] for name in survivors], axis=0)

    def assert_exact(self, aggregate: Aggregate) -> None:
        np.testing.assert_array_equal(aggregate.total, self.expected(aggregate.survivors))

    def next_attempt(self, *, excluded: Collection[str] = ()) -> Federation:
        """The same people in attempt + 1, with journals carried over."""
        before = self.attempt
        again = Federation.__new__(Federation)
        again.__dict__.update(self.__dict__)
        new_header = replace(before.header, attempt=before.header.attempt + 1)
        again.attempt = replace(before, header=new_header)
        again.coordinator = Coordinator(again.attempt, excluded=frozenset(excluded))
        again.stores, again.errors = {}, []
        return again
