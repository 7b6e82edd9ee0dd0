"""Entries of a store's ledger: canonical bytes, hash chain and signature.

Encoding version 1, in the terms of `hanse_common.codec`; floating-point numbers are IEEE 754
doubles, big-endian. `hash = SHA-256("hanse/ledger-entry/1", body)`; the body holds the hash of
the previous entry, or `GENESIS`. The signature is Ed25519 over the hash.

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
"""A charge that was paid; an exchange that was refused; a renewal of the budget; the recovery of
a ledger whose head was lost."""

UNSIGNED = bytes(KEY_SIZE)
"""Stands in place of a signer for a node that is in no federation and has no key."""
_MAX_TEXT = 256  # bytes

_LABEL = b"hanse/ledger-entry/1"
GENESIS = digest(b"hanse/ledger/1")
"""The previous hash of the first entry."""
# The numbers are part of signed bytes and never change; 3 was a kind that is not supported.
_KINDS: Mapping[Kind, int] = {"charge": 0, "refusal": 1, "renewal": 2, "recovery": 4}


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One entry of the ledger.

    Args:
        sequence: Number of the entry, from 1 without gaps.
        kind: See `Kind`.
        previous: Hash of the previous entry, or `GENESIS`.
        time: Unix seconds; never less than the time of the previous entry.
        clock_went_back: Whether the clock showed less than `time`, which is then that of the
            previous entry.
        signer: Ed25519 public key, or `UNSIGNED`.
        release: The release that was paid for or refused.
        steps: The accounted steps; None in a renewal or recovery.
        target_delta: The delta at which epsilon is read.
        commitment: SHA-256 of the vector before it was masked, with a salt that only the
            store knows; `NOTHING` if there was no vector.
        epsilon_before: Epsilon of all charges before this entry, at `target_delta`.
        epsilon_after: Epsilon of all charges up to and including this entry.
        max_epsilon: The policy's limit that was in force; 0 without one.
        renews: In a renewal, the policy's date of renewal in Unix seconds.
        accountant: Name and version of the accountant that computed epsilon.
        note: Text for people.
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
        """Whether the entry's steps count towards epsilon."""
        return self.kind == "charge"

    @property
    def hash(self) -> bytes:
        """Hash of this entry, which covers all previous ones through the chain; 32 bytes."""
        return digest(_LABEL, self.body())

    def body(self) -> bytes:
        """Return the canonical encoding of all fields except the signature."""
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
        """Read an entry; its place in the chain and its signature are not checked.

        Raises:
            LedgerError: The bytes are not an entry in canonical form, or of a newer version.
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
                kind=reader.text(_MAX_TEXT),
                mode=reader.text(_MAX_TEXT),
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
            accountant=reader.text(_MAX_TEXT),
            note=reader.text(_MAX_TEXT),
            signature=signature,
        )
        reader.end()
        if entry.spends and entry.steps is None:
            raise LedgerError(f"ledger entry {entry.sequence} is a {entry.kind} without steps")
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
            BadSignature: It is not that signer's signature over this entry.
            LedgerError: The entry is signed but names no signer.
        """
        if self.signer != UNSIGNED:
            verify(self.signer, self.signature, _LABEL, self.hash)
        elif self.signature:
            raise LedgerError(f"ledger entry {self.sequence} is signed but names no signer")


def _double(value: float) -> bytes:
    # NaN has many encodings and equals nothing, and -0.0 equals 0.0 in other bytes: a value
    # must have one encoding, because the hash is over the bytes.
    if math.isnan(value) or math.copysign(1.0, value) < 0:
        raise LedgerError(f"{value} cannot be in a ledger: its numbers are zero or positive")
    return struct.pack(">d", value)


def _number(reader: Reader) -> float:
    data = reader.raw(8)
    value = float(struct.unpack(">d", data)[0])
    if _double(value) != data:
        raise LedgerError(f"{data.hex()} is not a canonical number")
    return value


def _flag(reader: Reader) -> bool:
    value = reader.u8()
    if value > 1:
        raise LedgerError(f"{value} is neither 0 nor 1")
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
