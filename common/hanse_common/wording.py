"""Figures of a promise the way a person reads them, never better than they are; and safe text.

>>> epsilon(7.981), epsilon_left(0.0078), counted(2, "store")
('7.99', '0.00', '2 stores')
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any
from unicodedata import category

ABSENT = "–"


def epsilon(value: float | None) -> str:
    """Write an ε with two decimals, rounded **up**: a promise may not look better than it is."""
    if value is None:
        return ABSENT
    if not math.isfinite(value):
        return "unbounded"
    return f"{math.ceil(round(value * 100, 6)) / 100:.2f}"


def epsilon_left(value: float | None) -> str:
    """Write what is left of an ε with two decimals, rounded **down**.

    >>> epsilon_left(-math.inf)
    'nothing'
    """
    if value is None:
        return ABSENT
    if not math.isfinite(value):
        return "nothing"
    return f"{math.floor(round(value * 100, 6)) / 100:.2f}"


def counted(number: int, noun: str) -> str:
    """Write a count with its noun.

    >>> counted(1, "store"), counted(2310, "customer")
    ('1 store', '2,310 customers')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def finite(value: Any) -> Any:
    """Return plain values as JSON can hold them: undefined and infinite numbers become None.

    >>> finite({"epsilon": [1.5, math.inf]})
    {'epsilon': [1.5, None]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


_SEEN = re.compile(r"L[ultmo]|M[nce]|N[dlo]|P[cdseifo]|S[mcko]|Zs")
"""Unicode categories of what can be seen. Not among them: control characters (Cc, with ESC,
which terminals obey), format characters (Cf, with those that turn the direction of text),
surrogates, private and unassigned ones, line and paragraph separators."""


def printable(text: str, *, lines: bool = False) -> str:
    r"""Write text of another party so that a terminal shows it and obeys none of it.

    Args:
        text: As it came: a store's refusal, a file's name, an error that quotes either.
        lines: Let line ends and tabs stand, for texts of our own with several lines.

    Returns:
        The text, with everything that cannot be seen written as an escape.

    >>> printable("Käse \x1b[31mred\x1b[0m\r\n\u202etxt")
    'Käse \\x1b[31mred\\x1b[0m\\r\\n\\u202etxt'
    >>> printable("one\n\ttwo", lines=True)
    'one\n\ttwo'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char
        if _SEEN.fullmatch(category(char)) or (lines and char in "\n\t")
        else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def json_text(value: Any, *, indent: int | None = 2) -> str:
    r"""Write a value as JSON whose characters can all be seen; what is not finite becomes null.

    >>> json_text({"store": "a\x9b31m", "epsilon": math.inf}, indent=None)
    '{"store": "a\\u009b31m", "epsilon": null}'
    """
    text = json.dumps(finite(value), indent=indent, ensure_ascii=False, allow_nan=False)
    # Outside of JSON's own strings stand characters that can be seen, and line ends.
    return "".join(
        char if char == "\n" or printable(char) == char else json.dumps(char)[1:-1] for char in text
    )
