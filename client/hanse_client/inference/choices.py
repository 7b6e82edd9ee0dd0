"""Enumerations for options of `hanse model`; without heavy imports, so that help is fast."""

from __future__ import annotations

from enum import StrEnum


class When(StrEnum):
    """The moment from which is predicted: after the last visit, or the first day of a split."""

    LATEST = "latest"
    VALIDATE = "validate"
    TEST = "test"


class Split(StrEnum):
    """The split to evaluate on."""

    VALIDATE = "validate"
    TEST = "test"


class Candidates(StrEnum):
    """The candidates of a ranking: all, or only those new to the customer."""

    ALL = "all"
    NEW = "new"
