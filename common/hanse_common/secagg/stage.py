"""What a store has done last in an attempt."""

from __future__ import annotations

from enum import IntEnum


class Stage(IntEnum):
    """What a store has done last; all but `ABORTED` in this order."""

    GREETED = 0
    SHARED = 1
    ACCEPTED = 2
    MASKED = 3
    CONFIRMED = 4
    FINISHED = 5
    ABORTED = 6
