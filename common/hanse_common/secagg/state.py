"""A store's state between the stages of one attempt.

A store's process may end after every stage, and the next one continues from the bytes that
`StoreState.encode` returns. They are secret: store them where only the store can read them, and
delete them when the attempt ends.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self, TypeVar

from hanse_common.codec import Reader, Writer
from hanse_common.errors import MalformedMessage
from hanse_common.secagg.keys import KEY_SIZE, ExchangeKey, Secret, ShareKey
from hanse_common.secagg.messages import Hello
from hanse_common.secagg.roster import Cohort
from hanse_common.secagg.shamir import SHARE_SIZE
from hanse_common.secagg.stage import Stage
from hanse_common.secagg.terms import LARGEST_COHORT
from hanse_common.secagg.wire import check_increasing, read_indices, write_indices

__all__ = ["Stage", "StoreState"]

_STATE_VERSION = 2
_MAGIC = b"hnss"

Key = TypeVar("Key", ExchangeKey, ShareKey)


@dataclass(slots=True, repr=False)
class StoreState:
    """Everything that a store knows in an attempt; secret."""

    stage: Stage
    hello: Hello
    mask_key: ExchangeKey | None = None
    share_key: ShareKey | None = None
    seed: Secret | None = None
    cohort: Cohort | None = None
    channels: dict[int, Secret] = field(default_factory=dict)
    """X25519 secrets of the share keys, by roster index."""
    pairs: dict[int, Secret] = field(default_factory=dict)
    """X25519 secrets of the mask keys, by roster index."""
    mask_key_shares: dict[int, Secret] = field(default_factory=dict)
    """Shares of the mask keys of all stores, this one included, by the dealer's roster index."""
    seed_shares: dict[int, Secret] = field(default_factory=dict)
    """Shares of the seeds, likewise."""
    sharers: tuple[int, ...] = ()
    survivors: tuple[int, ...] = ()

    def released_shares(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """Return seed shares of the survivors and mask-key shares of the other sharers."""
        # Never both of one store: together they would reveal its vector.
        alive = set(self.survivors)
        dropped = [index for index in self.sharers if index not in alive]
        return (
            tuple(self.seed_shares[index].reveal() for index in self.survivors),
            tuple(self.mask_key_shares[index].reveal() for index in dropped),
        )

    def wipe_own(self) -> None:
        """Overwrite the secrets of stages 0 to 2: own keys, seed, channels and pair secrets."""
        for secret in (self.mask_key, self.seed):
            if secret is not None:
                secret.wipe()
        self.mask_key = self.seed = None
        self.wipe_channels()
        _wipe(self.pairs)

    def wipe_channels(self) -> None:
        """Overwrite the share key and the secrets that sealed and opened shares."""
        if self.share_key is not None:
            self.share_key.wipe()
        self.share_key = None
        _wipe(self.channels)

    def wipe(self) -> None:
        """Overwrite every secret."""
        self.wipe_own()
        _wipe(self.mask_key_shares)
        _wipe(self.seed_shares)

    def encode(self) -> bytes:
        """Return the state as bytes; they are as secret as the keys in them."""
        writer = Writer().raw(_MAGIC).u16(_STATE_VERSION).u8(self.stage).blob(self.hello.encode())
        for key in (self.mask_key, self.share_key):
            writer.blob(key.secret.reveal() if key else b"")
        writer.blob(self.seed.reveal() if self.seed else b"")
        writer.blob(self.cohort.encode() if self.cohort else b"")
        for secrets in (self.channels, self.pairs, self.mask_key_shares, self.seed_shares):
            writer.u32(len(secrets))
            for index, secret in sorted(secrets.items()):
                writer.u32(index).raw(secret.reveal())
        write_indices(writer, self.sharers)
        write_indices(writer, self.survivors)
        return writer.finish()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read the output of `encode`.

        Raises:
            MalformedMessage: It is not a store's state, or lacks what its stage needs.
        """
        reader = Reader(data, "state")
        if reader.raw(len(_MAGIC)) != _MAGIC or reader.u16() != _STATE_VERSION:
            raise MalformedMessage(f"this is not a store's state of version {_STATE_VERSION}")
        stage = reader.u8()
        if stage not in set(Stage):
            raise MalformedMessage(f"state has stage {stage}")
        state = cls(
            stage=Stage(stage),
            hello=Hello.decode(reader.blob()),
            mask_key=_read_key(reader, ExchangeKey),
            share_key=_read_key(reader, ShareKey),
            seed=_read_seed(reader),
            cohort=_read_cohort(reader),
            channels=_read_secrets(reader, KEY_SIZE),
            pairs=_read_secrets(reader, KEY_SIZE),
            mask_key_shares=_read_secrets(reader, SHARE_SIZE),
            seed_shares=_read_secrets(reader, SHARE_SIZE),
            sharers=read_indices(reader),
            survivors=read_indices(reader),
        )
        reader.end()
        # Without this check a state cut short by a bug would fail deep inside a later stage.
        state._check_complete()
        return state

    def _check_complete(self) -> None:
        """Check that the state holds everything that the stages after its own need.

        Raises:
            MalformedMessage: It does not.
        """
        # These have wiped their secrets, and no stage follows.
        if self.stage in (Stage.FINISHED, Stage.ABORTED):
            return
        if self.stage is Stage.GREETED:
            complete = None not in (self.mask_key, self.share_key, self.seed)
        else:
            names = [peer.store_id for peer in self.cohort.peers] if self.cohort else []
            own, everybody = self.hello.store_id, set(range(len(names)))
            others = {index for index in everybody if names[index] != own}
            sharers, survivors = set(self.sharers), set(self.survivors)
            # Before stage 2 a store holds only the shares of its own secrets.
            shares = sharers or everybody - others
            complete = (
                len(everybody) - len(others) == 1
                and sharers <= everybody
                and survivors <= sharers
                and shares <= self.mask_key_shares.keys() & self.seed_shares.keys()
            )
            if self.stage is Stage.SHARED:
                complete &= self.share_key is not None and others <= self.channels.keys()
            if self.stage in (Stage.SHARED, Stage.ACCEPTED):
                complete &= self.seed is not None and others <= self.pairs.keys()
            if self.stage is not Stage.SHARED:
                complete &= bool(sharers)
        if not complete:
            raise MalformedMessage(
                f"state has {self.stage.name.lower()}, but lacks what the next stage needs"
            )

    def __repr__(self) -> str:
        return f"StoreState({self.hello.store_id!r}, {self.stage.name}, <secret>)"


def _wipe(secrets: dict[int, Secret]) -> None:
    for secret in secrets.values():
        secret.wipe()
    secrets.clear()


def _read_key(reader: Reader, kind: type[Key]) -> Key | None:
    data = _read_optional(reader)
    return kind(data) if data else None


def _read_seed(reader: Reader) -> Secret | None:
    data = _read_optional(reader)
    return Secret(data) if data else None


def _read_optional(reader: Reader) -> bytes:
    data = reader.blob(KEY_SIZE)
    if len(data) not in (0, KEY_SIZE):
        raise MalformedMessage(f"state has a key of {len(data)} bytes")
    return data


def _read_cohort(reader: Reader) -> Cohort | None:
    data = reader.blob()
    if not data:
        return None
    inner = Reader(data, "state")
    cohort = Cohort.read(inner)
    inner.end()
    return cohort


def _read_secrets(reader: Reader, size: int) -> dict[int, Secret]:
    def entry() -> tuple[int, Secret]:
        return reader.u32(), Secret(reader.raw(size))

    entries = reader.many(entry, size=4 + size, limit=LARGEST_COHORT)
    check_increasing([index for index, _ in entries])
    return dict(entries)
