"""The progress of a store in an attempt, as its state and journal record it."""

from __future__ import annotations

from enum import IntEnum


class Stage(IntEnum):
    """The last step that a store completed; a store passes through all but `ABORTED` in order."""

    # The numbers are stored in the state and the journal on disk.
    GREETED = 0
    SHARED = 1
    ACCEPTED = 2
    MASKED = 3
    CONFIRMED = 4
    FINISHED = 5
    ABORTED = 6
