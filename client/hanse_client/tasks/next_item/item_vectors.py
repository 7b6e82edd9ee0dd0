"""Public vectors of items: whitened, with rows of length 1.

A catalogue gives each item a text, a vector by any public encoder, or both. Whitening over the
catalogue removes what most items have in common; cosines then tell related items from others:
the nearest text of the last item has HR@10 .039 on Amazon Beauty (docs/published.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hanse_client.model.item_texts import PACKAGED, Vectors, encode_texts, principal_components
from hanse_common.errors import DataError

VECTOR_SIZE = 256
COMPONENTS, COARSE = 128, 64
_ITEMS_PER_DIRECTION = 8
"""Different items for each direction that is whitened. With as many directions as items,
whitening would put all items equally far from each other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemVectors:
    """What is publicly known about the likeness of n items."""

    vectors: Vectors
    """[n, D] whitened vectors, D at most 256 a source; rows of length 1, or 0 if unknown."""
    components: Vectors
    """[n, C] their first principal components, C at most 128; rows of length 1 or 0."""
    coarse: Vectors
    """[n, S] the first of these, S at most 64; rows of length 1 or 0."""


def public_vectors(
    texts: Sequence[str] | None,
    own: npt.NDArray[np.float32] | None = None,
    *,
    encoder: str = PACKAGED,
    cache: Path,
) -> ItemVectors:
    """Whitened vectors of a catalogue's items.

    Args:
        texts: [n] texts, empty for items without one; None if the catalogue has no texts.
        own: [n, any width] the catalogue's own vectors, rows of NaN for items without one; None
            if it has none.
        encoder: Of the texts: see `encode_texts`.
        cache: Folder in which the encoded texts are cached.

    Raises:
        ConfigError: There is no such encoder.
        DataError: No two items differ.
        DataError [unreadable-texts]: See `encode_texts`.

    Guarantees:
        The vectors depend on the catalogue and the encoder alone.
    """
    sources = []
    if texts is not None:
        given = np.array([bool(text.strip()) for text in texts], dtype=np.bool_)
        if given.any():
            written = [text for text in texts if text.strip()]
            sources.append((given, encode_texts(written, encoder=encoder, cache=cache)))
    if own is not None:
        finite = np.asarray(np.isfinite(own).all(axis=1))
        if finite.any():
            sources.append((finite, own[finite]))
    whitened = [_whitened(known, vectors) for known, vectors in sources]
    if not any(part.shape[1] for part in whitened):
        raise DataError(
            "the catalogue does not tell its items apart: no two have different texts or vectors",
            hint="give the items texts, or leave the catalogue out",
        )

    def leading(size: int) -> Vectors:
        each = size // len(whitened)
        return _unit(np.concatenate([_unit(part[:, :each]) for part in whitened], axis=1))

    return ItemVectors(
        vectors=leading(VECTOR_SIZE * len(whitened)),
        components=leading(COMPONENTS),
        coarse=leading(COARSE),
    )


def _whitened(known: npt.NDArray[np.bool_], vectors: Vectors) -> Vectors:
    """[n, D] coordinates of variance 1; rows of zeros for items that are not known."""
    # Over different vectors: a text that a thousand items share counts once.
    distinct = np.unique(vectors, axis=0)
    size = min(VECTOR_SIZE, vectors.shape[1], (len(distinct) - 1) // _ITEMS_PER_DIRECTION + 1)
    if len(distinct) < 2:
        size = 0
    whitened = np.zeros((len(known), size), np.float32)
    if size:
        mean, directions = principal_components(distinct, size)
        whitened[known] = (vectors - mean) @ directions
    return whitened


def _unit(rows: Vectors) -> Vectors:
    """Rows of length 1; rows of zeros stay."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)
