"""Randomness that protects people: NumPy's distributions over a ChaCha20 keystream (RFC 8439).

Opacus' own secure mode needs a package that cannot be installed, and the generators that
NumPy and torch bring can be predicted from their output. `randomgen` puts ChaCha20 under
NumPy's samplers.

>>> keystream(bytes(32)).integers(2**32, size=2, dtype="uint32").astype("<u4").tobytes().hex()
'76b8e0ada0f13d90'
"""

from __future__ import annotations

import hashlib
import os

import numpy as np

KEY_SIZE = 32


def keystream(key: bytes) -> np.random.Generator:
    """Return NumPy's sampling methods over the ChaCha20 keystream of a 32-byte key.

    The example above is RFC 8439's first test vector (appendix A.1).

    Guarantees:
        Whoever does not know the key cannot tell the draws from others of the same
        distribution, as far as ChaCha20 with 20 rounds is what it is held to be.
    """
    from randomgen import ChaCha

    return np.random.Generator(ChaCha(key=int.from_bytes(key, "little"), rounds=20))


def fresh_key() -> bytes:
    """Return a key from the operating system."""
    return os.urandom(KEY_SIZE)


def repeatable_key(seed: int, *purpose: int) -> bytes:
    """Return the key of one purpose in a simulation; predictable by whoever knows the seed."""
    return hashlib.sha256("/".join(map(str, (seed, *purpose))).encode()).digest()
