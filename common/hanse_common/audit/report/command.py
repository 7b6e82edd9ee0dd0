"""The body of `hanse audit report`: audits a path and writes the page."""

from __future__ import annotations

import hashlib
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from hanse_common.audit.remembered import Remembered
from hanse_common.audit.report.content import Report
from hanse_common.audit.report.files import digests
from hanse_common.audit.report.gather import gather
from hanse_common.audit.report.page import render
from hanse_common.audit.verify import Verdict, verify_all
from hanse_common.durable import write_durably
from hanse_common.errors import ConfigError, LedgerError

_PAGE = "audit-report.html"


def audit_for_signing(
    path: Path,
    *,
    authority: bytes | None,
    remembered: Path | None,
    second_opinion: bool,
    stores: Sequence[int],
    require_all: bool = False,
) -> tuple[Report, Verdict]:
    """Audit everything under a path; faults are in both results and raise no error.

    Args:
        path: A path as for `evidence.find`.
        authority: The enrolment authority's public key that the auditor trusts.
        remembered: File with the JSON of an earlier audit.
        second_opinion: Also compute epsilon with Opacus.
        stores: Numbers of stores at which a person may shop.
        require_all: Treat missing evidence as a fault.

    Raises:
        LedgerError: There is no ledger, or a file changed during the audit.
        ConfigError: `remembered` is not an earlier audit.
    """
    words = ["hanse", "audit", "report", str(path)]
    words += [] if authority is None else ["--authority", authority.hex()]
    words += [] if remembered is None else ["--remembered", str(remembered)]
    words += ["--require-all"] if require_all else []
    words += [] if second_opinion else ["--no-second-opinion"]
    counts = sorted(set(stores))
    words += [word for count in counts for word in ("--stores", str(count))]
    # Digests before and after: the page must list those of the bytes that were audited.
    before = digests(path)
    verdict = verify_all(
        path,
        authority=authority,
        remembered=None if remembered is None else Remembered.read(remembered),
        second_opinion=second_opinion,
        require_all=require_all,
    )
    report = gather(
        path,
        verdict,
        before,
        authority=authority,
        stores=counts,
        command=shlex.join(words),
        now=int(time.time()),
    )
    if digests(path) != before:
        raise LedgerError(
            f"files under {path} changed while they were read", hint="audit a copy of them"
        )
    return report, verdict


def default_page(path: Path) -> Path:
    """Return the page's default path, in the folder of the evidence.

    >>> default_page(Path("runs/one/roundlog.sqlite"))
    PosixPath('runs/one/audit-report.html')
    """
    return (path if path.is_dir() else path.parent) / _PAGE


def write_page(report: Report, page: Path) -> str:
    """Write a report's page, replacing an older one; return its SHA-256 in hexadecimal.

    Raises:
        ConfigError: The page cannot be written.
        MissingDependency: jinja2 is not installed.
    """
    data = render(report).encode()
    try:
        write_durably(page, data)
    except OSError as error:
        raise ConfigError(
            f"cannot write {page}: {error.strerror}", hint="name another place with --output"
        ) from error
    return hashlib.sha256(data).hexdigest()
