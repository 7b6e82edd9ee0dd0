"""An audit opens each file of evidence once, and believes the same thing of it throughout."""

import os
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from hanse_common.audit.evidence import Files, find
from hanse_common.audit.report.command import audit_for_signing
from hanse_common.audit.verify import verify_all
from hanse_common.errors import LedgerError
from hanse_common.identity import CoordinatorKey
from hanse_common.manifest import SignedManifest
from hanse_common.paths import MANIFEST_FILE, ROUND_LOG_FILE, STORES_FOLDER
from hanse_common.roundlog.records import Published
from hanse_server.roundlog import RoundLog
from kits.audit import AuditedRun

_counting: list[Counter[Path]] = []


def _watch(event, arguments):
    """Count what Python opens; a hook cannot be taken back, so it asks whether anybody counts."""
    if not _counting or event not in ("open", "sqlite3.connect"):
        return
    name = arguments[0]
    if not isinstance(name, str | bytes | os.PathLike):
        return
    text = os.fsdecode(name)
    path = Path(unquote(urlsplit(text).path) if text.startswith("file:") else text)
    _counting[-1][path.absolute()] += 1


sys.addaudithook(_watch)


@contextmanager
def counted():
    """How often each file was opened."""
    _counting.append(Counter())
    try:
        yield _counting[-1]
    finally:
        _counting.pop()


@pytest.fixture
def run(tmp_path):
    """Two stores with earlier terms, below a round log with terms beside it."""
    made = AuditedRun(tmp_path / "run")
    signed = SignedManifest.sign(made.manifest, made.authority)
    signed.save(made.folder / MANIFEST_FILE)
    signed.save(made.store("luebeck") / "enrolment" / "manifest.2025.json")
    log = RoundLog.open(made.folder / ROUND_LOG_FILE, CoordinatorKey.generate())
    log.append(Published(run=1, round=0, model_digest=bytes(32)))
    return made


def opened_below(run, opened):
    """What of the evidence was opened, by its name under the run's folder."""
    folder = run.folder.absolute()
    found = {path: times for path, times in opened.items() if path.is_relative_to(folder)}
    return {str(p.relative_to(folder)): times for p, times in found.items() if not p.is_dir()}


def test_one_verification_opens_every_file_once(run):
    with counted() as opened:
        verdict = verify_all(run.folder, second_opinion=False)
    assert [audit.fault for audit in verdict.stores] == [None, None]
    found = opened_below(run, opened)
    each = (
        *("ledger.sqlite", "ledger.head"),
        *("enrolment/certificate", "enrolment/policy.toml", "enrolment/manifest.json"),
    )
    expected = {f"{STORES_FOLDER}/{s}/{file}" for s in ("bremen", "luebeck") for file in each}
    expected |= {f"{STORES_FOLDER}/luebeck/enrolment/manifest.2025.json"}
    expected |= {"roundlog.sqlite", "roundlog.checkpoint", "manifest.json"}
    assert found == dict.fromkeys(expected, 1)


def test_a_report_opens_every_ledger_once_beside_its_digests(run):
    with counted() as opened:
        audit_for_signing(
            run.folder, authority=None, remembered=None, second_opinion=False, stores=(1,)
        )
    found = opened_below(run, opened)
    # Before and after it, every file is read for its digest.
    assert {found[f"{STORES_FOLDER}/{s}/ledger.sqlite"] for s in ("bremen", "luebeck")} == {3}


def test_a_ledger_that_changes_meanwhile_does_not_show_two_things(run):
    (evidence,) = find(run.store("bremen"))
    before = evidence.entries()
    run.charge("bremen", 3, 3)
    assert evidence.entries() == before
    assert len(find(run.store("bremen"))[0].entries()) == len(before) + 1


def test_what_cannot_be_read_is_the_same_error_each_time(tmp_path):
    files, asked = Files(), []

    def load(path):
        asked.append(path)
        raise LedgerError("damaged")

    path = tmp_path / "file"
    path.touch()
    for _ in range(2):
        with pytest.raises(LedgerError):
            files.read(path, load)
    assert asked == [path]
    assert files.read(tmp_path / "nothing", load) is None


def test_what_a_crash_left_beside_a_certificate_is_no_earlier_one(run):
    (evidence,) = find(run.store("bremen"))
    before = evidence.certificates()
    (run.store("bremen") / "enrolment" / "certificate.partial").write_text("half")
    assert find(run.store("bremen"))[0].certificates() == before
