"""A public list that lies beside a file of data: `Beauty.items` beside `Beauty.txt`.

What a model ranks, or tells apart, has to be known without looking at a customer: a list that is
read off the data says of an item that one customer alone took it, or of a label that one customer
alone gave it, that this customer is there.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from hanse_common.errors import DataError


def read_public_list(data: Path, suffix: str) -> list[str] | None:
    r"""Read the list beside a file of data: one name a line, in order, empty lines left out.

    Args:
        data: The file of data.
        suffix: Of the list, which has the same name else: `.items`.

    Returns:
        None if there is no such file.

    Raises:
        DataError: It cannot be read, or names something twice.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "stars.labels").write_text("1\n2\n3\n")
        ...     read_public_list(Path(folder, "stars.csv"), ".labels")
        ['1', '2', '3']
    """
    path = data.with_suffix(suffix)
    if not path.exists():
        return None
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}", hint="one name a line, in UTF-8") from error
    names = [name for line in lines if (name := line.strip())]
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"{path} names {twice!r} twice", hint="each name once, one a line")
    return names
