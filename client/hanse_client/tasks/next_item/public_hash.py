"""A public hash that decides between equal scores.

The item's number must not decide: research data sets number items in the order in which
customers took them first, so that low numbers are popular.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def hashes(numbers: npt.NDArray[np.integer], salt: Hashes | int = 0) -> Hashes:
    """Pseudo-random 64-bit numbers (SplitMix64: Steele, Lea and Flood 2014).

    Args:
        numbers: Any shape, at least 0.
        salt: Of the same shape, or one number: each gives another order.
    """
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        mixed = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(_STEP) ^ np.asarray(
            salt, np.uint64
        )
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(_FIRST)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(_SECOND)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)), np.uint64)


def of_names(names: Iterable[str]) -> Hashes:
    """64 bits of each name, the same wherever the name occurs.

    >>> bool(of_names(["ann", "bob"])[1] == of_names(["bob"])[0])
    True
    """
    heads = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names]
    return np.frombuffer(b"".join(heads), dtype="<u8").astype(np.uint64)
