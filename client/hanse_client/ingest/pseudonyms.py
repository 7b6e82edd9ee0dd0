"""Customer ids become pseudonyms under a key that never leaves the store.

HMAC-SHA256 (RFC 2104), truncated to 128 bits.

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

KEY_BYTES = 32


def pseudonymise(ids: pl.Series, key: bytes, *, domain: str = "customer") -> pl.Series:
    """Replace ids by HMAC-SHA256 pseudonyms: 32 hex digits, the same for the same id.

    Args:
        ids: Strings; (n,). Null stays null.
        key: 32 secret bytes.
        domain: Separates kinds of ids, so that equal ids of two kinds do not match.

    Guarantees:
        Without the key a pseudonym says nothing about the id, and ids cannot be guessed by
        trying them out. Collisions have a chance of n² / 2^129.

    Edge cases:
        Who holds the key can re-identify everybody in the store's customer list: pseudonyms
        are personal data.

    Raises:
        ConfigError: The key is not of 32 bytes.
    """
    if len(key) != KEY_BYTES:
        raise ConfigError(f"the pseudonym key has {len(key)} bytes, not {KEY_BYTES}")
    unique = ids.drop_nulls().unique()
    prefix = domain.encode() + b"\0"
    pseudonyms = [
        hmac.digest(key, prefix + value.encode(), "sha256")[:16].hex() for value in unique
    ]
    return ids.replace_strict(
        unique, pl.Series(pseudonyms, dtype=pl.String), default=None, return_dtype=pl.String
    )


def home_lots(ids: pl.Series, key: bytes) -> pl.Series:
    """Draw the lot that decides at which store a person may be trained on.

    Args:
        ids: Loyalty ids as all stores know them; (n,), none null.
        key: 32 bytes that the stores share.

    Returns:
        Numbers below 2^63, (n,): the same for the same id at every store that has the key.

    Guarantees:
        Case, spaces, punctuation, width and leading zeros of an id do not matter: a person
        whose id one store writes `0012-AB` and another `12ab` has one home. Two people who
        share a lot for that reason have the same home, which costs nobody anything.

    Edge cases:
        Stores that number the same person differently give them several homes.

    Raises:
        ConfigError: The key is not of 32 bytes.
    """
    spelt = ids.map_elements(_spelling, return_dtype=pl.String)
    names = pseudonymise(spelt, key, domain="home")
    return names.map_elements(lambda name: int(name[:16], 16) >> 1, return_dtype=pl.Int64)


def _spelling(value: str) -> str:
    """An id as every store would write it.

    >>> _spelling("0012-AB"), _spelling(" １２ab ")
    ('12ab', '12ab')
    """
    plain = unicodedata.normalize("NFKC", value).casefold()
    return "".join(sign for sign in plain if sign.isalnum()).lstrip("0")


def load_key(path: Path) -> bytes:
    """Read a key that somebody gave the store.

    Raises:
        ConfigError: It is missing, others may read it, or it is not of 32 bytes.
    """
    if not path.exists():
        raise ConfigError(
            f"there is no key {path}", hint="ask the federation for it; it is not made here"
        )
    return load_or_make_key(path)


def load_or_make_key(path: Path) -> bytes:
    """Read a store's pseudonym key, or make one that only its owner can read.

    Raises:
        ConfigError: The key cannot be read or written, others may read it, or it is not of
            32 bytes.
    """
    try:
        if not path.exists():
            with suppress(FileExistsError):  # another process was first, and its key counts
                write_new(path, os.urandom(KEY_BYTES))
        mode = path.stat().st_mode
        key = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read or make the pseudonym key {path}: {error.strerror}",
            hint="set pseudonym_key to a file that this user can write",
        ) from error
    if os.name == "posix" and mode & 0o077:
        raise ConfigError(f"the pseudonym key {path} is open to others", hint=f"chmod 600 {path}")
    if len(key) != KEY_BYTES:
        raise ConfigError(
            f"the pseudonym key {path} has {len(key)} bytes, not {KEY_BYTES}",
            hint="restore it from its backup; a new key gives every customer a new pseudonym",
        )
    return key
