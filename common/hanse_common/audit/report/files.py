"""Lists the files that an audit reads, each with its digest."""

from __future__ import annotations

import hashlib
from pathlib import Path

from hanse_common.audit.evidence import (
    Evidence,
    certificate_files,
    find,
    find_logs,
    is_there,
    manifest_files,
)
from hanse_common.audit.report.content import Digest
from hanse_common.errors import LedgerError
from hanse_common.paths import LOG_CHECKPOINTS_FOLDER, NODE_FILE, POLICY_FILE
from hanse_common.privacy.ledger_file import head_path
from hanse_common.roundlog.file import checkpoint_path


def digests(path: Path) -> tuple[Digest, ...]:
    """Return the SHA-256 of every file that an audit of this path reads.

    Raises:
        LedgerError: There is no ledger, or a file cannot be read.
    """
    logs = [file for log in find_logs(path) for file in (log, checkpoint_path(log))]
    # `logs` holds pairs of a log and its checkpoint, in one folder.
    terms = [file for log in logs[::2] for file in manifest_files(log.parent)]
    own = [
        Digest(store=evidence.store, file=_shown(file, evidence), sha256=_sha256(file))
        for evidence in find(path)
        for file in _files(evidence)
        if _was_read(file)
    ]
    shared = [
        Digest(store="", file=below(file, path), sha256=_sha256(file))
        for file in sorted([*logs, *terms])
        if _was_read(file)
    ]
    return (*own, *shared)


def below(file: Path, path: Path) -> str:
    """Return a file's name relative to the audited path."""
    return str(file.relative_to(path)) if path.is_dir() else file.name


def _files(evidence: Evidence) -> list[Path]:
    store, folder = evidence.ledger.parent, evidence.enrolment
    own = [evidence.ledger, head_path(evidence.ledger), store / NODE_FILE]
    own += sorted((store / LOG_CHECKPOINTS_FOLDER).glob("*"))
    if folder is not None:
        own += [
            *certificate_files(folder),
            folder / POLICY_FILE,
            *manifest_files(folder),
        ]
    return own


def _shown(path: Path, evidence: Evidence) -> str:
    folder = evidence.ledger.parent
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _was_read(file: Path) -> bool:
    """Return whether the audit read a file; it skips unsuitable files, as `is_there` defines."""
    try:
        return is_there(file)
    except LedgerError:
        return False


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise LedgerError(f"cannot read {path}: {error.strerror}") from error
