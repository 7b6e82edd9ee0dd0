"""Builds the report's content from a verdict, with the same functions as the other commands."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from hanse_common.audit.crosscheck import LogAudit
from hanse_common.audit.evidence import Evidence, trusted
from hanse_common.audit.repeats import repeats_in_words
from hanse_common.audit.report import sentences
from hanse_common.audit.report.content import (
    Digest,
    FederationTerms,
    Mechanism,
    Note,
    Problem,
    Report,
    RoundLog,
    Rounds,
    Status,
    StoreFigures,
)
from hanse_common.audit.report.files import below
from hanse_common.audit.report.meaning import meaning
from hanse_common.audit.spending import RoundRow, budget_of, rounds_of
from hanse_common.audit.store_checks import Audit
from hanse_common.audit.terms import under
from hanse_common.audit.verify import Verdict
from hanse_common.identity import fingerprint
from hanse_common.manifest import Manifest
from hanse_common.manifest_noise import honest_survivors
from hanse_common.privacy.accounting import accountant
from hanse_common.privacy.entry import Entry

_NO_ROUND_LOG = "what left a store without a charge: no log of rounds was handed over"


def gather(
    path: Path,
    verdict: Verdict,
    files: Sequence[Digest],
    *,
    authority: bytes | None,
    stores: Sequence[int],
    command: str,
    now: int,
) -> Report:
    """Build the report of an audit.

    Args:
        path: The audited path.
        verdict: Result of `verify_all`.
        files: Digests of the files that the audit read.
        authority: The enrolment authority's public key that the auditor trusts.
        stores: Numbers of stores at which a person may shop.
        command: Command line that repeats the audit.
        now: Unix time.

    Guarantees:
        A store with a fault is among the problems, and the report has no figure of its ledger.
    """
    audits, logs = verdict.stores, verdict.logs
    evidences = verdict.evidence
    good = [(e, audit) for e, audit in zip(evidences, audits, strict=True) if audit.fault is None]
    figures = [
        _figures(evidence, audit, stores) for evidence, audit in good if audit.ledger.exists()
    ]
    entries = {evidence.store: evidence.entries() for evidence, _ in good}
    names = {log.log: below(log.log, path) for log in logs}
    verified = _notes((note, audit.store) for audit in audits for note in audit.verified)
    verified += _notes((note, names[log.log]) for log in logs for note in log.verified)
    unverified = _notes((note, audit.store) for audit in audits for note in audit.unverified)
    unverified += _notes((note, names[log.log]) for log in logs for note in log.unverified)
    repeated = _notes((note, a.store) for a in audits for note in repeats_in_words(a.uses, "entry"))
    repeated += _notes(
        (note, names[log.log]) for log in logs for note in repeats_in_words(log.uses, "record")
    )
    gaps = verdict.gaps
    if not verdict.all_required:
        unverified += [Note(text=text, where=()) for text in gaps.notes]
    if not logs:
        unverified.append(Note(text=_NO_ROUND_LOG, where=tuple(a.store for a in audits)))
    status: Status = "failed" if verdict.faults else "incomplete" if unverified else "verified"
    charged = [store for store in figures if store.target_delta]
    worst = max(charged, key=lambda store: store.epsilon, default=None)
    simulated = any(evidence.simulated for evidence in evidences)
    terms = _terms(good, entries, authority)
    mechanisms = _mechanisms(entries)
    return Report(
        status=status,
        audited=len(audits),
        problems=tuple(_problems(verdict)),
        simulated=simulated,
        statement=sentences.statement(
            status,
            charged,
            terms,
            mechanisms,
            len(unverified),
            simulated=simulated,
            missing=len(gaps.stores),
            named=gaps.named,
        ),
        unit=sentences.unit(charged, terms),
        worst=None if worst is None else worst.store,
        meaning={
            count: meaning(*max((s.at_stores[count], s.target_delta) for s in charged))
            for count in (stores if charged else ())
        },
        figures=tuple(figures),
        terms=tuple(terms),
        mechanisms=tuple(mechanisms),
        rounds=tuple(_grouped(row for evidence, _ in good for row in rounds_of(evidence))),
        accountants=tuple(sorted({e.accountant for ledger in entries.values() for e in ledger})),
        accountant=accountant(),
        second_accountant=_second(audits),
        sights=sentences.sights(mechanisms),
        assumptions=sentences.assumptions(mechanisms, terms),
        not_covered=sentences.NOT_COVERED,
        verified=tuple(verified),
        repeated=tuple(repeated),
        unverified=tuple(unverified),
        named=gaps.named,
        missing=gaps.stores,
        round_logs=tuple(_round_log(log, names[log.log]) for log in logs),
        authorities=_authorities(good, authority),
        authority_given=authority is not None,
        files=tuple(files),
        # A file's name may hold bytes that are not UTF-8.
        evidence_digest=hashlib.sha256(
            "".join(f"{file.sha256} {file.store}/{file.file}\n" for file in files).encode(
                errors="backslashreplace"
            )
        ).hexdigest(),
        command=command,
        made=now,
        version=version("hanse"),
    )


def _problems(verdict: Verdict) -> list[Problem]:
    problems = [
        Problem(
            store=audit.store,
            entry=audit.fault.sequence,
            problem=audit.fault.problem,
            detail=audit.fault.detail,
        )
        for audit in verdict.stores
        if audit.fault is not None
    ]
    problems += [
        Problem(store=store, entry=0, problem="the ledger is gone", detail="it is remembered")
        for store in verdict.gone
    ]
    problems += [
        Problem(store="all stores", entry=0, problem="not everything is here", detail=fault)
        for fault in (verdict.gaps.faults if verdict.all_required else [])
    ]
    return problems + [
        Problem(
            store=f"round log of key {key[:16]}…",
            entry=0,
            problem="the round log is gone",
            detail="it is remembered",
        )
        for key in verdict.logs_gone
    ]


def _round_log(log: LogAudit, name: str) -> RoundLog:
    last = log.checkpoint
    return RoundLog(
        log=name,
        records=log.records,
        announced=log.announced,
        summed=log.summed,
        published=log.published,
        checkpoint_size=last.size if last else 0,
        checkpoint_root=last.root.hex() if last else "",
        cosigned_by=log.cosigned_by,
        receipts=log.receipts,
        receipts_matched=log.matched,
        fault=log.failure,
    )


def _figures(evidence: Evidence, audit: Audit, stores: Sequence[int]) -> StoreFigures:
    budget = budget_of(evidence, stores=stores)
    times = [entry.time for entry in evidence.entries() if entry.spends]
    return StoreFigures(
        store=audit.store,
        certified_as=audit.certified_as,
        entries=audit.entries,
        rounds=audit.rounds,
        first=min(times, default=0),
        last=max(times, default=0),
        head=audit.head.hash.hex(),
        epsilon=budget.spent_ever if budget else 0.0,
        second_epsilon=audit.second_epsilon,
        target_delta=budget.target_delta if budget else 0.0,
        spent=budget.spent if budget else 0.0,
        limit=budget.limit if budget else None,
        left=budget.left if budget else None,
        rounds_left=budget.rounds_left if budget else None,
        covers_stores=budget.covers_stores if budget else 1,
        at_stores=budget.at_stores if budget else {},
    )


def _terms(
    good: Sequence[tuple[Evidence, Audit]],
    entries: Mapping[str, Sequence[Entry]],
    authority: bytes | None,
) -> list[FederationTerms]:
    by_digest: dict[bytes, tuple[Manifest, list[Evidence]]] = {}
    for evidence, _ in good:
        signed, policy = evidence.manifest(), evidence.policy()
        named = {entry.release.manifest_digest for entry in entries.get(evidence.store, ())}
        by = bytes.fromhex(policy.authority) if authority is None and policy else authority
        # Earlier terms matter as long as the ledger has charges under them.
        terms = {d: m for d, m in trusted(evidence.manifests(), by).items() if d in named}
        if signed is not None:
            terms[signed.unchecked.digest()] = signed.unchecked
        for digest, manifest in terms.items():
            by_digest.setdefault(digest, (manifest, []))[1].append(evidence)
    return [
        _federation_terms(
            manifest,
            [evidence.store for evidence in holders],
            charges=sum(len(under(ledger, manifest)) for ledger in entries.values()),
            # A store without a fault has passed the check against the auditor's authority, or
            # else against that of its policy.
            checked=authority is not None or all(e.policy() for e in holders),
        )
        for manifest, holders in by_digest.values()
    ]


def _federation_terms(
    manifest: Manifest, audited: Sequence[str], *, charges: int, checked: bool
) -> FederationTerms:
    privacy, terms = manifest.privacy, manifest.terms()
    return FederationTerms(
        digest=manifest.digest().hex(),
        checked=checked,
        audited=tuple(audited),
        charges=charges,
        federation=manifest.federation,
        mode=privacy.mode,
        target_epsilon=privacy.target_epsilon,
        target_delta=privacy.target_delta,
        noise_multiplier=privacy.noise_multiplier,
        sample_rate=privacy.sample_rate,
        max_grad_norm=privacy.max_grad_norm,
        local_steps=privacy.local_steps,
        rounds=manifest.rounds,
        spare_exchanges=manifest.spare_exchanges,
        statistics_noise_multiplier=privacy.statistics_noise_multiplier,
        evaluation_noise_multiplier=privacy.evaluation_noise_multiplier,
        max_stores_per_customer=privacy.max_stores_per_customer or 1,
        one_home=bool(privacy.one_home),
        stores=len(manifest.stores),
        minimum_cohort=manifest.minimum_cohort,
        smallest_sum=terms.survivors(terms.minimum_cohort),
        colluders=manifest.colluders,
        honest_survivors=honest_survivors(terms),
    )


def _mechanisms(entries: Mapping[str, Sequence[Entry]]) -> list[Mechanism]:
    counts: Counter[Mechanism] = Counter()
    holders: defaultdict[Mechanism, set[str]] = defaultdict(set)
    for store, ledger in entries.items():
        for entry in ledger:
            steps, release = entry.steps, entry.release
            if entry.kind != "charge" or steps is None:
                continue
            mechanism = Mechanism(
                kind=release.kind or "charge",
                mode=release.mode,
                # Exchanges without masks have no attempts.
                masked=release.attempt > 0,
                noise_multiplier=steps.noise_multiplier,
                sample_rate=steps.sample_rate,
                steps=steps.count,
                stores_per_person=steps.stores,
                max_grad_norm=release.max_grad_norm,
                charges=0,
                stores=0,
            )
            counts[mechanism] += 1
            holders[mechanism].add(store)
    return [
        replace(one, charges=count, stores=len(holders[one]))
        for one, count in sorted(counts.items(), key=lambda item: (item[0].kind, -item[1]))[::-1]
    ]


def _grouped(rows: Iterable[RoundRow]) -> list[Rounds]:
    """Group the stores with equal entries, largest groups first."""
    by_store: defaultdict[str, list[RoundRow]] = defaultdict(list)
    for row in rows:
        by_store[row.store].append(row)
    groups: defaultdict[tuple[RoundRow, ...], list[str]] = defaultdict(list)
    for store, own in by_store.items():
        groups[tuple(replace(row, store="") for row in own)].append(store)
    rounds = [Rounds(stores=tuple(stores), rows=equal) for equal, stores in groups.items()]
    return sorted(rounds, key=lambda group: (-len(group.stores), group.stores))


def _notes(findings: Iterable[tuple[str, str]]) -> list[Note]:
    where: dict[str, list[str]] = {}
    for text, name in findings:
        where.setdefault(text, []).append(name)
    return [Note(text=text, where=tuple(names)) for text, names in where.items()]


def _second(audits: Sequence[Audit]) -> str:
    used = any(audit.second_epsilon is not None for audit in audits)
    return f"Opacus PRV {version('opacus')}" if used else ""


def _authorities(
    good: Sequence[tuple[Evidence, Audit]], authority: bytes | None
) -> tuple[str, ...]:
    if authority is not None:
        return (fingerprint(authority),)
    policies = [evidence.policy() for evidence, _ in good]
    return tuple(sorted({fingerprint(bytes.fromhex(p.authority)) for p in policies if p}))
