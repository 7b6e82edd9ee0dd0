"""Dataclasses of arrays on disk, one `.npz` file each, written atomically and never pickled."""

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

_MOST_MEMBERS = 64


def save_npz(record: DataclassInstance, path: Path) -> None:
    """Write every field of a dataclass; a reader finds the old file or the new one."""
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
            check_stored(archive, path.stat().st_size, most=_MOST_MEMBERS)
        with np.load(file, allow_pickle=False) as arrays:
            found = {field.name: arrays[field.name] for field in fields(kind)}
    # A field that is one number comes back as the number that it was.
    values: dict[str, Any] = {k: v if v.ndim else v.item() for k, v in found.items()}
    return kind(**values)


def concatenated(kind: type[RecordT], parts: Sequence[RecordT]) -> RecordT:
    """Join the arrays of at least one record, field by field, end to end."""
    return kind(
        **{
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(kind)
        }
    )
