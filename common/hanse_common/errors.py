"""The error classes of Hanse: each error has a message, a hint, a code and an exit status.

`hanse_common.cli.main` catches `HanseError`, prints it on one line and exits with its
`exit_status`; no other code formats errors.

A class is a family of errors that callers can catch, with one exit status. The code names the
exact error: a family has a code of its own, and those that `FURTHER_CODES` lists for it.

>>> str(MissingColumns("events.csv has no column 'user_id'", hint="map it in [events.columns]"))
"events.csv has no column 'user_id' (map it in [events.columns])"
>>> error = DataError("3 customers", code="too-few-customers")
>>> error.code, error.exit_status
('too-few-customers', 10)
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import ClassVar

_FULL = (errno.ENOSPC, errno.EDQUOT)


class HanseError(Exception):
    """Base class of errors that a person can fix; the message quotes the faulty name and value.

    Args:
        message: What is wrong, in one line.
        code: Its name for programs: one of the family's codes; the family's own by default.
        hint: What to do about it, in one line.
    """

    code: str = "error"
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, code: str | None = None, hint: str = "") -> None:
        # Worker processes pickle their errors. `Exception` pickles its positional arguments and
        # its attributes, so the keyword arguments must be attributes.
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ConfigError(HanseError):
    """A setting is unknown, malformed or out of range."""

    code = "config"
    exit_status = 3


class ContradictingOptions(ConfigError):
    """Two options contradict each other."""

    code = "contradicting-options"
    exit_status = 4


class MissingDependency(HanseError):
    """An optional part of Hanse is not installed here."""

    code = "missing-dependency"
    exit_status = 5


class NotReady(HanseError):
    """A service is not running, or is unable to do its work."""

    code = "not-ready"
    exit_status = 6


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


class RunDirectoryError(HanseError):
    """The folder for a run cannot be written, or is in use."""

    code = "run-directory"
    exit_status = 20


class RunNotFound(HanseError):
    """No run has that name."""

    code = "run-not-found"
    exit_status = 21


class PrivacyError(HanseError):
    """A privacy guarantee could not be met, so nothing was released."""

    code = "privacy"
    exit_status = 30


class LedgerError(PrivacyError):
    """A store's record of what was spent cannot be read, trusted or written."""

    code = "ledger"
    exit_status = 33


class LedgerWentBack(LedgerError):
    """A store's record of what was spent lacks entries that the store remembers making."""

    code = "ledger-went-back"
    exit_status = 34


class BudgetSpent(PrivacyError):
    """A release would cost more than policy or manifest have left."""

    code = "budget-spent"
    exit_status = 35


class AuditFailed(PrivacyError):
    """A store's ledger is not as it was written, not true, or beyond the signed terms."""

    code = "audit-failed"
    exit_status = 36


class RoundLogError(PrivacyError):
    """The coordinator's round log is damaged, or cannot be written."""

    code = "round-log"
    exit_status = 37


class ClaimRefuted(AuditFailed):
    """An attack learnt more about customers than the claimed epsilon allows."""

    code = "claim-refuted"
    exit_status = 39


class FederationError(HanseError):
    """A round could not be completed."""

    code = "federation"
    exit_status = 40


class DeploymentError(HanseError):
    """A process, file or address of this machine is not in the state that the command needs."""

    code = "deployment"
    exit_status = 41


class AlreadyThere(DeploymentError):
    """A file or process to be created exists already, and is not replaced."""

    code = "already-there"
    exit_status = 42


class SuperLinkDown(DeploymentError):
    """The command needs the SuperLink, which does not answer."""

    code = "superlink-down"
    exit_status = 45


class Interrupted(HanseError):
    """The user stopped the run; it can be resumed."""

    code = "interrupted"
    exit_status = 130


class ProtocolError(HanseError):
    """A secure aggregation, identity or manifest check failed, and nothing was revealed.

    Args:
        message: What is wrong, in one line.
        code: One of the family's codes.
        hint: What to do about it, in one line.
        culprits: Stores whose messages caused the failure, where that is proven.
    """

    code = "protocol"
    exit_status = 50

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str = "",
        culprits: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.culprits = culprits


class MalformedMessage(ProtocolError):
    """Bytes that are not the canonical encoding of the expected message."""

    code = "malformed-message"
    exit_status = 51


class OutOfTurn(ProtocolError):
    """A message for another stage, or a second one for the same stage; it was ignored."""

    code = "out-of-turn"
    exit_status = 53


class ExpiredCertificate(ProtocolError):
    """A store's certificate is outside its period of validity."""

    code = "expired-certificate"
    exit_status = 56


class BadSignature(ProtocolError):
    """A signature does not verify under the certified key."""

    code = "bad-signature"
    exit_status = 57


class WeakKey(ProtocolError):
    """A public key of small order, or one whose private key the sender does not prove to hold.

    Anybody can compute the shared secret of the first. The second may be derived from another
    participant's key.
    """

    code = "weak-key"
    exit_status = 60


class BadShares(ProtocolError):
    """An encrypted share does not open, or is not the one its dealer signed for."""

    code = "bad-shares"
    exit_status = 61


class BadSum(ProtocolError):
    """A sum is unusable because of one of its inputs; its round is lost."""

    code = "wrong-share"
    exit_status = 64


class RoundFailed(ProtocolError):
    """A round cannot reach its threshold; the message lists the missing stores by stage."""

    code = "round-failed"
    exit_status = 67


class KeyFileError(ProtocolError):
    """A key or certificate file is missing, readable by others, or malformed."""

    code = "key-file"
    exit_status = 71


class BadManifest(ProtocolError):
    """A manifest is altered, or not signed by the enrolment authority."""

    code = "bad-manifest"
    exit_status = 72


class PolicyViolation(ProtocolError):
    """A manifest asks for something that a store's own policy does not allow."""

    code = "policy-violation"
    exit_status = 73


class StoreNotReady(HanseError):
    """A store lacks something that it needs to take part."""

    code = "store-not-ready"
    exit_status = 80


class Unreachable(HanseError):
    """The coordinator's server does not answer."""

    code = "unreachable"
    exit_status = 81


class UntrustedServer(HanseError):
    """The server's TLS certificate is not issued by the invitation's root certificate."""

    code = "untrusted-server"
    exit_status = 82


class NotAdmitted(HanseError):
    """The server does not know this store's node key, or has revoked it."""

    code = "not-admitted"
    exit_status = 83


FURTHER_CODES: Mapping[type[HanseError], Mapping[str, str]] = {
    ConfigError: {
        "unproven-statistics": "A phase releases statistics that the task cannot bound.",
        "task-not-deployed": "A task of another package cannot read a store's tables.",
        "base-version": "A pre-trained base is of another version than this program reads.",
    },
    NotReady: {
        "not-told": "A way by which somebody is told of an event failed.",
    },
    DataError: {
        "too-few-customers": "A store has fewer customers than it may train with.",
        "other-catalogue": "A model ranks classes of another catalogue than the store's.",
        "unreadable-texts": "The text encoder does not know too many of the catalogue's tokens.",
        "unknown-category": "The model ranks no such category.",
        "unknown-customer": "The store has no history under that pseudonym.",
    },
    RunDirectoryError: {
        "run-not-resumable": "The run cannot go on: it has no checkpoint, or its settings changed.",
        "model-not-found": "A folder holds no interest model, or an incomplete one.",
    },
    PrivacyError: {
        "inexact-clipping": "Per-customer gradients differ from gradients computed one by one.",
        "noise-missing": "The stores' sum has less noise than the manifest promises.",
        "unbounded-statistics": "A customer would add more to a sum of statistics than its noise "
        "covers.",
    },
    RoundLogError: {
        "log-forked": "A round log does not extend the one that was seen before: participants are "
        "shown different histories.",
    },
    FederationError: {
        "run-over": "The run that a message belongs to has ended; no process can answer.",
    },
    DeploymentError: {
        "admission-refused": "A store's request is genuine, yet cannot be granted as it stands.",
        "tls": "A TLS certificate or key cannot be read, does not fit, or is out of date.",
        "superlink-failed": "The SuperLink or the TLS gateway stopped, or refused a request.",
        "run-underway": "A federation trains one model at a time, and a run is underway.",
        "disk-full": "The disk that a store's folder is on is full.",
    },
    ProtocolError: {
        "unsupported-version": "A message of another protocol version.",
        "bad-certificate": "A store's certificate is missing, altered, or not the enrolment "
        "authority's.",
        "bad-roster": "The roster is unsorted, holds a duplicate or an outsider, or alters one's "
        "own entry.",
        "cohort-too-small": "Fewer stores than the manifest's minimum or threshold.",
        "bad-survivors": "The list of survivors names an outsider, lacks the store that reads it, "
        "or differs between stores.",
        "too-few-confirmations": "Fewer stores than the threshold signed the same list of "
        "survivors.",
        "bad-vector": "A vector of another length or type, with NaN or infinity, or beyond its "
        "bounds.",
        "false-accusation": "Evidence against a store is invalid, or shows no misconduct.",
        "attempt-refused": "A store has made this attempt before, or has no attempts left.",
        "store-excluded": "This attempt excludes the store.",
        "unsafe-terms": "Terms under which the protocol cannot keep its promises.",
        "bad-invitation": "An invitation cannot be read, or names no authority, address or root "
        "certificate.",
        "bad-enrolment-request": "A request to be admitted is altered, too old, or not signed by "
        "the key in it.",
        "not-answered": "A message is of a type that no enrolled store answers.",
        "unable": "A store could not compute a reply; the reason may depend on its customers.",
        "store-left": "The store has left the federation, or leaves before this round.",
    },
    OutOfTurn: {
        "wrong-header": "A message of another run, round, attempt, manifest or model; ignored.",
    },
    BadSum: {
        "forged-vector": "A sum that honest stores, or the planned customers, cannot have made: at "
        "least one vector in it was forged.",
        "round-noise-missing": "One round's sum has less noise than the manifest promises; that "
        "round is lost.",
    },
    PolicyViolation: {
        "foreign-code": "The coordinator's app bundle is not the one that manifest and policy "
        "name.",
    },
}
"""Further codes of a family, with their meaning; its own code means its docstring's first line."""


def unable() -> ProtocolError:
    """Return the error by which a store says that it could not compute a reply."""
    return ProtocolError(
        "this store cannot take part in this exchange",
        code="unable",
        hint="its own log says why",
    )


UNABLE = f"[{unable().code}] {unable()}"
"""The one sentence that a coordinator receives for every error that may depend on customers: too
few of them, an unreadable row, inexact clipping, memory that ran out."""

_PUBLIC = (ProtocolError, ConfigError, LedgerError, BudgetSpent, RoundLogError)
"""Families whose messages do not depend on customers: they quote public terms, or earlier
messages of the protocol."""


def families() -> dict[str, type[HanseError]]:
    """Return the family of every code, including those that other packages define.

    >>> families()["too-few-customers"].__name__
    'DataError'
    """
    by_code: dict[str, type[HanseError]] = {}
    queue = [HanseError]
    for family in queue:  # the loop appends to the list that it iterates over
        queue += family.__subclasses__()
        by_code |= dict.fromkeys((family.code, *FURTHER_CODES.get(family, ())), family)
    return by_code


def public_reason(error: BaseException) -> str:
    """Return what a store may tell the coordinator about an error.

    Messages of protocol and configuration errors quote public terms only, and are returned as
    they are. Of other errors that cannot depend on customers only the meaning of the code is
    returned. All errors that can depend on customers return the same sentence.

    >>> public_reason(WeakKey("public key 00… has small order"))
    '[weak-key] public key 00… has small order'
    >>> public_reason(BudgetSpent("epsilon=3.2 of 3"))
    '[budget-spent] A release would cost more than policy or manifest have left.'
    >>> {public_reason(e) for e in (DataError("'Ada' bought twice"), KeyError("Ada"))} == {UNABLE}
    True
    """
    error = _as_named(error)
    # An allow list: an error class that is added later says nothing until it is listed. Which
    # of the other errors it was would be a function of the data that is not noised.
    if isinstance(error, _PUBLIC) or getattr(error, "code", "") == "disk-full":
        return loggable_reason(error)
    return UNABLE


def loggable_reason(error: BaseException) -> str:
    """Return what a log may hold: an error's message, or only its kind if it may quote data.

    >>> loggable_reason(DataError("customer 'Ada' bought twice"))
    "[data] A store's data cannot be read or used."
    >>> loggable_reason(KeyError("Ada"))
    '[internal] KeyError'
    >>> loggable_reason(OSError(errno.ENOSPC, "No space left on device", "/srv/ada"))
    "[disk-full] The disk that a store's folder is on is full."
    """
    error = _as_named(error)
    if isinstance(error, ProtocolError | ConfigError):
        return f"[{error.code}] {error}"
    if isinstance(error, HanseError):
        return f"[{error.code}] {_meaning(error)}"
    return f"[internal] {type(error).__name__}"


def _meaning(error: HanseError) -> str:
    family = type(error)
    own = (family.__doc__ or "").strip().partition("\n")[0]
    return FURTHER_CODES.get(family, {}).get(error.code, own)


def _as_named(error: BaseException) -> BaseException:
    if isinstance(error, OSError) and error.errno in _FULL:
        return DeploymentError("the disk is full", code="disk-full")
    return error
