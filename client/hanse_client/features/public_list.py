"""The public list of items or labels that belongs to a data file: `Beauty.items`, `Beauty.txt`.

The classes of a model must be known without looking at a customer. A list taken from the data
would reveal the presence of the one customer who bought an item or gave a label.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from hanse_common.errors import DataError


def read_public_list(data: Path, suffix: str) -> list[str] | None:
    r"""Read the list that belongs to a data file: one name a line, in order, without empty lines.

    Args:
        data: The data file.
        suffix: The suffix of the list, whose name is otherwise the same: `.items`.

    Returns:
        The names, or None if there is no such file.

    Raises:
        DataError: The list cannot be read, or names something twice.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "stars.labels").write_text("1\n2\n3\n")
        ...     read_public_list(Path(folder, "stars.csv"), ".labels")
        ['1', '2', '3']
    """
    path = data.with_suffix(suffix)
    return read_names(path) if path.exists() else None


def read_names(path: Path) -> list[str]:
    """Read a file of names: one a line, in order, without empty lines.

    Raises:
        DataError: It cannot be read, or names something twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}", hint="one name a line, in UTF-8") from error
    names = [name for line in lines if (name := line.strip())]
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"{path} names {twice!r} twice", hint="each name once, one a line")
    return names
