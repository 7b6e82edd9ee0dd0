"""The vectors that a catalogue brings itself: of images, audio or texts, by any public encoder.

An item's vector is that of its text, followed by its own at length 1. The lengths agree, so that
neither outweighs the other; and they depend on no other item, since every store has a catalogue
of its own and all must give an item the same vector.

>>> goods = pl.DataFrame({"vector": [[3.0, 4.0], None]}, schema={"vector": pl.List(pl.Float32)})
>>> own_vectors(goods, own_vector_size(goods)).round(1).tolist()
[[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from hanse_common.errors import DataError

Vectors = npt.NDArray[np.float32]
_COLUMN = "vector"


def own_vector_size(catalogue: pl.DataFrame) -> int:
    """Length of the vectors of a catalogue; 0 if no item has one, or there is no such column.

    Raises:
        DataError [other-catalogue]: Catalogues of different encoders were put together.
    """
    if _COLUMN not in catalogue.columns:
        return 0
    lengths = catalogue[_COLUMN].list.len().drop_nulls().unique().sort().to_list()
    if len(lengths) > 1:
        raise DataError(
            f"catalogues have vectors of {' and '.join(map(str, lengths))} numbers",
            code="other-catalogue",
            hint="all stores of a federation need vectors by the same public encoder",
        )
    return lengths[0] if lengths else 0


def own_vectors(catalogue: pl.DataFrame, size: int, *, required: bool = False) -> Vectors:
    """The own vectors of a catalogue's items, scaled to length 1.

    Args:
        catalogue: N items, as `read_catalogue` returns them.
        size: Length of the vectors that the federation's model reads; 0 if it reads none, and a
            catalogue's vectors are then ignored.
        required: Whether a catalogue without any vector is refused.

    Returns:
        [N, size]; rows of zeros for items without a vector.

    Raises:
        DataError [other-catalogue]: The catalogue's vectors have another length, or there are
            none although they are required.
    """
    vectors = np.zeros((catalogue.height, size), np.float32)
    if not size:
        return vectors
    found = own_vector_size(catalogue)
    if found not in (0, size) or (required and not found):
        has = f"vectors of {found} numbers" if found else "no vectors"
        raise DataError(
            f"the model reads a vector of {size} numbers for each item, and the catalogue has "
            + has,
            code="other-catalogue",
            hint="map vector under [catalogue.columns], made by the encoder of the coordinator's "
            "catalogue",
        )
    if found:
        known = catalogue[_COLUMN].is_not_null().to_numpy()
        rows = np.array(catalogue[_COLUMN].drop_nulls().to_list(), dtype=np.float32)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        vectors[known] = rows / np.where(lengths > 0, lengths, 1.0)
    return vectors


def class_means(vectors: Vectors, names: Sequence[str], classes: Sequence[str]) -> Vectors:
    """Mean own vector of each class, over its items that have one.

    Args:
        vectors: [N, size] from `own_vectors`.
        names: [N] class of each item.
        classes: [C] the vocabulary.

    Returns:
        [C, size]; a row of zeros for a class without any vector.
    """
    places: Mapping[str, int] = {name: place for place, name in enumerate(classes)}
    index = np.array([places.get(name, -1) for name in names], dtype=np.int64)
    use = (index >= 0) & vectors.any(axis=1)
    sums = np.zeros((len(classes), vectors.shape[1]), np.float64)
    np.add.at(sums, index[use], vectors[use])
    counts = np.bincount(index[use], minlength=len(classes))[:, None]
    return (sums / np.maximum(counts, 1)).astype(np.float32)
