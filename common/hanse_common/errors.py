"""One tree of errors: each says what is wrong, what to do, and how the process ends.

A command catches `HanseError` once, in `hanse_common.cli.main`, prints it on one
line and exits with `exit_status`; nothing else in the project decides how an error looks.

>>> str(MissingColumns("events.csv has no column 'user_id'", hint="map it in [events.columns]"))
"events.csv has no column 'user_id' (map it in [events.columns])"
>>> MissingColumns.exit_status
11
"""

from __future__ import annotations

from typing import ClassVar


class HanseError(Exception):
    """Anything that a person can mend; the message quotes the name and the value at fault.

    Args:
        message: What is wrong, in one line.
        hint: What to do about it, in one line.
    """

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        # The keyword argument does not survive Exception's own pickling, and workers
        # hand their errors to the parent process by pickle.
        return _rebuild, (type(self), self.message, self.hint)


def _rebuild(kind: type[HanseError], message: str, hint: str) -> HanseError:
    return kind(message, hint=hint)


class ConfigError(HanseError):
    """A setting is unknown, malformed or out of range."""

    code = "config"
    exit_status = 3


class ContradictingOptions(ConfigError):
    """Two options that cannot both hold."""

    code = "contradicting-options"
    exit_status = 4


class MissingDependency(HanseError):
    """An optional part of Hanse is not installed here."""

    code = "missing-dependency"
    exit_status = 5


class DataError(HanseError):
    """A store's data cannot be read or used."""

    code = "data"
    exit_status = 10


class MissingColumns(DataError):
    """The source lacks columns that the schema needs."""

    code = "missing-columns"
    exit_status = 11


class WrongTypes(DataError):
    """A column holds values that cannot be read as the type it should have."""

    code = "wrong-types"
    exit_status = 12


class UnknownIds(DataError):
    """Too many events name items that the catalogue does not hold."""

    code = "unknown-ids"
    exit_status = 13


class EmptyStore(DataError):
    """A store has no usable event."""

    code = "empty-store"
    exit_status = 14


class TooFewCustomers(DataError):
    """A store has fewer customers than it may train with."""

    code = "too-few-customers"
    exit_status = 15


class RunDirectoryError(HanseError):
    """The folder for a run cannot be written, or is taken."""

    code = "run-directory"
    exit_status = 20


class RunNotFound(HanseError):
    """There is no run of that name."""

    code = "run-not-found"
    exit_status = 21


class RunNotResumable(HanseError):
    """The run cannot go on: it has no checkpoint, or its settings changed."""

    code = "run-not-resumable"
    exit_status = 22


class PrivacyError(HanseError):
    """A promise of privacy could not be kept, so nothing was released."""

    code = "privacy"
    exit_status = 30


class InexactClipping(PrivacyError):
    """Per-customer gradients are not what one-by-one gradients say they should be."""

    code = "inexact-clipping"
    exit_status = 31


class FederationError(HanseError):
    """A round could not be completed."""

    code = "federation"
    exit_status = 40


class Interrupted(HanseError):
    """A person stopped the run; it can be resumed."""

    code = "interrupted"
    exit_status = 130
