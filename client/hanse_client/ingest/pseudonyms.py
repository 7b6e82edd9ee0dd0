"""Pseudonyms of customer ids, under a key that never leaves the store.

A pseudonym is an HMAC-SHA256 (RFC 2104) truncated to 128 bits.

>>> ids = pl.Series(["ada", "bob", "ada", None])
>>> first, second, third, missing = pseudonymise(ids, bytes(32))
>>> first == third != second, len(first), missing
(True, 32, None)
"""

from __future__ import annotations

import hmac
import os
import unicodedata
from contextlib import suppress
from pathlib import Path

import polars as pl

from hanse_common.durable import write_new
from hanse_common.errors import ConfigError

_KEY_BYTES = 32


def pseudonymise(ids: pl.Series, key: bytes, *, domain: str = "customer") -> pl.Series:
    """Replace ids by HMAC-SHA256 pseudonyms: 32 hex digits, the same for the same id.

    Args:
        ids: Strings; (n,). Null stays null.
        key: 32 secret bytes.
        domain: Separates kinds of ids, so that equal ids of two kinds do not match.

    Guarantees:
        Without the key a pseudonym reveals nothing about the id, and ids cannot be found by
        trying them out. The probability of a collision among n ids is n² / 2^129.

    Edge cases:
        With the key, every customer on the store's list can be re-identified: pseudonyms
        remain personal data.

    Raises:
        ConfigError: The key does not have 32 bytes.
    """
    if len(key) != _KEY_BYTES:
        raise ConfigError(f"the pseudonym key has {len(key)} bytes, not {_KEY_BYTES}")
    unique = ids.drop_nulls().unique()
    # The zero byte ends the domain, so that no domain and id run together into another pair.
    prefix = domain.encode() + b"\0"
    pseudonyms = [
        hmac.digest(key, prefix + value.encode(), "sha256")[:16].hex() for value in unique
    ]
    return ids.replace_strict(
        unique, pl.Series(pseudonyms, dtype=pl.String), default=None, return_dtype=pl.String
    )


def visit_seed(key: bytes) -> int:
    """A seed of 64 bits for hashes of visits, which only the store's own process sees."""
    return int.from_bytes(hmac.digest(key, b"visit\0", "sha256")[:8], "big")


def home_lots(ids: pl.Series, key: bytes) -> pl.Series:
    """Keyed hashes that decide which one store may train on a person.

    Args:
        ids: Loyalty ids that all stores have in common; (n,), none null.
        key: 32 bytes that the stores share.

    Returns:
        Integers in [0, 2^63), (n,): the same for the same id at every store that has the key.

    Guarantees:
        Case, spaces, punctuation, width and leading zeros of an id do not matter: a person
        whose id is `0012-AB` at one store and `12ab` at another has one home. Two people
        whose ids differ only in this way share a home, which does no harm.

    Edge cases:
        A person who has different loyalty ids at two stores has several homes.

    Raises:
        ConfigError: The key does not have 32 bytes.
    """
    spelt = ids.map_elements(_spelling, return_dtype=pl.String)
    names = pseudonymise(spelt, key, domain="home")
    # 63 bits: polars and numpy hold the number in a signed 64-bit integer.
    return names.map_elements(lambda name: int(name[:16], 16) >> 1, return_dtype=pl.Int64)


def _spelling(value: str) -> str:
    """The normal form of an id, in which the spellings of all stores agree.

    >>> _spelling("0012-AB"), _spelling(" １２ab ")
    ('12ab', '12ab')
    """
    plain = unicodedata.normalize("NFKC", value).casefold()
    return "".join(sign for sign in plain if sign.isalnum()).lstrip("0")


def load_key(path: Path) -> bytes:
    """Read a key that the store was given and must not create itself.

    Raises:
        ConfigError: It is missing, other users can read it, or it does not have 32 bytes.
    """
    if not path.exists():
        raise ConfigError(
            f"there is no key {path}", hint="ask the federation for it; stores do not create it"
        )
    return load_or_make_key(path)


def load_or_make_key(path: Path) -> bytes:
    """Read a store's pseudonym key, or create one that only its owner can read.

    Raises:
        ConfigError: The key cannot be read or written, other users can read it, or it does not
            have 32 bytes.
    """
    try:
        if not path.exists():
            with suppress(FileExistsError):  # another process was first; its key is read below
                write_new(path, os.urandom(_KEY_BYTES))
        mode = path.stat().st_mode
        key = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read or create the pseudonym key {path}: {error.strerror}",
            hint="set pseudonym_key to a file that this user can write",
        ) from error
    if os.name == "posix" and mode & 0o077:
        raise ConfigError(
            f"other users can read the pseudonym key {path}", hint=f"chmod 600 {path}"
        )
    if len(key) != _KEY_BYTES:
        raise ConfigError(
            f"the pseudonym key {path} has {len(key)} bytes, not {_KEY_BYTES}",
            hint="restore it from its backup; a new key gives every customer a new pseudonym",
        )
    return key
