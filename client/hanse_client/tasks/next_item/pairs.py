"""The phase `pairs`: noisy counts of items taken within two steps, on a graph of likely pairs.

Counts of all pairs of items would be almost all noise. Only pairs are counted that the public
vectors, the released popularity and the private head make likely: each item with its best
partners. The graph is post-processing of what was released. Every store must derive the same
graph, so that its computation is exact: vectors are rounded to integers whose inner products,
in any order of summation, are integers that float64 holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hanse_client.features.ragged import Ints, offsets_of
from hanse_client.tasks.contributions import Contributions
from hanse_client.tasks.next_item.exact import Doubles
from hanse_client.tasks.next_item.features import Sequences
from hanse_client.tasks.next_item.public_hash import hashes

PHASE = "pairs"
WINDOW = 2
"""Largest distance of two items of a pair in a customer's sequence."""

_UNIT = 2.0**10
"""Integers for a vector's coordinate of 1."""
_LARGEST = 2.0**12
"""Bound of a query's coordinates. With keys of length 1, inner products stay below 2^37, which
leaves 16 bits of float64 for the tie-break."""
_ROWS = 512

_USUAL_WEIGHT = 0.45
"""What a customer with a pair adds to it, on average: a public constant, from Amazon Beauty."""
_SHAPE = 0.1
"""Of the negative binomial prior: most pairs never occur, a few occur often."""
_MOST = 40
"""Largest count that the posterior considers."""
_LEAST_MEAN = 1e-3
"""Floor of the mean count of a pair: the noise of a small sum can exceed it."""
_CLOSENESS = 5.0
"""Weight of the cosine of two items' vectors in the prior's logarithm."""
_CELLS = 2**16


@dataclass(frozen=True, kw_only=True, slots=True)
class PairBonuses:
    """Log posterior over prior rate of each pair, by either item (CSR)."""

    offsets: Ints
    """[items + 1] where each item's partners begin and end."""
    partners: npt.NDArray[np.int32]
    """[2 * cells] the other item of each pair."""
    values: npt.NDArray[np.float32]
    """[2 * cells] what a partner's score gains."""

    def add_to(self, scores: npt.NDArray[np.float32], items: Ints, weight: float = 1.0) -> None:
        """Add an item's bonuses to scores of all items, in place.

        Args:
            scores: [n, items].
            items: [n] the item of each row, or -1 for none.
            weight: Factor of the bonuses.
        """
        known = np.maximum(items, 0)
        sizes = np.where(items < 0, 0, self.offsets[known + 1] - self.offsets[known])
        rows = np.repeat(np.arange(len(items)), sizes)
        begins = np.repeat(self.offsets[known] - offsets_of(sizes)[:-1], sizes)
        places = begins + np.arange(len(rows))
        # An item has each partner once, so that no sum is lost by indexing.
        scores[rows, self.partners[places]] += np.float32(weight) * self.values[places]


def likely_pairs(
    queries: tuple[Doubles, Doubles],
    keys: tuple[Doubles, Doubles],
    log_popularity: Doubles,
    *,
    partners: int,
) -> Ints:
    """The cells of the phase: each item with its best partners.

    A partner's score is the inner product of query and key plus its log popularity.

    Args:
        queries: ([items, D], [items, C]) of each item as the last one taken: a public part and
            that of the private head; coordinates beyond 2^12 are cut.
        keys: ([items, D], [items, C]) of each partner, rows of length at most 1.
        log_popularity: [items], with the same bits at all stores.
        partners: Number of partners of each item.

    Returns:
        [cells] ascending `first * items + second` with first < second; at most items * partners.

    Guarantees:
        The same for every BLAS, number of threads and size of blocks. Between partners of the
        same score a public hash decides, not the numbers that a catalogue gave them.
    """
    items = len(log_popularity)
    partners = min(partners, items - 1)
    if partners < 1:
        return np.zeros(0, np.int64)
    query = np.concatenate([_integers(part) for part in queries], axis=1)
    key = np.concatenate([_integers(part) for part in keys], axis=1)
    # Products of integers are integers, and their fractions are free for the tie-break.
    order = np.empty(items)
    order[np.argsort(hashes(np.arange(items)), kind="stable")] = np.arange(items)
    offset = np.rint(log_popularity * _UNIT * _UNIT) + order / 2.0 ** items.bit_length()
    found = []
    for start in range(0, items, _ROWS):
        scores = query[start : start + _ROWS] @ key.T
        scores += offset
        own = np.arange(start, start + len(scores))
        scores[np.arange(len(scores)), own] = -np.inf
        # The largest at the end: ten times faster than the smallest of -scores at the start.
        best = np.argpartition(scores, items - partners, axis=1)[:, items - partners :].ravel()
        first = np.repeat(own, partners)
        found.append(np.minimum(first, best) * items + np.maximum(first, best))
    return np.unique(np.concatenate(found)).astype(np.int64)


def _integers(values: Doubles) -> Doubles:
    finite = np.nan_to_num(values, nan=0.0, posinf=_LARGEST, neginf=-_LARGEST)
    return np.rint(finite.clip(-_LARGEST, _LARGEST) * _UNIT)


def rounded_queries(head: npt.NDArray[np.float32], components: Doubles) -> Doubles:
    """The head's answers [items, C] to each item as the only one taken, the same everywhere.

    Args:
        head: [C, C] the columns that read the last item.
        components: [items, C], rows of length at most 1.
    """
    # The integers of both factors are at most 2^22 and 2^10: their products and sums are exact.
    answers: Doubles = _integers(components) @ _integers(head.astype(np.float64)).T
    return answers / (_UNIT * _UNIT)


def contributions(data: Sequences, cells: Ints, length: int) -> Contributions:
    """What each customer adds to the counts of pairs.

    Args:
        data: The training data.
        cells: Of `likely_pairs`.
        length: Length of the vector, at least the number of cells; the rest stays zero.

    Guarantees:
        A customer adds 1/sqrt(m) to each of their m different pairs in `cells`, a row of norm 1,
        or 0 without any; it depends on the customer's own items alone.
    """
    owners, taken = data.owners, data.taken.astype(np.int64)
    places = [np.zeros(0, np.int64)]
    for distance in range(1, WINDOW + 1):
        one, other = taken[:-distance], taken[distance:]
        same = (owners[:-distance] == owners[distance:]) & (one != other)
        key = np.minimum(one, other)[same] * data.items + np.maximum(one, other)[same]
        place = np.searchsorted(cells, key)
        listed = place < len(cells)
        listed[listed] = cells[place[listed]] == key[listed]
        places.append(owners[:-distance][same][listed] * length + place[listed])
    entries = np.unique(np.concatenate(places))
    sizes = np.bincount(entries // length, minlength=len(data)) if length else np.zeros(len(data))
    return Contributions(
        offsets=offsets_of(sizes.astype(np.int64)),
        cells=entries % max(length, 1),
        values=np.repeat(1.0 / np.sqrt(np.maximum(sizes, 1)), sizes.astype(np.int64)),
        length=length,
    )


def pair_bonuses(
    released: Doubles,
    noise: float,
    cells: Ints,
    log_popularity: Doubles,
    vectors: npt.NDArray[np.float32],
) -> PairBonuses:
    """Decode released sums of pairs.

    A pair's count has a negative binomial prior whose mean is proportional to both items'
    popularity and to e^(5 cos) of their vectors; all means add up to the released total.

    Args:
        released: [length] noisy sums.
        noise: Standard deviation of the noise on each.
        cells: [cells] of `likely_pairs`, at most `length`.
        log_popularity: [items].
        vectors: [items, D] with rows of length 1 or 0.
    """
    items = len(log_popularity)
    first, second = cells // items, cells % items
    sums = released[: len(cells)]
    logs = log_popularity[first] + log_popularity[second]
    for start in range(0, len(cells), _CELLS):
        part = slice(start, start + _CELLS)
        logs[part] += _CLOSENESS * (vectors[first[part]] * vectors[second[part]]).sum(axis=1)
    means = np.exp(logs - logs.max(initial=-np.inf))
    total = max(math.fsum(sums) / _USUAL_WEIGHT, _LEAST_MEAN * len(cells))
    means *= total / max(float(means.sum()), 1e-300)
    counts = np.empty(len(cells))
    for start in range(0, len(cells), _CELLS):
        part = slice(start, start + _CELLS)
        counts[part] = posterior_counts(sums[part], noise, means[part])
    values = np.log((counts + _SHAPE) / (means + _SHAPE)).astype(np.float32)
    ends, others = np.concatenate([first, second]), np.concatenate([second, first])
    order = np.argsort(ends, kind="stable")
    return PairBonuses(
        offsets=offsets_of(np.bincount(ends, minlength=items)),
        partners=others[order].astype(np.int32),
        values=np.concatenate([values, values])[order],
    )


def posterior_counts(sums: Doubles, noise: float, means: Doubles) -> Doubles:
    """Posterior mean of counts [n] from noisy sums [n], given their prior means [n].

    A count of c gives a sum of .45 c on average.

    >>> posterior_counts(np.array([0.0, 4.5]), 0.5, np.array([0.1, 0.1])).round(1).tolist()
    [0.0, 9.0]
    """
    if noise == 0:
        return np.maximum(sums, 0.0) / _USUAL_WEIGHT
    count = np.arange(_MOST + 1)
    # log of Gamma(c + k) / (Gamma(k) c!): a running sum, as each count follows the one before.
    ways = np.concatenate([[0.0], np.cumsum(np.log((count[:-1] + _SHAPE) / count[1:]))])
    prior = ways + count * np.log(means / (means + _SHAPE))[:, None]
    logs = prior - (sums[:, None] - _USUAL_WEIGHT * count) ** 2 / (2.0 * noise * noise)
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    posterior: Doubles = (weights @ count.astype(np.float64)) / weights.sum(axis=1)
    return posterior
