"""Arrays by customer: lots, who is at home at a store, and what each adds to a sum.

What one customer can add to a sum that leaves a store is decided here, for every task.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from hanse_common.errors import ConfigError

Ints = npt.NDArray[np.int64]
_LOT_BITS = 53
"""A float64 holds so many bits exactly."""


def lots(customers: Iterable[str], *, key: str) -> npt.NDArray[np.float64]:
    """Draw a number for each customer, by HMAC-SHA256 of their id.

    Whoever samples customers, deals them out to stores or holds some of them out takes lots, and
    never the place in a list or a shuffle of it: there, one customer fewer moves all others.

    Args:
        customers: N ids.
        key: What the lots are for, and the seed; another key draws other numbers. Public.

    Returns:
        [N] in [0, 1), as if drawn evenly.

    Guarantees:
        A customer's number depends on their own id and the key alone.

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


def at_home(homes: Ints, index: int, stores: int, *, hint: str) -> npt.NDArray[np.bool_]:
    """Whose home is the store with this index among `stores`.

    Args:
        homes: [N] keyed hashes of the customers; -1 if unknown.
        index: Of the store.
        stores: How many there are.
        hint: What to do where homes are not known.

    Returns:
        [N].

    Raises:
        ConfigError: A customer's home is not known.

    Example:
        >>> at_home(np.array([4, 5, 7]), 1, 3, hint="").tolist()
        [True, False, True]
    """
    if (homes < 0).any():
        raise ConfigError(
            "the federation trains on each person at one store only, and this store does "
            "not know which",
            hint=hint,
        )
    found: npt.NDArray[np.bool_] = homes % stores == index
    return found


def customers_and_means(
    customers: Ints,
    values: dict[str, npt.NDArray[np.float64]],
    *,
    allowed: Ints | None = None,
) -> dict[str, float]:
    """Add up over customers: 1, and the mean of each customer's own values.

    Args:
        customers: [E] whose entry it is.
        values: [E] by name.
        allowed: The customers to count; all if left out.

    Returns:
        `customers`, and a sum by each name.

    Guarantees:
        A customer adds a number in [0, 1] to each, whatever the values are and however many
        entries they have: what is no number counts as 0, what is outside is moved to the edge.

    Example:
        >>> right = np.array([1.0, 0.0, 1.0])
        >>> customers_and_means(np.array([3, 3, 8]), {"accuracy": right})
        {'customers': 2.0, 'accuracy': 1.5}
    """
    counted = np.isin(customers, customers if allowed is None else allowed)
    _, owner, entries = np.unique(customers[counted], return_inverse=True, return_counts=True)
    sums = {
        name: np.bincount(owner, _within_one(some[counted]), minlength=len(entries))
        for name, some in values.items()
    }
    return {
        "customers": float(len(entries)),
        **{name: float((total / entries).sum()) for name, total in sums.items()},
    }


def _within_one(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A model can be crafted so that one customer's score overflows, and would move a whole sum.

    >>> _within_one(np.array([np.nan, np.inf, -np.inf, 0.5, 7.0])).tolist()
    [0.0, 1.0, 0.0, 0.5, 1.0]
    """
    return np.nan_to_num(values, nan=0.0, posinf=1.0, neginf=0.0).clip(0.0, 1.0)
