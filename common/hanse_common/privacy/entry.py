"""One entry of a store's ledger: canonical bytes, a hash that chains them, a signature.

Encoding version 1, in the terms of `hanse_common.codec`; floating-point numbers are IEEE 754
doubles, big-endian. `hash = SHA-256("hanse/ledger-entry/1", body)`; the body holds the hash of
the entry before, or `GENESIS`. The signature is Ed25519 over the hash.

>>> from hanse_common.identity import StoreKey
>>> key = StoreKey.generate()
>>> entry = Entry(
...     sequence=1, kind="charge", previous=GENESIS, time=1_750_000_000, signer=key.public,
...     release=Release(kind="train", round=3, mode="local"),
...     steps=SampledGaussianSteps(noise_multiplier=2.0, sample_rate=0.1, count=5),
...     target_delta=1e-6, epsilon_after=0.79,
... ).sign(key)
>>> Entry.decode(entry.body(), signature=entry.signature) == entry
True
>>> entry.check_signature()
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Self

from hanse_common.codec import DIGEST_SIZE, Reader, Writer, digest
from hanse_common.errors import LedgerError, MalformedMessage, PrivacyError
from hanse_common.identity import KEY_SIZE, StoreKey, verify
from hanse_common.privacy.accounting import SampledGaussianSteps
from hanse_common.privacy.charge import NOTHING, Release

VERSION = 1
Kind = Literal["charge", "refusal", "renewal", "recovery"]
"""What was paid; what was asked and not done; from where on the budget counts anew; that the
head was lost, and the ledger was taken as it lay there."""

UNSIGNED = bytes(KEY_SIZE)
"""In place of a signer: the node was in no federation, and had no key."""
MAX_TEXT = 256

_LABEL = b"hanse/ledger-entry/1"
GENESIS = digest(b"hanse/ledger/1")
"""What the first entry names as the one before it."""
_KINDS: Mapping[Kind, int] = {"charge": 0, "refusal": 1, "renewal": 2, "recovery": 4}
"""The numbers that stand for kinds in the signed bytes; 3 stands for none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One line of the ledger.

    Args:
        sequence: From 1, without gaps.
        kind: See `Kind`.
        previous: Hash of the entry before, or `GENESIS`.
        time: Unix seconds; never less than that of the entry before.
        clock_went_back: The clock showed less than `time`, which is that of the entry before.
        signer: Ed25519 public key, or `UNSIGNED`.
        release: What left, or was to leave.
        steps: As accounted; None in a renewal or recovery.
        target_delta: At which epsilon is read.
        commitment: SHA-256 of the vector before it was masked, with a salt that the store
            keeps; else `NOTHING`.
        epsilon_before: Of everything in the ledger before this entry, at `target_delta`.
        epsilon_after: Of everything with it.
        max_epsilon: The policy's limit that was in force; 0 if none.
        renews: In a renewal, the time from which the policy lets the budget count anew.
        accountant: Which computed epsilon.
        note: For people.
        signature: 64 bytes; empty if unsigned.
    """

    sequence: int
    kind: Kind
    previous: bytes
    time: int
    clock_went_back: bool = False
    signer: bytes = UNSIGNED
    release: Release = field(default_factory=Release)
    steps: SampledGaussianSteps | None = None
    target_delta: float = 0.0
    commitment: bytes = NOTHING
    epsilon_before: float = 0.0
    epsilon_after: float = 0.0
    max_epsilon: float = 0.0
    renews: int = 0
    accountant: str = ""
    note: str = ""
    signature: bytes = b""

    @property
    def spends(self) -> bool:
        """Whether the steps were paid for."""
        return self.kind == "charge"

    @property
    def hash(self) -> bytes:
        """The 32 bytes that stand for this entry and all before it."""
        return digest(_LABEL, self.body())

    def body(self) -> bytes:
        """Return the canonical encoding of everything but the signature."""
        release, steps = self.release, self.steps
        writer = Writer().u16(VERSION).u64(self.sequence).u8(_KINDS[self.kind])
        writer.raw(self.previous).u64(self.time).u8(self.clock_went_back).raw(self.signer)
        writer.text(release.kind).text(release.mode).raw(_double(release.max_grad_norm))
        writer.u64(release.run).u64(release.round).u64(release.exchange).u8(release.attempt)
        for named in (release.manifest_digest, release.instructions_digest, release.roster_digest):
            writer.raw(named)
        writer.u8(steps is not None)
        if steps is not None:
            writer.raw(_double(steps.noise_multiplier)).raw(_double(steps.sample_rate))
            writer.u64(steps.count).u32(steps.stores)
        writer.raw(_double(self.target_delta)).raw(self.commitment)
        writer.raw(_double(self.epsilon_before)).raw(_double(self.epsilon_after))
        writer.raw(_double(self.max_epsilon)).u64(self.renews)
        return writer.text(self.accountant).text(self.note).finish()

    @classmethod
    def decode(cls, body: bytes, *, signature: bytes = b"") -> Self:
        """Read an entry; neither its place in the chain nor the signature is checked.

        Raises:
            LedgerError: The bytes are no entry in canonical form, or of a newer version.
        """
        try:
            return cls._decode(Reader(body, "ledger entry"), signature)
        except (MalformedMessage, PrivacyError) as error:
            raise LedgerError(error.message, hint=error.hint) from None

    @classmethod
    def _decode(cls, reader: Reader, signature: bytes) -> Self:
        version = reader.u16()
        if version != VERSION:
            raise LedgerError(
                f"ledger entry has version {version}, this is version {VERSION}",
                hint="a newer version of Hanse wrote it: use that one",
            )
        entry = cls(
            sequence=reader.u64(),
            kind=_kind(reader.u8()),
            previous=reader.raw(DIGEST_SIZE),
            time=reader.u64(),
            clock_went_back=_flag(reader),
            signer=reader.raw(KEY_SIZE),
            release=Release(
                kind=reader.text(MAX_TEXT),
                mode=reader.text(MAX_TEXT),
                max_grad_norm=_number(reader),
                run=reader.u64(),
                round=reader.u64(),
                exchange=reader.u64(),
                attempt=reader.u8(),
                manifest_digest=reader.raw(DIGEST_SIZE),
                instructions_digest=reader.raw(DIGEST_SIZE),
                roster_digest=reader.raw(DIGEST_SIZE),
            ),
            steps=_steps(reader) if _flag(reader) else None,
            target_delta=_number(reader),
            commitment=reader.raw(DIGEST_SIZE),
            epsilon_before=_number(reader),
            epsilon_after=_number(reader),
            max_epsilon=_number(reader),
            renews=reader.u64(),
            accountant=reader.text(MAX_TEXT),
            note=reader.text(MAX_TEXT),
            signature=signature,
        )
        reader.end()
        if entry.spends and entry.steps is None:
            raise LedgerError(f"ledger entry {entry.sequence} is a {entry.kind} of nothing")
        return entry

    def sign(self, key: StoreKey) -> Self:
        """Return the entry with the key's signature.

        Raises:
            LedgerError: The entry names another signer.
        """
        if key.public != self.signer:
            raise LedgerError(f"ledger entry {self.sequence} names another signer than this key")
        return replace(self, signature=key.sign(_LABEL, self.hash))

    def check_signature(self) -> None:
        """Check the signature against the signer that the entry names.

        Raises:
            BadSignature: It is not that signer's over this entry.
            LedgerError: The entry names no signer and has a signature all the same.
        """
        if self.signer != UNSIGNED:
            verify(self.signer, self.signature, _LABEL, self.hash)
        elif self.signature:
            raise LedgerError(f"ledger entry {self.sequence} has a signature of nobody")


def _double(value: float) -> bytes:
    if math.isnan(value) or math.copysign(1.0, value) < 0:
        raise LedgerError(f"{value} is no number of a ledger: they are zero or positive")
    return struct.pack(">d", value)


def _number(reader: Reader) -> float:
    data = reader.raw(8)
    value = float(struct.unpack(">d", data)[0])
    if _double(value) != data:
        raise LedgerError(f"{data.hex()} is no canonical number")
    return value


def _flag(reader: Reader) -> bool:
    value = reader.u8()
    if value > 1:
        raise LedgerError(f"{value} is neither yes nor no")
    return bool(value)


def _kind(value: int) -> Kind:
    for kind, number in _KINDS.items():
        if number == value:
            return kind
    raise LedgerError(f"there is no kind {value} of ledger entry")


def _steps(reader: Reader) -> SampledGaussianSteps:
    return SampledGaussianSteps(
        noise_multiplier=_number(reader),
        sample_rate=_number(reader),
        count=reader.u64(),
        stores=reader.u32(),
    )
