"""Casts of raw columns to ids, text or vectors; an unreadable cell becomes null.

If no cell of a column can be read, the mapping is wrong rather than the rows. That raises
`WrongTypes`, which shows the shape of a cell (`99/99/9999`) instead of its value.
`hanse_client.ingest.numbers` and `hanse_client.ingest.times` cast likewise.

>>> as_id(pl.Series(["17850", "17850.0", "1.785E+04"]), "column 'card' of sales.csv").to_list()
['17850', '17850', None]
"""

from __future__ import annotations

import polars as pl

from hanse_common.errors import WrongTypes


class Doubts:
    """Errors about whole columns of a table that is read a part at a time.

    That no cell of a column can be read is no fault of a part: another part may have one.

    >>> doubts = Doubts()
    >>> doubts.keep("price", WrongTypes("no number"))
    >>> doubts.dispel("price")
    >>> doubts.settle()
    """

    def __init__(self) -> None:
        self._errors: dict[str, WrongTypes] = {}
        self._dispelled: set[str] = set()

    def keep(self, doubt: str, error: WrongTypes) -> None:
        """Remember an error that is to be raised unless another part dispels the doubt."""
        self._errors.setdefault(doubt, error)

    def dispel(self, doubt: str) -> None:
        """Say that a part has shown the column to be sound."""
        self._dispelled.add(doubt)

    def settle(self) -> None:
        """Raise the first error that nothing has dispelled.

        Raises:
            WrongTypes: A column cannot be read.
        """
        for doubt, error in self._errors.items():
            if doubt not in self._dispelled:
                raise error


_VECTOR = pl.List(pl.Float32)
# Byte order marks and joiners of no width, which are no blanks to Unicode.
_UNSEEN = "\ufeff\u200b\u200c\u200d\u2060"
# What a spreadsheet makes of long numbers: digits of the id are lost.
_ROUNDED = r"^[+-]?\d(\.\d+)?[eE]\+?\d+$"


def as_text(column: pl.Series) -> pl.Series:
    """Strip text; blank text becomes null.

    Args:
        column: Any type; (n,).

    Returns:
        Strings; (n,). A whole-numbered float or decimal loses its fraction (`7.0` -> `7`),
        because a column of integer ids becomes one as soon as a cell of it is empty. Lists of
        texts or numbers are joined, with blanks.
    """
    dtype = column.dtype
    if isinstance(dtype, pl.List | pl.Array) and not dtype.inner.is_nested():
        column = joined_list(column, " ")
        dtype = column.dtype
    if dtype.is_nested() or dtype in (pl.Binary, pl.Object):
        return pl.Series(column.name, [None] * len(column), dtype=pl.String)
    if dtype.is_float() or dtype.is_decimal():
        finite = column.set(~column.cast(pl.Float64).is_finite(), None)
        # Null beyond int64. Cell by cell: a part of a column is read as the whole is.
        integers = finite.cast(pl.Int64, strict=False)
        whole = (integers.cast(pl.Float64) == finite.cast(pl.Float64)).fill_null(False)
        column = integers.cast(pl.String).zip_with(whole, finite.cast(pl.String))
    stripped = column.cast(pl.String).str.strip_chars()
    return stripped.set(stripped == "", None)


def present(column: pl.Series) -> pl.Series:
    """Return which cells are neither null nor blank; (n,) booleans."""
    if column.dtype == pl.String:
        return (column.str.strip_chars() != "").fill_null(False)
    if isinstance(column.dtype, pl.List):
        return (column.list.len() > 0).fill_null(False)
    return column.is_not_null()


def joined_list(column: pl.Series, separator: str) -> pl.Series:
    """Join the elements of each list to one text; (n,) strings, null for an empty list."""
    texts = column.cast(pl.List(pl.String)).list.eval(pl.element().str.strip_chars())
    filled = texts.list.eval(pl.element().filter(pl.element() != ""))
    joined = filled.list.join(separator, ignore_nulls=True)
    return joined.set((joined == "").fill_null(False), None)


def as_id(column: pl.Series, where: str, doubts: Doubts | None = None) -> pl.Series:
    """Read a column as ids; (n,) strings.

    A whole number with an empty fraction (`7.0`) is the number, cell by cell: how the id of one
    customer is written must not depend on others. Ids that a spreadsheet has rounded (`4.006E+12`)
    are unreadable.

    Args:
        column: Any type; (n,).
        where: The column's name in error messages.
        doubts: Keeps the error, if the column is a part of one.

    Raises:
        WrongTypes: It holds lists, structures or bytes, or rounded ids alone.
    """
    nested = column.dtype.is_nested()
    ids = pl.Series(column.name, [None] * len(column), pl.String) if nested else as_text(column)
    # A customer must not be two because a program left an unseen sign next to the id.
    ids = ids.str.strip_chars(_UNSEEN)
    ids = ids.set((ids == "").fill_null(False), None)
    ids = ids.str.replace(r"^(-?[0-9]+)\.0+$", "${1}")
    if column.dtype == pl.String:
        ids = ids.set(ids.str.contains(_ROUNDED).fill_null(False), None)
    check_any_readable(column, ids, where, "ids", doubts=doubts)
    return ids


def as_vector(column: pl.Series, where: str) -> pl.Series:
    """Read a column as vectors of finite numbers; (n,) lists of Float32.

    Args:
        column: Lists of numbers, or text with spaces or commas between the numbers, in square
            brackets or without, as databases and spreadsheets write them; (n,).
        where: The column's name in error messages.

    Raises:
        WrongTypes: Cells are filled, but none is a vector.
    """
    dtype = column.dtype
    vectors = pl.Series(column.name, [None] * len(column), dtype=_VECTOR)
    if dtype == pl.String:
        numbers = column.str.strip_chars().str.strip_chars("[]").str.replace_all(r"[\s,]+", " ")
        # Splitting an empty text gives one empty number, which is no vector.
        parts = numbers.str.strip_chars().str.split(" ")
        vectors = parts.list.eval(pl.element().cast(pl.Float32, strict=False))
    elif isinstance(dtype, pl.List | pl.Array) and (
        dtype.inner.is_numeric() or dtype.inner == pl.String
    ):
        vectors = column.cast(_VECTOR, strict=False)
    # Beyond Float32 a number is infinite, which no direction can be taken from.
    sound = vectors.list.eval(pl.element().is_finite().fill_null(False)).list.all()
    vectors = vectors.set(~(sound & (vectors.list.len() > 0)).fill_null(False), None)
    check_any_readable(column, vectors, where, "vectors of numbers", 'such as "0.1 -0.4 0.9"')
    return vectors


def check_any_readable(
    column: pl.Series,
    read: pl.Series,
    where: str,
    wanted: str,
    hint: str = "",
    *,
    doubts: Doubts | None = None,
) -> None:
    """Refuse a column of which not one filled cell was read, or keep the doubt about a part.

    Raises:
        WrongTypes: It shows the shape of a cell.
    """
    if read.null_count() < len(read):
        if doubts is not None:
            doubts.dispel(where)
        return
    if not present(column).any():
        return
    if column.dtype == pl.String:
        sample = column.filter(present(column))[0]
        held = f"text like {shape(sample)!r}"
    else:
        held = f"{column.dtype.base_type().__name__} values"
    error = WrongTypes(f"{where} holds {held}, not {wanted}", hint=hint)
    if doubts is None:
        raise error
    doubts.keep(where, error)


def shape(value: str) -> str:
    """Replace letters by a and digits by 9: the format stays visible, the customer's data not."""
    shape = "".join(
        "9" if sign.isdigit() else "a" if sign.isalpha() else sign for sign in value.strip()
    )
    return shape if len(shape) <= 24 else f"{shape[:24]}..."
