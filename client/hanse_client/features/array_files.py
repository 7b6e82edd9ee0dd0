"""Dataclasses of arrays on disk: one `.npz` file each, written atomically, without pickles."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from hanse_common.decoding import check_stored, decoding
from hanse_common.durable import replacing
from hanse_common.errors import DataError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    RecordT = TypeVar("RecordT", bound=DataclassInstance)

# The largest dataclass has a dozen fields; a file that lists thousands is not one of ours.
_MOST_MEMBERS = 64


def save_npz(record: DataclassInstance, path: Path) -> None:
    """Write all fields of a dataclass atomically: readers see the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {field.name: getattr(record, field.name) for field in fields(record)}
    with replacing(path) as file:
        np.savez(file, **arrays)


def load_npz(kind: type[RecordT], path: Path, *, hint: str) -> RecordT:
    """Read what `save_npz` wrote.

    Raises:
        DataError: The file is missing, damaged, or of another kind; with the hint.
    """
    with decoding(path, DataError, hint=hint), path.open("rb") as file:
        with zipfile.ZipFile(file) as archive:
            # Before numpy reads it, which would inflate a compressed member of any size.
            check_stored(archive, path.stat().st_size, most=_MOST_MEMBERS)
        with np.load(file, allow_pickle=False) as arrays:  # a pickle would run foreign code
            loaded = {field.name: arrays[field.name] for field in fields(kind)}
    # numpy stores a scalar field as an array of no dimensions; turn it back into a number.
    values: dict[str, Any] = {k: v if v.ndim else v.item() for k, v in loaded.items()}
    return kind(**values)


def concatenated(kind: type[RecordT], parts: Sequence[RecordT]) -> RecordT:
    """Concatenate the arrays of one or more records, field by field, along the first axis."""
    return kind(
        **{
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(kind)
        }
    )
