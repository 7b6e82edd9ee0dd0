"""Figures of a promise the way a person reads them, never better than they are.

>>> epsilon(7.981), epsilon_left(0.0078), counted(2, "store")
('7.99', '0.00', '2 stores')
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

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
