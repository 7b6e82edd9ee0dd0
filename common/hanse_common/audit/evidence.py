"""Finds and reads the evidence of an audit: ledgers, round logs, and stores' membership files.

    <store>/ledger.sqlite            the ledger; the only required file
    <store>/ledger.head              number and hash of the last entry, by the store
    <store>/checkpoints/*            the round logs that the store has seen
    <store>/enrolment/certificate    the key that signs; `certificate*`: earlier keys
    <store>/enrolment/policy.toml    the store's own limits, and the authority that it trusts
    <store>/enrolment/manifest.json  the signed terms; `manifest*.json`: earlier ones

    <run>/roundlog.sqlite            the coordinator's instructions and their outcomes
    <run>/roundlog.checkpoint        signed size and root of the log
    <run>/manifest.json              the coordinator's copy of the terms
    <run>/manifests/*.json           terms that it replaced

The files of `enrolment/` may also be in the ledger's folder, or in the one that `node.json`
names.
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
    MANIFESTS_FOLDER,
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
"""Most bytes of a manifest, policy, certificate, head or checkpoint; far more than any has."""
_LARGEST_DATABASE, _DATABASE = 16 << 30, Path(LEDGER_FILE).suffix
"""Most bytes of a ledger or a round log, and the suffix of their names."""
_PLAIN_FILES = "ask for the file as it lies at the store, and audit copies"
_SEEN = f"{LOG_CHECKPOINTS_FOLDER}/{'[0-9a-f]' * 16}"
"""Pattern of a store's last checkpoint of a log: the name is the start of the log's key."""

_T = TypeVar("_T")


class Files:
    """The files of one audit, each of which is read once, when it is first needed.

    Guarantees:
        All checks of an audit get the same content of a file, or the same error. Evidence that
        changes meanwhile cannot show different contents to different checks.
    """

    def __init__(self) -> None:
        self._read: dict[tuple[Path, object], Any] = {}

    def read(self, path: Path, load: Callable[[Path], _T]) -> _T | None:
        """Return a file's decoded content; None if there is no such file.

        Args:
            path: The file.
            load: Reads and decodes it. All callers must pass the same function for a kind of
                file, since the content is cached by path and function.

        Raises:
            HanseError: The file is unsuitable (`is_there`), or `load` fails.
        """
        key = path, load
        if key not in self._read:
            try:
                self._read[key] = load(path) if is_there(path) else None
            except HanseError as error:
                self._read[key] = error
        content = self._read[key]
        if isinstance(content, HanseError):
            raise content
        return cast("_T | None", content)

    def manifests(self, folder: Path) -> list[SignedManifest]:
        """Return the readable manifests in a folder, earlier ones included."""
        manifests = []
        for path in manifest_files(folder):
            with suppress(HanseError):
                signed = self.read(path, SignedManifest.load)
                if signed is not None:
                    manifests.append(signed)
        return manifests


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """One store's evidence: its ledger, and the files that the ledger must agree with.

    Args:
        store: Name of the folder, after its arm's if that is not the run's main arm.
        ledger: Path of the ledger, which may be missing: a head, or neighbours' ledgers, say
            that it should exist.
        enrolment: Folder of the membership files; None if there is none.
        simulated: Whether the node's noise is from a seed, so that it protects no customer.
        files: The audit's cache of files.
    """

    store: str
    ledger: Path
    enrolment: Path | None
    simulated: bool
    files: Files = field(default_factory=Files, compare=False, repr=False)

    def certificates(self) -> list[Certificate]:
        """Return the store's certificate, then earlier ones; signatures are not checked.

        Raises:
            KeyFileError: A file is not a certificate.
            LedgerError: A file is not a regular file.
        """
        if self.enrolment is None:
            return []
        newest = self.enrolment / CERTIFICATE_FILE
        if self.files.read(newest, Certificate.load) is None:
            return []
        earlier = (path for path in certificate_files(self.enrolment) if path != newest)
        read = (self.files.read(path, Certificate.load) for path in (newest, *earlier))
        return [certificate for certificate in read if certificate is not None]

    def policy(self) -> StorePolicy | None:
        """Return the store's policy; None if it is missing.

        Raises:
            ConfigError: The file holds an unknown or malformed setting.
            LedgerError: The file is not a regular file.
        """
        if self.enrolment is None:
            return None
        return self.files.read(self.enrolment / POLICY_FILE, StorePolicy.from_toml)

    def manifest(self) -> SignedManifest | None:
        """Return the manifest, None if it is missing; the signature is not checked.

        Raises:
            BadManifest: The file is not a manifest file.
            LedgerError: The file is not a regular file.
            ProtocolError [unsafe-terms]: Its terms break one of the protocol's promises.
        """
        if self.enrolment is None:
            return None
        return self.files.read(self.enrolment / MANIFEST_FILE, SignedManifest.load)

    def manifests(self) -> list[SignedManifest]:
        """Return the store's readable manifests, earlier ones included."""
        return [] if self.enrolment is None else self.files.manifests(self.enrolment)

    def checkpoints(self) -> list[Checkpoint]:
        """Return the last checkpoint that the store accepted of each round log it has seen.

        Raises:
            RoundLogError: A file is not a checkpoint.
            LedgerError: A file is not a regular file.
        """
        paths = sorted((self.ledger.parent / LOG_CHECKPOINTS_FOLDER).glob("*"))
        # A crash may have left the partial file of an atomic write.
        complete = (path for path in paths if path.suffix != PARTIAL)
        read = (self.files.read(path, Checkpoint.load) for path in complete)
        return [checkpoint for checkpoint in read if checkpoint is not None]

    def entries(self) -> list[Entry]:
        """Return the ledger's entries; the chain is checked, signatures and epsilon are not.

        Raises:
            LedgerError: The ledger is damaged; the message names the store and the entry.
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
        """Return the store's own record of its ledger's last entry; None if it is missing.

        Raises:
            LedgerError: The file is malformed.
        """
        return self.files.read(ledger_file.head_path(self.ledger), ledger_file.read_head)

    def copy(self) -> LedgerCopy | None:
        """Return a copy of the ledger; None if there is none.

        Raises:
            LedgerError: The file is not a ledger, or not a regular file.
        """
        with suppress(HanseError):
            # A running store appends an entry before it updates the head. The head must be read
            # first here: then it is never ahead of the entries that are read after it.
            self.head()
        return self.files.read(self.ledger, LedgerCopy.read)


@dataclass(frozen=True, kw_only=True, slots=True)
class LogEvidence:
    """A coordinator's round log, with the manifests in its folder.

    Args:
        path: Path of the records, which may be missing: a checkpoint says that they should
            exist.
        files: The audit's cache of files.
    """

    path: Path
    files: Files = field(default_factory=Files, compare=False, repr=False)

    def manifest(self) -> SignedManifest | None:
        """Return the manifest in the log's folder, or None; see `Evidence.manifest`."""
        return self.files.read(self.path.with_name(MANIFEST_FILE), SignedManifest.load)

    def manifests(self) -> list[SignedManifest]:
        """Return the readable manifests in the log's folder, earlier ones included."""
        return self.files.manifests(self.path.parent)


def is_there(path: Path) -> bool:
    """Return whether a file of evidence exists and is safe to read.

    Raises:
        LedgerError: It is not a regular file, or far larger than such files are: a pipe would
            block the audit, and a device would fill its memory.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise LedgerError(f"cannot read {path}: {reason}", hint=_PLAIN_FILES) from error
    if not stat.S_ISREG(status.st_mode):
        raise LedgerError(f"{path} is not a regular file", hint=_PLAIN_FILES)
    most = _LARGEST_DATABASE if path.suffix == _DATABASE else _LARGEST
    if status.st_size > most:
        raise LedgerError(
            f"{path} has {status.st_size} bytes, such a file has at most {most}",
            hint=_PLAIN_FILES,
        )
    return True


def find(path: Path, files: Files | None = None) -> list[Evidence]:
    """Return the evidence of every store under a path, sorted by name.

    Args:
        path: A `ledger.sqlite`, a store's folder, or a run's folder with all its arms.
        files: The audit's cache of files; a new one if unset.

    Raises:
        LedgerError: There is neither a ledger nor a round log.
    """
    files = Files() if files is None else files
    if path.is_file():
        single = [_evidence(path, path.absolute().parent.name, files)]
        return [] if path.name == ROUND_LOG_FILE else single
    # A head counts too: a ledger that was deleted must not go unnoticed.
    folders = {file.parent for name in ("*.sqlite", "*.head") for file in _ledgers(path, name)}
    # A store that has charged nothing can still have seen the round log.
    folders |= {seen.parents[1] for seen in path.rglob(_SEEN)}
    if not folders and not find_logs(path):
        what = "holds no ledger" if path.is_dir() else "does not exist"
        raise LedgerError(
            f"{path} {what}",
            hint="give a ledger.sqlite, a store's folder or a run's folder; a store writes a "
            "ledger from its first private round on",
        )
    # A store without a ledger is listed if its neighbours have one.
    parents = {folder.parent for folder in folders if folder != path}
    folders |= {node.parent for parent in parents for node in parent.glob(f"*/{NODE_FILE}")}
    return [
        _evidence(folder / LEDGER_FILE, _name(folder, path), files) for folder in sorted(folders)
    ]


def find_logs(path: Path) -> list[Path]:
    """Return the path of every round log under a path, sorted by folder."""
    if path.is_file():
        return [path] if path.name == ROUND_LOG_FILE else []
    # A checkpoint counts too: a log that was deleted must not go unnoticed.
    checkpoint = checkpoint_path(Path(ROUND_LOG_FILE)).name
    folders = {file.parent for name in (ROUND_LOG_FILE, checkpoint) for file in path.rglob(name)}
    return [folder / ROUND_LOG_FILE for folder in sorted(folders)]


def known_terms(holders: Iterable[Evidence | LogEvidence]) -> list[SignedManifest]:
    """Return every distinct manifest of stores and round logs; signatures are not checked.

    Any copy of a manifest will do: a store's charges can be checked against a neighbour's copy.
    Unreadable files are left out; the audit of their holder reports them.
    """
    manifests: dict[bytes, SignedManifest] = {}
    for holder in holders:
        for signed in holder.manifests():
            manifests.setdefault(signed.unchecked.digest() + signed.signature, signed)
    return list(manifests.values())


def certificate_files(folder: Path) -> list[Path]:
    """Return the paths of the certificates in a folder, earlier ones included."""
    paths = sorted(folder.glob(f"{CERTIFICATE_FILE}*"))
    return [path for path in paths if path.suffix != PARTIAL]


def manifest_files(folder: Path) -> list[Path]:
    """Return the paths of the manifests of a store or a coordinator, earlier ones included."""
    # `manifest.<digest>.json`, and with `-2` at the end where another authority signed the same.
    here = (path for path in folder.glob(f"{MANIFEST_STEM}*.json*") if path.suffix != PARTIAL)
    return sorted([*here, *(folder / MANIFESTS_FOLDER).glob("*.json")])


def trusted(signed: Iterable[SignedManifest], authority: bytes | None) -> dict[bytes, Manifest]:
    """Return the manifests that an authority signed, by digest; all if `authority` is None."""
    manifests: dict[bytes, Manifest] = {}
    for candidate in signed:
        with suppress(HanseError):
            manifest = candidate.unchecked if authority is None else candidate.check(authority)
            manifests[manifest.digest()] = manifest
    return manifests


def _ledgers(path: Path, pattern: str) -> Iterator[Path]:
    return (file for file in path.rglob(pattern) if file.stem == Path(LEDGER_FILE).stem)


def _has_membership(folder: Path) -> bool:
    try:
        return any(
            (folder / name).exists() for name in (CERTIFICATE_FILE, POLICY_FILE, MANIFEST_FILE)
        )
    except (OSError, ValueError):
        return False  # `node.json` may name anything, such as a path with a null byte


def _name(folder: Path, root: Path) -> str:
    parts = [part for part in folder.relative_to(root).parts if part != STORES_FOLDER]
    return "/".join(parts) or folder.absolute().name


def _evidence(ledger: Path, store: str, files: Files) -> Evidence:
    folder = ledger.parent
    node: dict[str, object] = {}
    # `node.json` is optional, and here an unsuitable file counts as none.
    with suppress(LedgerError):
        node = files.read(folder / NODE_FILE, json_file) or {}
    # The folders of the evidence come first: the node.json of a copy still names the paths of the
    # store's own machine.
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
