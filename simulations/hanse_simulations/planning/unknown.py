"""The terms that can be found from the others.

>>> Unknown("q").name
'Q'
"""

from __future__ import annotations

from enum import StrEnum


class Unknown(StrEnum):
    """What to find."""

    ROUNDS = "rounds"
    EPSILON = "epsilon"
    CUSTOMERS = "customers"
    """Of each store."""
    Q = "q"
    """The sample rate."""
