"""Figures of a promise the way a person reads them, never better than they are.

>>> epsilon(7.981), epsilon_left(0.0078), counted(2, "store")
('7.99', '0.00', '2 stores')
"""

from __future__ import annotations

import math

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
