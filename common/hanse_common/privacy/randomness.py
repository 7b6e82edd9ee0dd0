"""Cryptographic randomness for sampling and noise: NumPy over ChaCha20 (RFC 8439).

The output of NumPy's and torch's own generators allows predicting what follows, which would
reveal the noise. Opacus' secure mode needs a package that cannot be installed. `randomgen`
puts a ChaCha20 keystream under NumPy's samplers.

>>> keystream(bytes(32)).integers(2**32, size=2, dtype="uint32").astype("<u4").tobytes().hex()
'76b8e0ada0f13d90'
"""

from __future__ import annotations

import hashlib
import os

import numpy as np

KEY_SIZE = 32


def keystream(key: bytes) -> np.random.Generator:
    """Return a NumPy generator over the ChaCha20 keystream of a 32-byte key.

    The example above is RFC 8439's first test vector (appendix A.1).

    Guarantees:
        Without the key the draws cannot be distinguished from independent ones of the same
        distribution, if ChaCha20 is a secure stream cipher.

    Edge cases:
        The keystream always starts at its beginning: use a key for one purpose, once.
    """
    from randomgen import ChaCha

    # As `key`, which is used as it is; a `seed` would be expanded by SeedSequence.
    return np.random.Generator(ChaCha(key=int.from_bytes(key, "little"), rounds=20))


def fresh_key() -> bytes:
    """Return a new 32-byte key from the operating system's random source."""
    return os.urandom(KEY_SIZE)


def repeatable_key(seed: int, *purpose: int) -> bytes:
    """Return the 32-byte key of one purpose in a simulation; the seed makes it predictable."""
    return hashlib.sha256("/".join(map(str, (seed, *purpose))).encode()).digest()
