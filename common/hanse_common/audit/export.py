"""Converts ledger entries to flat rows for other tools."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from hanse_common.privacy.accounting import SampledGaussianSteps
from hanse_common.privacy.charge import Release
from hanse_common.privacy.entry import Entry
from hanse_common.spreadsheets import as_text
from hanse_common.wording import printable

_TERMS = tuple(field.name for field in fields(SampledGaussianSteps))
_RELEASE = tuple(field.name for field in fields(Release))
_OWN = tuple(f.name for f in fields(Entry) if f.name not in ("sequence", "release", "steps"))
# An entry and its release both have a field `kind`.
_RENAMED = {"kind": "release_kind"}

FIELDS = (
    *("store", "sequence", "hash", *_OWN),
    *(_RENAMED.get(name, name) for name in _RELEASE),
    *_TERMS,
)
"""Columns of a row, in order."""


def flat(store: str, entry: Entry) -> dict[str, str | int | float | None]:
    """Return every field of an entry by name; bytes are in hexadecimal."""
    row: dict[str, Any] = {"store": store, "sequence": entry.sequence, "hash": entry.hash}
    row |= {name: getattr(entry, name) for name in _OWN}
    row |= {_RENAMED.get(name, name): getattr(entry.release, name) for name in _RELEASE}
    row |= {name: getattr(entry.steps, name, None) for name in _TERMS}
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in row.items()}


def for_spreadsheet(row: dict[str, str | int | float | None]) -> dict[str, object]:
    r"""Return a row whose texts are safe in a spreadsheet and on a terminal.

    The texts come from a store. In JSON they are unchanged, escaped by its own rules.

    >>> for_spreadsheet({"note": "=1+1", "accountant": "\x1b[2J", "round": 3})
    {'note': "'=1+1", 'accountant': '\\x1b[2J', 'round': 3}
    """
    return {
        name: as_text(printable(value)) if isinstance(value, str) else value
        for name, value in row.items()
    }
