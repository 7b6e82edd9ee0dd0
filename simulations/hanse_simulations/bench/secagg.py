"""Compare secure aggregation with Flower's SecAgg+: CPU-seconds of a store and the coordinator.

Both run in this process on the same vectors. Ours runs complete rounds: every store, every byte
encoded and decoded, state saved and resumed between stages, drop-outs after shares were dealt.
Flower's runs its own primitives, called as its client mod and its workflow call them; one
store's shares stand for those of all, since the cost does not depend on their values.
Times are CPU-seconds, so that a busy machine changes them little.

>>> row = run(stores=[5], parameters=[1000], reference=False)[0]
>>> row.exact, row.stores, row.bytes_per_parameter < 4.4
(True, 5, True)
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any
from zlib import crc32

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from rich.table import Table

from hanse_common.identity import AuthorityKey, StoreKey
from hanse_common.secagg import (
    Attempt,
    Coordinator,
    Header,
    Journal,
    Layout,
    Section,
    Store,
    Terms,
    decode,
    quantize,
)
from hanse_common.secagg.masking import CHUNK_BYTES, add_masks
from hanse_common.secagg.messages import (
    Delivery,
    MaskedVector,
    Message,
    Roster,
    StoreMessage,
    Survivors,
    UnmaskRequest,
)
from hanse_simulations.bench._flower_secagg import flower_seconds

LARGEST_REFERENCE = 150
"""Largest cohort with a reference: above it, Flower's server takes tens of minutes."""

_NOW = 1_750_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class SecaggRow:
    """Cost of one round; seconds are CPU-seconds.

    Args:
        client_seconds: Median over surviving stores, all stages together.
        server_seconds: The coordinator's, all stages together.
        client_speedup: Flower's client time divided by ours; None if Flower was left out.
        server_speedup: Flower's server time divided by ours; None if Flower was left out.
        bytes_per_parameter: Size of the masked vector's message per parameter.
        share_bytes: Bytes that a store sends in all other messages.
        masking_over_limit: Time of a mask divided by that of one AES-256-CTR keystream and
            one 32-bit addition, measured in the same run.
        exact: Whether the sum equals the plain integer sum.
    """

    stores: int
    parameters: int
    dropouts: float
    client_seconds: float
    server_seconds: float
    client_speedup: float | None
    server_speedup: float | None
    bytes_per_parameter: float
    share_bytes: int
    masking_over_limit: float
    exact: bool
    client_stages: dict[str, float]
    server_stages: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


class _Clock:
    """CPU-seconds by stage."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.stages[name] = self.stages.get(name, 0.0) + time.process_time() - start

    @property
    def total(self) -> float:
        return sum(self.stages.values())


class _Member:
    """A store that keeps only bytes between two stages, as a Flower client does."""

    def __init__(self, name: str, authority: AuthorityKey, attempt: Attempt) -> None:
        self.key = StoreKey.generate()
        self.certificate = authority.certify(
            name, self.key.public, valid_from=_NOW - 1, valid_until=_NOW + 1
        )
        self.name, self.attempt = name, attempt
        self.journal, self.state = Journal(), b""
        self.clock = _Clock()
        self.sent = 0
        section = attempt.terms.layout.sections[0]
        rng = np.random.default_rng(crc32(name.encode()))  # the same vectors in every process
        self.update = rng.normal(0, 1 / math.sqrt(section.length), section.length)
        self.vector = np.zeros(0, np.int64)

    def hello(self) -> bytes:
        with self.clock.stage("hello"):
            store = Store.start(
                self.attempt, key=self.key, certificate=self.certificate, journal=self.journal
            )
            return self._save(store, store.hello)

    def answer(self, data: bytes) -> bytes:
        kind = type(decode(data))
        stage = {Roster: "share", Delivery: "mask", Survivors: "confirm"}.get(kind, "unmask")
        with self.clock.stage(stage):
            store = Store.resume(self.attempt, self.state, key=self.key, journal=self.journal)
            return self._save(store, self._reply(store, decode(data)))

    def _reply(self, store: Store, message: Message) -> Message:
        match message:
            case Roster():
                return store.share(message)
            case Delivery():
                self.vector = quantize(self.update, self.attempt.terms.layout.sections[0])
                store.accept(message)
                return store.mask(self.vector)
            case Survivors():
                return store.confirm(message)
            case UnmaskRequest():
                return store.unmask(message)
        raise TypeError(type(message).__name__)

    def _save(self, store: Store, message: Message) -> bytes:
        self.state, self.journal = store.encode(), store.journal
        data = message.encode()
        if not isinstance(message, MaskedVector):
            self.sent += len(data)
        return data


def run(
    *,
    stores: Sequence[int] = (10,),
    parameters: Sequence[int] = (100_000,),
    dropouts: Sequence[float] = (0.0,),
    reference: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> list[SecaggRow]:
    """Run every combination once.

    Args:
        stores: Cohort sizes.
        parameters: Lengths of the vector.
        dropouts: Fractions of the stores that drop out after dealing shares.
        reference: Whether to run Flower's primitives too (up to `LARGEST_REFERENCE` stores).
        progress: Called with a line before each combination.
    """
    rows = []
    for count in stores:
        for length in parameters:
            for fraction in dropouts:
                progress(f"{count} stores, {length} parameters, {fraction:.0%} drop-outs")
                rows.append(_row(count, length, fraction, reference=reference))
    return rows


def render(rows: Sequence[SecaggRow]) -> Table:
    """Return the rows as a table for a terminal."""
    table = Table(title="Secure aggregation, CPU-seconds a round")
    for heading in (
        "stores",
        "parameters",
        "drop-outs",
        "store s",
        "x Flower",
        "coordinator s",
        "x Flower",
        "bytes/parameter",
        "+ shares",
        "mask / limit",
        "exact",
    ):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            f"{row.stores}",
            f"{row.parameters}",
            f"{row.dropouts:.0%}",
            f"{row.client_seconds:.4f}",
            _times(row.client_speedup),
            f"{row.server_seconds:.4f}",
            _times(row.server_speedup),
            f"{row.bytes_per_parameter:.3f}",
            f"{row.share_bytes}",
            f"{row.masking_over_limit:.2f}",
            "yes" if row.exact else "NO",
        )
    return table


def _times(speedup: float | None) -> str:
    return "-" if speedup is None else f"{speedup:.0f}"


def _row(count: int, length: int, fraction: float, *, reference: bool) -> SecaggRow:
    members, clock, sizes, exact = _round(count, length, fraction)
    client = statistics.median(member.clock.total for member in members)
    stages = {
        stage: statistics.median(member.clock.stages[stage] for member in members)
        for stage in members[0].clock.stages
    }
    theirs = None
    if reference and count <= LARGEST_REFERENCE:
        theirs = flower_seconds(
            stores=count,
            length=length,
            dropped=int(count * fraction),
            threshold=members[0].attempt.terms.threshold(count),
            update=members[0].update,
        )
    return SecaggRow(
        stores=count,
        parameters=length,
        dropouts=fraction,
        client_seconds=client,
        server_seconds=clock.total,
        client_speedup=theirs[0] / client if theirs else None,
        server_speedup=theirs[1] / clock.total if theirs else None,
        bytes_per_parameter=sizes / length,
        share_bytes=members[0].sent,
        masking_over_limit=masking_over_limit(length, streams=min(count, 100)),
        exact=exact,
        client_stages=stages,
        server_stages=clock.stages,
    )


def _round(count: int, length: int, fraction: float) -> tuple[list[_Member], _Clock, int, bool]:
    """Run one round: (survivors, coordinator's clock, bytes of an upload, whether exact)."""
    authority = AuthorityKey.generate()
    attempt = Attempt(
        header=Header(run=1, round=1, attempt=1, manifest_digest=bytes(32), model_digest=bytes(32)),
        terms=Terms(
            layout=Layout((Section("update", length, clip=1.0, scale=2**20),)),
            minimum_cohort=min(5, count),
            maximum_cohort=count,
        ),
        authority=authority.public,
        now=_NOW,
    )
    members = {
        name: _Member(name, authority, attempt)
        for name in (f"store-{index:04}" for index in range(count))
    }
    names = list(members)
    lost = int(count * fraction)
    # Drop-outs are spread evenly over the roster.
    silent = set(names[:: count // lost][:lost]) if lost else set()
    clock, coordinator, size = _Clock(), Coordinator(attempt), 0
    outgoing: dict[str, bytes] = {}
    for stage in ("hello", "share", "mask", "confirm", "unmask"):
        present = names if stage == "hello" else list(outgoing)
        for name in present:
            if stage == "mask" and name in silent:
                continue
            member = members[name]
            data = member.hello() if stage == "hello" else member.answer(outgoing.pop(name))
            size = len(data) if stage == "mask" else size
            with clock.stage(stage):
                message = decode(data)
                if isinstance(message, StoreMessage):
                    coordinator.receive(message)
        if stage != "unmask":
            with clock.stage(stage):
                outgoing = _encode(coordinator.advance())
    with clock.stage("unmask"):
        aggregate = coordinator.finish()
    survivors = [members[name] for name in aggregate.survivors]
    # Compared with the sum in the clear of the very integers that the survivors masked.
    plain = np.sum([member.vector for member in survivors], axis=0)
    return survivors, clock, size, bool(np.array_equal(aggregate.total, plain))


def _encode(messages: dict[str, Message]) -> dict[str, bytes]:
    """Encode each store's message; a message that goes to all of them is encoded once."""
    encoded = {id(message): message for message in messages.values()}
    data = {key: message.encode() for key, message in encoded.items()}
    return {name: data[id(message)] for name, message in messages.items()}


def masking_over_limit(length: int, *, streams: int, repeats: int = 7) -> float:
    """Time of `add_masks` per stream, divided by that of a bare keystream and addition.

    The limit is one AES-256-CTR stream written over one buffer in the core's cache, and one
    addition of that buffer: it sets up no keys and walks no vector. Both are the best of
    `repeats`, since whatever else runs on the machine only adds time.
    """
    words = min(length, CHUNK_BYTES // 4)
    zeros = bytes(4 * words)
    buffer = np.empty(words + 4, np.uint32)
    out, total = buffer.data.cast("B"), np.zeros(words, np.uint32)
    cipher = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16))).encryptor()
    passes = max(1, streams * length // words)

    def limit() -> None:
        for _ in range(passes):
            cipher.update_into(zeros, out)
            np.add(total, buffer[:words], out=total)

    keys = [os.urandom(32) for _ in range(streams)]
    vector = np.zeros(length, np.uint32)
    ours, bare = [], []
    for _ in range(repeats):
        ours.append(_seconds(lambda: add_masks(vector, plus=keys)) / (streams * length))
        bare.append(_seconds(limit) / (passes * words))
    return min(ours) / min(bare)


def _seconds(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start
