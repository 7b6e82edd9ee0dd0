"""What an auditor was handed: ledgers, round logs, and what makes a store a member.

    <store>/ledger.sqlite            all that is needed
    <store>/ledger.head              how far the store says it goes
    <store>/checkpoints/*            what the store has seen of the coordinator's round log
    <store>/enrolment/certificate    whose key signs; `certificate*` beside it: keys it had before
    <store>/enrolment/policy.toml    the store's own limits, and the authority it trusts
    <store>/enrolment/manifest.json  the federation's signed terms

    <run>/roundlog.sqlite            what the coordinator asked, and what came of it
    <run>/roundlog.checkpoint        how far it goes, signed
    <run>/manifest.json              the terms, as the coordinator has them

The files of `enrolment/` may also lie beside the ledger, or where `node.json` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hanse_common.decoding import json_file
from hanse_common.errors import LedgerError
from hanse_common.identity import Certificate
from hanse_common.manifest import SignedManifest
from hanse_common.policy import StorePolicy
from hanse_common.privacy import ledger_file
from hanse_common.privacy.chain import Fault, follow
from hanse_common.privacy.entry import Entry
from hanse_common.roundlog.checkpoint import Checkpoint
from hanse_common.roundlog.file import LOG_FILE, checkpoint_path

LEDGER, NODE, ENROLMENT = "ledger.sqlite", "node.json", "enrolment"
CERTIFICATE, POLICY, MANIFEST = "certificate", "policy.toml", "manifest.json"
CHECKPOINTS = "checkpoints"
_SEEN = f"{CHECKPOINTS}/{'[0-9a-f]' * 16}"
"""A store's last checkpoint of a log, by the beginning of the log's key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """Where one store's ledger lies, and where what it must agree with does.

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

    def certificates(self) -> list[Certificate]:
        """Return the store's certificate, then those it had before; signatures are unchecked.

        Raises:
            KeyFileError: A file is no certificate.
        """
        if self.enrolment is None or not (self.enrolment / CERTIFICATE).exists():
            return []
        earlier = sorted(self.enrolment.glob(f"{CERTIFICATE}?*"))
        return [Certificate.load(path) for path in (self.enrolment / CERTIFICATE, *earlier)]

    def policy(self) -> StorePolicy | None:
        """Return the store's own limits, if they were handed over.

        Raises:
            ConfigError: The file holds an unknown or malformed setting.
        """
        path = self.enrolment and self.enrolment / POLICY
        return StorePolicy.from_toml(path) if path and path.exists() else None

    def manifest(self) -> SignedManifest | None:
        """Return the terms, if they were handed over; the signature is unchecked.

        Raises:
            BadManifest: The file is not a manifest file.
        """
        path = self.enrolment and self.enrolment / MANIFEST
        return SignedManifest.load(path) if path and path.exists() else None

    def checkpoints(self) -> list[Checkpoint]:
        """Return the last checkpoint that the store accepted of each round log it has seen.

        Raises:
            RoundLogError: A file is no checkpoint.
        """
        paths = sorted((self.ledger.parent / CHECKPOINTS).glob("*"))
        found = (Checkpoint.load(path) for path in paths if path.suffix != ".partial")
        return [checkpoint for checkpoint in found if checkpoint is not None]

    def entries(self) -> list[Entry]:
        """Return the ledger's entries; the chain is checked, signatures and epsilon are not.

        Raises:
            LedgerError: There is no ledger, or it is damaged; names the store and the entry.
        """
        if not self.ledger.exists():
            return []
        with ledger_file.reading(self.ledger) as database:
            rows = ledger_file.read_rows(database, self.ledger)
        entries: list[Entry] = []
        for row in rows:
            found = follow(entries, row)
            if isinstance(found, Fault):
                raise LedgerError(
                    f"{self.store}: {found}", hint="`hanse audit verify` says what still holds"
                )
            entries.append(found)
        return entries


def find(path: Path) -> list[Evidence]:
    """Return every store's evidence under a path, in the order of their names.

    Args:
        path: A `ledger.sqlite`, a store's folder, or a run's folder with all its arms.

    Raises:
        LedgerError: There is no ledger.
    """
    if path.is_file():
        one = [_evidence(path, path.absolute().parent.name)]
        return [] if path.name == LOG_FILE else one
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
    kept |= {node.parent for parent in parents for node in parent.glob(f"*/{NODE}")}
    return [_evidence(folder / LEDGER, _name(folder, path)) for folder in sorted(kept)]


def find_logs(path: Path) -> list[Path]:
    """Return every round log under a path, in the order of their folders; there may be none."""
    if path.is_file():
        return [path] if path.name == LOG_FILE else []
    beside = checkpoint_path(Path(LOG_FILE)).name
    folders = {file.parent for name in (LOG_FILE, beside) for file in path.rglob(name)}
    return [folder / LOG_FILE for folder in sorted(folders)]


def _ledgers(path: Path, pattern: str) -> Iterator[Path]:
    return (file for file in path.rglob(pattern) if file.stem == Path(LEDGER).stem)


def _name(folder: Path, root: Path) -> str:
    parts = [part for part in folder.relative_to(root).parts if part != "stores"]
    return "/".join(parts) or folder.absolute().name


def _evidence(ledger: Path, store: str) -> Evidence:
    folder = ledger.parent
    node = json_file(folder / NODE)
    # What was handed over first: a copy's node.json still names the store's own machine.
    places = [folder / ENROLMENT, folder]
    if isinstance(node.get(ENROLMENT), str):
        places.append(Path(node[ENROLMENT]))
    known = (CERTIFICATE, POLICY, MANIFEST)
    enrolment = next((p for p in places if any((p / name).exists() for name in known)), None)
    return Evidence(
        store=store,
        ledger=ledger,
        enrolment=enrolment,
        simulated=node.get("seed") is not None,
    )
