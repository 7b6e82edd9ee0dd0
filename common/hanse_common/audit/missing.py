"""Finds missing evidence of the stores that manifests and round logs name.

Checks of the evidence say nothing about evidence that is withheld. Signed manifests, and the
rosters and receipts of round logs, name the stores. Each store owes its ledger and head, its
certificate, its policy, its copy of the manifest, and its checkpoint of each round log.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanse_common.audit.crosscheck import LogAudit
from hanse_common.audit.evidence import Evidence, LogEvidence, known_terms, trusted
from hanse_common.audit.grouping import Group, group_evidence
from hanse_common.audit.naming import store_id
from hanse_common.paths import (
    CERTIFICATE_FILE,
    LEDGER_FILE,
    LOG_CHECKPOINTS_FOLDER,
    MANIFEST_FILE,
    POLICY_FILE,
)
from hanse_common.privacy.ledger_file import head_path
from hanse_common.wording import counted

OWED = (
    LEDGER_FILE,
    head_path(Path(LEDGER_FILE)).name,
    CERTIFICATE_FILE,
    POLICY_FILE,
    MANIFEST_FILE,
)
"""Files that every store owes, besides its checkpoint of each round log."""
_SHOWN_DIGITS = 16
"""Hexadecimal digits of a log's key in the name of a checkpoint's file."""
_MOST_NAMED = 20
"""Most stores that a sentence names; JSON and the report's page list all of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Missing:
    """A store with missing evidence.

    Args:
        store: Its id in manifests and rosters.
        federation: The federation's name in the terms; empty if only a log names the store.
        named_by: `manifest`, `round log`, or both.
        folder: `Evidence.store` of the evidence that exists; None if there is none.
        files: Names of the missing files.
        rosters: Number of rosters of the round log that list it; None without a log.
        receipts: Number of its receipts in the log; None without a log.
    """

    store: str
    federation: str
    named_by: tuple[str, ...]
    folder: str | None
    files: tuple[str, ...]
    rosters: int | None
    receipts: int | None

    @property
    def what(self) -> str:
        """The missing files, in words."""
        return "everything" if self.folder is None else ", ".join(self.files)

    @property
    def known_from(self) -> str:
        """What names the store, and its part in the round log, in words."""
        source = f"named by the {' and the '.join(self.named_by)}"
        if self.rosters is None:
            return source
        if not self.rosters:
            return f"{source}; by the log it never took part, there is no receipt"
        receipts = counted(self.receipts or 0, "receipt")
        return f"{source}; in {counted(self.rosters, 'roster')}, {receipts}"

    def row(self) -> dict[str, Any]:
        """Return the store for JSON."""
        return {
            "store": self.store,
            "federation": self.federation,
            "named_by": list(self.named_by),
            "folder": self.folder,
            "files": list(self.files),
            "rosters": self.rosters,
            "receipts": self.receipts,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Gaps:
    """All missing evidence.

    Args:
        named: Number of stores that manifests and logs name.
        stores: The stores with missing evidence.
        logs: Keys, in hexadecimal, of missing round logs that a manifest names.
    """

    named: int
    stores: tuple[Missing, ...]
    logs: tuple[str, ...]

    @property
    def notes(self) -> list[str]:
        """The open points that follow, one for all stores with the same gaps."""
        points = [
            f"evidence of {names}: {first.what} missing ({first.known_from})"
            for names, first in _alike(self.stores, lambda one: f"{one.what}/{one.known_from}")
        ]
        return points + [f"what stores were asked: {_no_log(key)}" for key in self.logs]

    @property
    def faults(self) -> list[str]:
        """The faults that follow, if all evidence is required."""
        if not self.named:
            return ["evidence is missing: no manifest and no round log says which stores there are"]
        gaps = [f"{names} ({first.what})" for names, first in _alike(self.stores, _what)]
        faults = [f"evidence is missing of {'; '.join(gaps)}"] if gaps else []
        return faults + [_no_log(key) for key in self.logs]

    def row(self) -> dict[str, Any]:
        """Return the gaps for JSON."""
        return {
            "named": self.named,
            "stores": [one.row() for one in self.stores],
            "logs": list(self.logs),
        }


def _what(one: Missing) -> str:
    return one.what


def _alike(stores: Sequence[Missing], of: Callable[[Missing], str]) -> list[tuple[str, Missing]]:
    """Group stores by a text; return each group's names and its first store."""
    groups: defaultdict[str, list[Missing]] = defaultdict(list)
    for missing in stores:
        groups[of(missing)].append(missing)
    return [(_names([m.store for m in group]), group[0]) for group in groups.values()]


def _names(stores: Sequence[str]) -> str:
    more = len(stores) - _MOST_NAMED
    return ", ".join(stores[:_MOST_NAMED]) + (f" and {more} others" if more > 0 else "")


def _no_log(key: str) -> str:
    return f"the round log of key {key[:_SHOWN_DIGITS]}… is missing: a manifest names it"


def find_gaps(
    stores: Sequence[Evidence],
    logs: Mapping[LogEvidence, tuple[LogAudit, Sequence[Evidence]]],
    *,
    authority: bytes | None,
) -> Gaps:
    """Compare the evidence with the stores that manifests and round logs name.

    Args:
        stores: The evidence of all stores.
        logs: Each round log with its audit and the stores below its folder.
        authority: The authority whose manifests count; all readable ones if None.

    Guarantees:
        Every store that a manifest of the authority or a roster names, and that lacks any file,
        is in the result. A folder belongs to the store in its certificate; without one, to the
        store whose key signed the ledger, by the round log; or else to the store of the folder's
        name.
    """
    below = {store.ledger for _, mine in logs.values() for store in mine}
    # Without terms and outside of every log's folder, evidence could belong to any group.
    unassigned = [
        evidence
        for evidence in stores
        if evidence.ledger not in below and not trusted(known_terms([evidence]), authority)
    ]
    named, missing, keys = 0, [], []
    for group in group_evidence(stores, logs, authority):
        expected = _expected(group)
        named += len(expected)
        by_id: defaultdict[str, list[Evidence]] = defaultdict(list)
        certified = {key: name for log in group.logs for key, name in log.certified.items()}
        for evidence in dict.fromkeys([*group.stores, *unassigned]):
            name = store_id(evidence, certified) or evidence.store.rpartition("/")[2]
            by_id[name].append(evidence)
        gaps = (_missing(name, by, by_id[name], group) for name, by in sorted(expected.items()))
        missing += [gap for gap in gaps if gap is not None]
        present = {log.checkpoint.log_key.hex() for log in group.logs if log.checkpoint}
        promised = {manifest.log_key for manifest in group.terms.values()}
        keys += sorted(key for key in promised - present if key is not None)
    return Gaps(named=named, stores=tuple(missing), logs=tuple(dict.fromkeys(keys)))


def _expected(group: Group) -> dict[str, tuple[str, ...]]:
    """Return the stores that a group's evidence names, each with what names it."""
    listed = {name for manifest in group.terms.values() for name in manifest.stores}
    logged = {name for log in group.logs for name in (*log.rosters, *log.given)}
    return {
        name: ("manifest",) * (name in listed) + ("round log",) * (name in logged)
        for name in listed | logged
    }


def _missing(
    name: str, by: tuple[str, ...], places: Sequence[Evidence], group: Group
) -> Missing | None:
    terms = [manifest for manifest in group.terms.values() if name in manifest.stores]
    # A store must have seen the logs that its terms name, and those whose rosters list it.
    keys = {manifest.log_key for manifest in terms if manifest.log_key is not None}
    keys |= {
        log.checkpoint.log_key.hex()
        for log in group.logs
        if log.checkpoint is not None and name in log.rosters
    }
    lacks = {evidence.store: _files_missing(evidence, keys) for evidence in places}
    # Copies of a store's evidence are judged by the most complete one.
    folder = min(lacks, key=lambda store: len(lacks[store]), default=None)
    files = [*OWED, *_checkpoint_files(keys)] if folder is None else lacks[folder]
    if not files:
        return None
    return Missing(
        store=name,
        federation=terms[0].federation if terms else "",
        named_by=by,
        folder=folder,
        files=tuple(files),
        rosters=sum(log.rosters.get(name, 0) for log in group.logs) if group.logs else None,
        receipts=sum(log.given.get(name, 0) for log in group.logs) if group.logs else None,
    )


def _files_missing(evidence: Evidence, keys: set[str]) -> list[str]:
    """Return the names of owed files that a store's evidence lacks."""
    own = evidence.ledger.parent
    member = evidence.enrolment or own
    places = {
        LEDGER_FILE: evidence.ledger,
        head_path(Path(LEDGER_FILE)).name: head_path(evidence.ledger),
        **{name: member / name for name in (CERTIFICATE_FILE, POLICY_FILE, MANIFEST_FILE)},
    }
    owed = [(name, places[name]) for name in OWED]
    owed += [(name, own / name) for name in _checkpoint_files(keys)]
    return [name for name, path in owed if not path.is_file()]


def _checkpoint_files(keys: set[str]) -> list[str]:
    return [f"{LOG_CHECKPOINTS_FOLDER}/{key[:_SHOWN_DIGITS]}" for key in sorted(keys)]
