"""The terms of a plan that `hanse plan --solve` can compute from the others.

>>> Unknown("q").name
'Q'
"""

from __future__ import annotations

from enum import StrEnum


class Unknown(StrEnum):
    """The term to solve for."""

    ROUNDS = "rounds"
    EPSILON = "epsilon"
    CUSTOMERS = "customers"
    """Customers of each store."""
    Q = "q"
    """The sample rate."""
