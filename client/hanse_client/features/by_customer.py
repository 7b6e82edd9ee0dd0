"""Per-customer hashing, home stores, and sums in which each customer's part is bounded.

The bound on what one customer adds to an evaluation sum is enforced here for all tasks
(docs/privacy.md, *Counts, losses, evaluations*).
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from hanse_common.errors import ConfigError

Ints = npt.NDArray[np.int64]
_LOT_BITS = 53
"""The precision of a float64: integers below 2^53 are exact."""


def lots(customers: Iterable[str], *, key: str) -> npt.NDArray[np.float64]:
    """Pseudo-random numbers of customers, by HMAC-SHA256 of their ids.

    Use them to sample customers, to assign them to stores or to hold them out. Places in a
    list or a shuffle would not do: removing one customer would move all others.

    Args:
        customers: N ids.
        key: The purpose and the seed; each key gives independent numbers. Public.

    Returns:
        [N] uniform in [0, 1).

    Guarantees:
        A customer's number depends only on their own id and the key.

    Example:
        >>> both = lots(["ann", "bob"], key="sample/7")
        >>> bool(both[1] == lots(["bob"], key="sample/7")[0])
        True
    """
    secret = key.encode()
    heads = [
        int.from_bytes(hmac.digest(secret, name.encode(), "sha256")[:8], "big")
        for name in customers
    ]
    shifted = np.array(heads, dtype=np.uint64) >> np.uint64(64 - _LOT_BITS)
    return shifted.astype(np.float64) / 2.0**_LOT_BITS


def homes_of(customers: Iterable[str], homes: Mapping[str, int]) -> Ints:
    """[N] the keyed hash that decides a customer's home store; -1 if it is unknown.

    Args:
        customers: N pseudonyms.
        homes: Of those whose hash is known.
    """
    return np.array([homes.get(name, -1) for name in customers], dtype=np.int64)


def at_home(homes: Ints, index: int, stores: int, *, hint: str) -> npt.NDArray[np.bool_]:
    """Whether the store with this index is each customer's home.

    Args:
        homes: [N] keyed hashes of the customers; -1 if unknown.
        index: Of the store, in [0, stores).
        stores: Number of stores.
        hint: The error's hint if a home is unknown.

    Returns:
        [N] booleans.

    Raises:
        ConfigError: A customer's home is unknown.

    Example:
        >>> at_home(np.array([4, 5, 7]), 1, 3, hint="").tolist()
        [True, False, True]
    """
    # One unknown home is refused: training on that person anyway would break the manifest's
    # promise that each person is trained on at one store.
    if (homes < 0).any():
        raise ConfigError(
            "the federation trains on each person at one store only, and this store does "
            "not know which",
            hint=hint,
        )
    home: npt.NDArray[np.bool_] = homes % stores == index
    return home


def customers_and_means(
    customers: Ints,
    values: dict[str, npt.NDArray[np.float64]],
    *,
    allowed: Ints | None = None,
) -> dict[str, float]:
    """Sums over customers of 1 and of the mean of each customer's own values.

    Args:
        customers: [E] index of each entry's customer.
        values: Name -> [E].
        allowed: The customers to count; all if left out.

    Returns:
        The number of customers as `customers`, and a sum by each name.

    Guarantees:
        A customer adds a number in [0, 1] to each sum, whatever the values are and however many
        entries they have: NaN counts as 0, and other values are clipped to [0, 1].

    Example:
        >>> right = np.array([1.0, 0.0, 1.0])
        >>> customers_and_means(np.array([3, 3, 8]), {"accuracy": right})
        {'customers': 2.0, 'accuracy': 1.5}
    """
    counted = np.isin(customers, customers if allowed is None else allowed)
    _, owner, entries = np.unique(customers[counted], return_inverse=True, return_counts=True)
    # Clipped before the mean: the sensitivity of 1 must hold for every entry, not on average.
    sums = {
        name: np.bincount(owner, _within_one(entry_values[counted]), minlength=len(entries))
        for name, entry_values in values.items()
    }
    return {
        "customers": float(len(entries)),
        **{name: float((total / entries).sum()) for name, total in sums.items()},
    }


def _within_one(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Values clipped to [0, 1], NaN to 0.

    A model can be crafted so that one customer's score overflows and dominates the sum.

    >>> _within_one(np.array([np.nan, np.inf, -np.inf, 0.5, 7.0])).tolist()
    [0.0, 1.0, 0.0, 0.5, 1.0]
    """
    return np.nan_to_num(values, nan=0.0, posinf=1.0, neginf=0.0).clip(0.0, 1.0)
