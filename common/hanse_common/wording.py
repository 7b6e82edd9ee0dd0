"""Formats epsilons, counts and untrusted text for people.

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
    """Return an ε with two decimals, rounded **up**: it must not look better than it is."""
    if value is None:
        return ABSENT
    if not math.isfinite(value):
        return "unbounded"
    # Rounded to six digits first: 0.07 * 100 is 7.000000000000001, which would round up to 0.08.
    return f"{math.ceil(round(value * 100, 6)) / 100:.2f}"


def epsilon_left(value: float | None) -> str:
    """Return a remaining ε with two decimals, rounded **down**.

    >>> epsilon_left(-math.inf)
    'nothing'
    """
    if value is None:
        return ABSENT
    if not math.isfinite(value):
        return "nothing"
    return f"{math.floor(round(value * 100, 6)) / 100:.2f}"


def counted(number: int, noun: str) -> str:
    """Return a count with its noun in the right number.

    >>> counted(1, "store"), counted(2310, "customer")
    ('1 store', '2,310 customers')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def finite(value: Any) -> Any:
    """Return plain values for JSON: NaN and infinite numbers become None.

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


_VISIBLE = re.compile(r"L[ultmo]|M[nce]|N[dlo]|P[cdseifo]|S[mcko]|Zs")
"""Unicode categories of visible characters. Excluded are control characters (Cc: terminals act on
ESC), format characters (Cf: some reverse the direction of text), surrogates, private-use and
unassigned characters, and line and paragraph separators."""


def printable(text: str, *, lines: bool = False) -> str:
    r"""Return untrusted text with invisible and control characters written as escapes.

    Args:
        text: Text of another party: a store's refusal, a file's name, an error that quotes them.
        lines: Leave line ends and tabs as they are, for Hanse's own texts of several lines.

    >>> printable("Käse \x1b[31mred\x1b[0m\r\n\u202etxt")
    'Käse \\x1b[31mred\\x1b[0m\\r\\n\\u202etxt'
    >>> printable("one\n\ttwo", lines=True)
    'one\n\ttwo'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char
        if _VISIBLE.fullmatch(category(char)) or (lines and char in "\n\t")
        else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def json_text(value: Any, *, indent: int | None = 2) -> str:
    r"""Return a value as JSON of visible characters; numbers that are not finite become null.

    >>> json_text({"store": "a\x9b31m", "epsilon": math.inf}, indent=None)
    '{"store": "a\\u009b31m", "epsilon": null}'
    """
    text = json.dumps(finite(value), indent=indent, ensure_ascii=False, allow_nan=False)
    # Replacing single characters of the encoded text is safe: outside of strings JSON holds only
    # visible ASCII and line ends, so that an escape can only be put inside a string.
    return "".join(
        char if char == "\n" or printable(char) == char else json.dumps(char)[1:-1] for char in text
    )
