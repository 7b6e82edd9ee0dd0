"""Baselines of the next-item task: popularity, a Markov chain from the last item, its texts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hanse_client.tasks.next_item.features import Sequences
from hanse_client.tasks.next_item.item_vectors import ItemVectors
from hanse_client.tasks.next_item.metrics import Past, Ranks, judge


def popularity(known: Sequences, data: Sequences, split: str) -> Ranks:
    """Rank items by how often they were taken, the same for all customers.

    Args:
        known: The training part of the sequences.
        data: The complete sequences.
        split: validate or test.
    """
    counts = np.bincount(known.taken, minlength=known.items).astype(np.float64)
    return judge(data, split, lambda past: np.broadcast_to(counts, (len(past), data.items)))


def markov(known: Sequences, data: Sequences, split: str) -> Ranks:
    """Rank items by how often they followed the customer's last one, then by popularity.

    Args:
        known: The training part of the sequences.
        data: The complete sequences.
        split: validate or test.
    """
    counts = np.bincount(known.taken, minlength=known.items).astype(np.float64)
    counts /= counts.sum() + 1.0  # below one transition, whatever the item
    owner = known.owners
    inside = owner[1:] == owner[:-1]
    first, then = known.taken[:-1][inside], known.taken[1:][inside]
    order = np.argsort(first, kind="stable")
    first, then = first[order], then[order]

    def scores(past: Past) -> npt.NDArray[np.float64]:
        last = np.array([one[-1] for one in past])
        table = np.tile(counts, (len(past), 1))
        starts, stops = np.searchsorted(first, last), np.searchsorted(first, last, side="right")
        for row, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            np.add.at(table[row], then[start:stop], 1.0)
        return table

    return judge(data, split, scores)


def nearest_texts(vectors: ItemVectors, data: Sequences, split: str) -> Ranks:
    """Rank items by the likeness of their public vectors to the last item's: no private data.

    Args:
        vectors: Of the public list of items.
        data: The complete sequences.
        split: validate or test.
    """
    public = vectors.vectors

    def scores(past: Past) -> npt.NDArray[np.float32]:
        likeness: npt.NDArray[np.float32] = public[[one[-1] for one in past]] @ public.T
        return likeness

    return judge(data, split, scores)
