"""What may be chosen when a model is used; imported by commands that must start fast."""

from __future__ import annotations

from enum import StrEnum


class When(StrEnum):
    """From which moment the future is predicted."""

    LATEST = "latest"
    VALIDATE = "validate"
    TEST = "test"


class Split(StrEnum):
    """What is judged."""

    VALIDATE = "validate"
    TEST = "test"


class Candidates(StrEnum):
    """What may be named: everything, or only what is new to the customer."""

    ALL = "all"
    NEW = "new"
