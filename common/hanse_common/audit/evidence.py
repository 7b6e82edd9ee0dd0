"""What an auditor was handed: ledgers, round logs, and what makes a store a member.

    <store>/ledger.sqlite            all that is needed
    <store>/ledger.head              how far the store says it goes
    <store>/checkpoints/*            what the store has seen of the coordinator's round log
    <store>/enrolment/certificate    whose key signs; `certificate*` beside it: keys it had before
    <store>/enrolment/policy.toml    the store's own limits, and the authority it trusts
    <store>/enrolment/manifest.json  the federation's signed terms; `manifest*.json` beside it:
                                     those it had before

    <run>/roundlog.sqlite            what the coordinator asked, and what came of it
    <run>/roundlog.checkpoint        how far it goes, signed
    <run>/manifest.json              the terms, as the coordinator has them

The files of `enrolment/` may also lie beside the ledger, or where `node.json` says.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from hanse_common.decoding import json_file
from hanse_common.durable import PARTIAL
from hanse_common.errors import HanseError, LedgerError
from hanse_common.identity import Certificate
from hanse_common.manifest import Manifest, SignedManifest
from hanse_common.paths import (
    CERTIFICATE_FILE,
    ENROLMENT_FOLDER,
    LEDGER_FILE,
    LOG_CHECKPOINTS_FOLDER,
    MANIFEST_FILE,
    MANIFEST_STEM,
    NODE_FILE,
    POLICY_FILE,
    ROUND_LOG_FILE,
    STORES_FOLDER,
)
from hanse_common.policy import StorePolicy
from hanse_common.privacy import ledger_file
from hanse_common.privacy.entry import Entry
from hanse_common.privacy.ledger_file import Head
from hanse_common.privacy.verify import LedgerCopy
from hanse_common.roundlog.checkpoint import Checkpoint
from hanse_common.roundlog.file import checkpoint_path

_LARGEST = 16 << 20
"""Bytes of a manifest, a policy, a certificate, a head or a checkpoint: far more than any has."""
_LARGEST_DATABASE, _DATABASE = 16 << 30, Path(LEDGER_FILE).suffix
"""Of a ledger or a round log."""
_PLAIN_FILES = "ask for the file as it lies at the store, and audit copies"
_SEEN = f"{LOG_CHECKPOINTS_FOLDER}/{'[0-9a-f]' * 16}"
"""A store's last checkpoint of a log, by the beginning of the log's key."""


T = TypeVar("T")


class Files:
    """The files of one audit: each is read when it is first asked for, and once.

    Guarantees:
        Whoever asks for a file is given the same value, or the same error. Evidence that
        changes while it is audited cannot show one thing to one check and another to the next.
    """

    def __init__(self) -> None:
        self._read: dict[tuple[Path, object], Any] = {}

    def read(self, path: Path, load: Callable[[Path], T]) -> T | None:
        """Return what a file holds; None if there is no such file.

        Args:
            path: The file.
            load: Reads it; the same function for every reader of such a file.

        Raises:
            HanseError: As `is_there` and `load` do.
        """
        known = path, load
        if known not in self._read:
            try:
                self._read[known] = load(path) if is_there(path) else None
            except HanseError as error:
                self._read[known] = error
        found = self._read[known]
        if isinstance(found, HanseError):
            raise found
        return cast("T | None", found)

    def manifests(self, folder: Path) -> list[SignedManifest]:
        """Return the manifests in a folder, and earlier ones beside them, as far as readable."""
        found = []
        for path in manifest_files(folder):
            with suppress(HanseError):
                signed = self.read(path, SignedManifest.load)
                if signed is not None:
                    found.append(signed)
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What one store handed over: its ledger, and what the ledger must agree with.

    Args:
        store: The folder's name; under its arm's, if it is not the run's main one.
        ledger: Need not exist: its head, or its neighbours' ledgers, say that it should.
        enrolment: Folder of the store's membership; None if there is none.
        simulated: The node's noise is repeatable, and protects nobody.
    """

    store: str
    ledger: Path
    enrolment: Path | None
    simulated: bool
    files: Files = field(default_factory=Files, compare=False, repr=False)

    def certificates(self) -> list[Certificate]:
        """Return the store's certificate, then those it had before; signatures are unchecked.

        Raises:
            KeyFileError: A file is no certificate.
            LedgerError: One is no plain file.
        """
        if self.enrolment is None:
            return []
        newest = self.enrolment / CERTIFICATE_FILE
        if self.files.read(newest, Certificate.load) is None:
            return []
        earlier = (path for path in certificate_files(self.enrolment) if path != newest)
        found = (self.files.read(path, Certificate.load) for path in (newest, *earlier))
        return [certificate for certificate in found if certificate is not None]

    def policy(self) -> StorePolicy | None:
        """Return the store's own limits, if they were handed over.

        Raises:
            ConfigError: The file holds an unknown or malformed setting.
            LedgerError: It is no plain file.
        """
        if self.enrolment is None:
            return None
        return self.files.read(self.enrolment / POLICY_FILE, StorePolicy.from_toml)

    def manifest(self) -> SignedManifest | None:
        """Return the terms, if they were handed over; the signature is unchecked.

        Raises:
            BadManifest: The file is not a manifest file.
            LedgerError: It is no plain file.
            ProtocolError [unsafe-terms]: Its terms break one of the protocol's promises.
        """
        if self.enrolment is None:
            return None
        return self.files.read(self.enrolment / MANIFEST_FILE, SignedManifest.load)

    def manifests(self) -> list[SignedManifest]:
        """Return the terms and those the store had before, as far as they can be read."""
        return [] if self.enrolment is None else self.files.manifests(self.enrolment)

    def checkpoints(self) -> list[Checkpoint]:
        """Return the last checkpoint that the store accepted of each round log it has seen.

        Raises:
            RoundLogError: A file is no checkpoint.
            LedgerError: One is no plain file.
        """
        paths = sorted((self.ledger.parent / LOG_CHECKPOINTS_FOLDER).glob("*"))
        kept = (path for path in paths if path.suffix != PARTIAL)
        found = (self.files.read(path, Checkpoint.load) for path in kept)
        return [checkpoint for checkpoint in found if checkpoint is not None]

    def entries(self) -> list[Entry]:
        """Return the ledger's entries; the chain is checked, signatures and epsilon are not.

        Raises:
            LedgerError: There is no ledger, or it is damaged; names the store and the entry.
        """
        copy = self.copy()
        if copy is None:
            return []
        if copy.unreadable is not None:
            raise copy.unreadable
        if copy.fault is not None:
            raise LedgerError(
                f"{self.store}: {copy.fault}", hint="`hanse audit verify` says what still holds"
            )
        return list(copy.entries)

    def head(self) -> Head | None:
        """Return how far the store says that its ledger goes; None if it does not say.

        Raises:
            LedgerError: The file is something else.
        """
        return self.files.read(ledger_file.head_path(self.ledger), ledger_file.read_head)

    def copy(self) -> LedgerCopy | None:
        """Return the ledger as it lies there; None if there is none.

        Raises:
            LedgerError: The file is no ledger, or no plain file.
        """
        with suppress(HanseError):
            # A store that is audited while it runs adds entries before it moves its head: a
            # head that is read first is never ahead of the entries that are read after it.
            self.head()
        return self.files.read(self.ledger, LedgerCopy.read)


@dataclass(frozen=True, kw_only=True, slots=True)
class LogEvidence:
    """A coordinator's round log, and the terms that lie beside it.

    Args:
        path: Of the records; need not exist: its checkpoint says that it should.
    """

    path: Path
    files: Files = field(default_factory=Files, compare=False, repr=False)

    def manifest(self) -> SignedManifest | None:
        """Return the terms beside the log; None if there are none. See `Evidence.manifest`."""
        return self.files.read(self.path.with_name(MANIFEST_FILE), SignedManifest.load)

    def manifests(self) -> list[SignedManifest]:
        """Return the terms beside the log and earlier ones, as far as they can be read."""
        return self.files.manifests(self.path.parent)


def is_there(path: Path) -> bool:
    """Whether a file of evidence is there, to be read as it is.

    Raises:
        LedgerError: What is there is no plain file, or far larger than such a file is: a pipe
            would keep the audit waiting, and a device would fill its memory.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise LedgerError(f"cannot read {path}: {reason}", hint=_PLAIN_FILES) from error
    if not stat.S_ISREG(status.st_mode):
        raise LedgerError(f"{path} is no plain file", hint=_PLAIN_FILES)
    most = _LARGEST_DATABASE if path.suffix == _DATABASE else _LARGEST
    if status.st_size > most:
        raise LedgerError(
            f"{path} has {status.st_size} bytes, such a file has at most {most}",
            hint=_PLAIN_FILES,
        )
    return True


def find(path: Path, files: Files | None = None) -> list[Evidence]:
    """Return every store's evidence under a path, in the order of their names.

    Args:
        path: A `ledger.sqlite`, a store's folder, or a run's folder with all its arms.
        files: Of the audit; its own if unset.

    Raises:
        LedgerError: There is no ledger.
    """
    files = Files() if files is None else files
    if path.is_file():
        one = [_evidence(path, path.absolute().parent.name, files)]
        return [] if path.name == ROUND_LOG_FILE else one
    kept = {file.parent for name in ("*.sqlite", "*.head") for file in _ledgers(path, name)}
    # A store that has charged nothing can still say what it was shown of the round log.
    kept |= {seen.parents[1] for seen in path.rglob(_SEEN)}
    if not kept and not find_logs(path):
        what = "holds no ledger" if path.is_dir() else "does not exist"
        raise LedgerError(
            f"{path} {what}",
            hint="give a ledger.sqlite, a store's folder or a run's folder; a store writes a "
            "ledger from its first private round on",
        )
    # Where neighbours have a ledger, a store without one is worth a line.
    parents = {folder.parent for folder in kept if folder != path}
    kept |= {node.parent for parent in parents for node in parent.glob(f"*/{NODE_FILE}")}
    return [_evidence(folder / LEDGER_FILE, _name(folder, path), files) for folder in sorted(kept)]


def find_logs(path: Path) -> list[Path]:
    """Return every round log under a path, in the order of their folders; there may be none."""
    if path.is_file():
        return [path] if path.name == ROUND_LOG_FILE else []
    beside = checkpoint_path(Path(ROUND_LOG_FILE)).name
    folders = {file.parent for name in (ROUND_LOG_FILE, beside) for file in path.rglob(name)}
    return [folder / ROUND_LOG_FILE for folder in sorted(folders)]


def known_terms(holders: Iterable[Evidence | LogEvidence]) -> list[SignedManifest]:
    """Return every manifest that lies at a store or beside a round log; signatures unchecked.

    Terms are the same whoever hands them over: a store's charges can be held against the copy
    of a neighbour. What cannot be read is left out; the audit of its holder says so.
    """
    found: dict[bytes, SignedManifest] = {}
    for holder in holders:
        for signed in holder.manifests():
            found.setdefault(signed.unchecked.digest() + signed.signature, signed)
    return list(found.values())


def certificate_files(folder: Path) -> list[Path]:
    """The certificate in a folder, and earlier ones beside it."""
    found = sorted(folder.glob(f"{CERTIFICATE_FILE}*"))
    return [path for path in found if path.suffix != PARTIAL]


def manifest_files(folder: Path) -> list[Path]:
    """The manifest in a folder, and earlier ones beside it."""
    return sorted(folder.glob(f"{MANIFEST_STEM}*.json"))


def trusted(signed: Iterable[SignedManifest], authority: bytes | None) -> dict[bytes, Manifest]:
    """Return the manifests that an authority signed, by digest; all of them if none is known."""
    found: dict[bytes, Manifest] = {}
    for one in signed:
        with suppress(HanseError):
            manifest = one.unchecked if authority is None else one.check(authority)
            found[manifest.digest()] = manifest
    return found


def _ledgers(path: Path, pattern: str) -> Iterator[Path]:
    return (file for file in path.rglob(pattern) if file.stem == Path(LEDGER_FILE).stem)


def _has_membership(folder: Path) -> bool:
    try:
        return any(
            (folder / name).exists() for name in (CERTIFICATE_FILE, POLICY_FILE, MANIFEST_FILE)
        )
    except (OSError, ValueError):
        return False  # `node.json` says what is no path here.


def _name(folder: Path, root: Path) -> str:
    parts = [part for part in folder.relative_to(root).parts if part != STORES_FOLDER]
    return "/".join(parts) or folder.absolute().name


def _evidence(ledger: Path, store: str, files: Files) -> Evidence:
    folder = ledger.parent
    node: dict[str, object] = {}
    # What is no plain file is nothing: a store need not have one.
    with suppress(LedgerError):
        node = files.read(folder / NODE_FILE, json_file) or {}
    # What was handed over first: a copy's node.json still names the store's own machine.
    places = [folder / ENROLMENT_FOLDER, folder]
    named = node.get("enrolment")
    if isinstance(named, str):
        places.append(Path(named))
    enrolment = next((place for place in places if _has_membership(place)), None)
    return Evidence(
        store=store,
        ledger=ledger,
        enrolment=enrolment,
        simulated=node.get("seed") is not None,
        files=files,
    )
