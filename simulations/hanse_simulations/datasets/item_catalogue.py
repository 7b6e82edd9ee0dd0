"""Read a catalogue of items: `items.tsv`, with an id, a text, a vector, or both.

    item_id	text	vector
    17	OPI | Makeup | Nails | Nail Polish	0.12 -0.4 0.9

`vector` has numbers by any public encoder (of images, audio or texts), separated by spaces or
commas, as many for every item; it may be empty, and so may `text`. A file without a header has
ids and texts. A `.toml` file describes any catalogue in its `[catalogue]`, as a store's does. The
catalogue is public: what can be bought, not what was bought.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from hanse_client.ingest.pipeline import public_catalogue
from hanse_common.errors import DataError, MissingColumns, WrongTypes

_ID, _TEXT, _VECTOR = "item_id", "text", "vector"
_QUOTED = 40
"""Characters of a cell that an error quotes."""
_COLUMNS = "columns are item_id, text and vector, with tabs between them; text or vector may lack"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ItemCatalogue:
    """The items of a catalogue, in its order."""

    items: tuple[str, ...]
    """Their ids, each once."""
    texts: tuple[str, ...] | None
    """A text each, empty if the item has none; None without the column."""
    vectors: npt.NDArray[np.float32] | None
    """[n, D], rows of NaN for items without a vector; None without the column."""

    def arranged(self, items: list[str]) -> ItemCatalogue:
        """The same for another list of items; what the catalogue lacks has no text or vector."""
        places = {item: place for place, item in enumerate(self.items)}
        rows = [places.get(item, -1) for item in items]
        texts, vectors = self.texts, self.vectors
        if texts is not None:
            texts = tuple(texts[row] if row >= 0 else "" for row in rows)
        if vectors is not None:
            unknown = np.full((1, vectors.shape[1]), np.nan, np.float32)
            vectors = np.concatenate([vectors, unknown])[rows]  # -1 is the last row
        return ItemCatalogue(items=tuple(items), texts=texts, vectors=vectors)


def read_item_catalogue(path: Path) -> ItemCatalogue:
    """Read a catalogue of items.

    Args:
        path: A file of tab-separated columns in UTF-8.

    Raises:
        DataError: The file is missing or malformed, or names an item twice.
        MissingColumns: It has neither texts nor vectors, or no ids.
        WrongTypes: A vector is no list of finite numbers, or of another length; names the line.
    """
    table, first = _read(path)
    names = table[_ID].fill_null("").str.strip_chars().to_list()
    seen: set[str] = set()
    for number, name in enumerate(names, start=first):
        if not name or name in seen:
            what = f"names item {name[:_QUOTED]!r} twice" if name else "has no item_id"
            raise DataError(f"{path}, line {number}: {what}", hint="one line for each item")
        seen.add(name)
    texts = vectors = None
    if _TEXT in table.columns:
        texts = tuple(table[_TEXT].fill_null("").str.strip_chars().to_list())
    if _VECTOR in table.columns:
        vectors = _parse_vectors(path, table[_VECTOR].fill_null("").to_list(), first)
    return ItemCatalogue(items=tuple(names), texts=texts, vectors=vectors)


def _read(path: Path) -> tuple[pl.DataFrame, int]:
    """The table with its columns named, and the line of its first item."""
    hint = "check --catalogue"
    if path.suffix == ".toml":
        return _of_store(path), 1
    try:
        with path.open(encoding="utf-8") as file:
            head = file.readline().rstrip("\r\n").split("\t")
        titled = _ID in head
        # Ids stay text, as in `read_sequences`.
        table = pl.read_csv(
            path, separator="\t", quote_char=None, infer_schema=False, has_header=titled
        )
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", hint=hint) from error
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DataError(f"{path} is no table of items: {reason}", hint=_COLUMNS) from error
    if not titled:
        if len(table.columns) != 2:
            columns = [name[:_QUOTED] for name in head[:5]]
            raise MissingColumns(f"{path} has no column 'item_id', only {columns}", hint=_COLUMNS)
        table = table.rename(dict(zip(table.columns, (_ID, _TEXT), strict=True)))
    if not {_TEXT, _VECTOR} & set(table.columns):
        raise MissingColumns(f"{path} has neither a column 'text' nor 'vector'", hint=_COLUMNS)
    if not table.height:
        raise DataError(f"{path} has no items", hint=hint)
    return table, 1 + titled


def _of_store(path: Path) -> pl.DataFrame:
    """The items that a `.toml` file describes, with vectors as text where there are any."""
    items = public_catalogue(path)
    if not items["vector"].count():
        return items.select(_ID, _TEXT)
    numbers = pl.col(_VECTOR).cast(pl.List(pl.String)).list.join(" ")
    return items.select(_ID, _TEXT, numbers.alias(_VECTOR))


def _parse_vectors(path: Path, cells: list[str], first: int) -> npt.NDArray[np.float32]:
    hint = "a vector has finite numbers, as many for every item, with spaces or commas between"
    rows: list[list[float]] = []
    for number, cell in enumerate(cells, start=first):
        try:
            rows.append([float(part) for part in cell.replace(",", " ").split()])
        except ValueError:
            raise WrongTypes(
                f"{path}, line {number}: {cell[:_QUOTED]!r} is no vector", hint=hint
            ) from (None)
    width = max(map(len, rows))
    vectors = np.full((len(rows), width), np.nan, np.float32)
    for number, row in enumerate(rows):
        if not row:
            continue
        with np.errstate(over="ignore"):  # beyond float32 it is infinite, which is refused
            vectors[number, : len(row)] = row
        if len(row) != width or not np.isfinite(vectors[number]).all():
            raise WrongTypes(
                f"{path}, line {number + first}: a vector of {len(row)} numbers, and {width} "
                "finite ones are expected",
                hint=hint,
            )
    return vectors
