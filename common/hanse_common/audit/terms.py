"""Checks a ledger's charges against the costs and the grant of the signed manifest."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hanse_common.audit.repeats import Use, charges_of, uses_of
from hanse_common.errors import PolicyViolation, PrivacyError
from hanse_common.manifest import Manifest
from hanse_common.manifest_noise import check_noise
from hanse_common.manifest_terms import plan_of
from hanse_common.phases import EVALUATE, EXCHANGES_PER_ROUND
from hanse_common.privacy.accounting import epsilon
from hanse_common.privacy.chain import paid
from hanse_common.privacy.charge import Charge, Release
from hanse_common.privacy.entry import Entry
from hanse_common.privacy.plan import PrivacyPlan

_SLACK = 1e-9
"""Relative difference that counts as equal, since terms are recomputed in floating point."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A fault and the first entry or record that has it; 0 means the whole file, or the terms."""

    sequence: int
    problem: str
    detail: str

    def __str__(self) -> str:
        where = f"entry {self.sequence} is " if self.sequence else ""
        return f"{where}{self.problem}: {self.detail}"


def under(entries: Sequence[Entry], manifest: Manifest) -> list[Entry]:
    """Return the charges that name this manifest."""
    digest = manifest.digest()
    charges = (entry for entry in entries if entry.kind == "charge")
    return [entry for entry in charges if entry.release.manifest_digest == digest]


def uses_under(entries: Sequence[Entry], manifest: Manifest) -> tuple[Use, ...]:
    """Compare the charges that name a manifest with its grant."""
    return uses_of(manifest, charges_of(under(entries, manifest)))


def check_charges(entries: Sequence[Entry], manifest: Manifest) -> Finding | None:
    """Compare the charges that name a manifest with its terms.

    Args:
        entries: The entries of a ledger, in order.
        manifest: The manifest, checked to be the authority's.

    Returns:
        The first charge with another mode, noise, sample rate, clip, number of steps or delta
        than the manifest's, of an exchange that it does not have, of more exchanges than it
        grants, or that brings the total above its target epsilon; None if there is no fault.

    Edge cases:
        A repeated exchange (a second attempt, or another run number) is no fault while the
        charges stay within the grant and the target epsilon. A renewal of the store's own budget
        does not reduce what the manifest counts.
    """
    charges = under(entries, manifest)
    plan = _plan(manifest)
    if isinstance(plan, Finding):
        return plan
    if plan is None:
        what = "the manifest promises no privacy"
        return _finding(charges[0], "against the manifest", what) if charges else None
    against = next(filter(None, (_against(entry, plan, manifest) for entry in charges)), None)
    if against is not None:
        # False terms can make the accountant fail, and the fault is known already.
        charges = [entry for entry in charges if entry.sequence < against.sequence]
    grant = _beyond_grant(uses_under(entries, manifest))
    promise = _beyond_promise(charges, plan)
    if grant is not None and promise is not None:
        # All granted exchanges together are within the target epsilon, so that a charge that is
        # beyond it is beyond the grant too, or later.
        grant = replace(grant, detail=f"{grant.detail}; {promise}")
    faults = (fault for fault in (against, grant, promise) if fault is not None)
    return min(faults, key=lambda fault: fault.sequence, default=None)


def _against(entry: Entry, plan: PrivacyPlan, manifest: Manifest) -> Finding | None:
    """Return the fault of a single charge; None if there is none."""
    wrong = _differs(entry, plan.charge(entry.release.kind))
    if wrong:
        return _finding(entry, "against the manifest", wrong)
    wrong = _misplaced(entry.release, manifest)
    return _finding(entry, "beyond the manifest's rounds", wrong) if wrong else None


def _misplaced(release: Release, manifest: Manifest) -> str:
    """Return why the terms have no such exchange; empty if they have it."""
    number, last, every = release.round, manifest.rounds, manifest.evaluate_every
    evaluates = release.kind == EVALUATE
    first = 0 if evaluates else 1
    if not first <= number <= last:
        return f"it is round {number}, the manifest has {last}"
    place = release.exchange - EXCHANGES_PER_ROUND * number
    phase = manifest.schedule.at(number)
    if not evaluates and phase.name != release.kind:
        return f"it is a release of {release.kind!r} in round {number}, which is of {phase.name!r}"
    if place not in ((1, 2) if evaluates else (0,)):
        return f"it is exchange {release.exchange}, which is no {release.kind!r} of round {number}"
    if place == 2 and number != last:
        return f"it is the test after round {number}, which follows round {last} alone"
    if place == 1 and every is not None and number % every and number != last:
        return f"it evaluates round {number}, the manifest says every {every} and the last"
    return ""


def _beyond_grant(uses: Sequence[Use]) -> Finding | None:
    """Return the first charge beyond the grant; None if there is none."""
    faults = []
    for use in uses:
        excess = use.beyond
        if excess is not None:
            planned = use.granted - use.spare
            detail = (
                f"with it, {use.granted + 1} exchanges of kind {use.kind!r} are charged under "
                f"this manifest, which grants {use.granted} ({planned} and {use.spare} spare); "
                f"{use.used} are charged in all: {use.named('entry')}"
            )
            faults.append(
                Finding(sequence=excess.place, problem="beyond the manifest's grant", detail=detail)
            )
    return min(faults, key=lambda fault: fault.sequence, default=None)


def _finding(entry: Entry, problem: str, detail: str) -> Finding:
    return Finding(sequence=entry.sequence, problem=problem, detail=detail)


def _plan(manifest: Manifest) -> PrivacyPlan | Finding | None:
    """Return the plan of the terms; a finding if their noise is too weak for their target."""
    try:
        check_noise(manifest)
        return plan_of(manifest)
    except (PolicyViolation, PrivacyError) as error:
        return Finding(
            sequence=0, problem="the manifest does not keep its promise", detail=error.message
        )


def _differs(entry: Entry, agreed: Charge | None) -> str:
    """Return the first term that differs from the manifest's, in words; empty if none does."""
    release, steps = entry.release, entry.steps
    if steps is None or agreed is None:
        return f"the manifest knows no charge for {release.kind or 'something unnamed'!r}"
    terms = agreed.steps
    if release.mode != agreed.release.mode:
        return f"mode {release.mode!r}, the manifest says {agreed.release.mode!r}"
    for name, charged, due in (
        ("noise_multiplier", steps.noise_multiplier, terms.noise_multiplier),
        ("sample_rate", steps.sample_rate, terms.sample_rate),
        ("steps", steps.count, terms.count),
        ("stores per person", steps.stores, terms.stores),
        ("max_grad_norm", release.max_grad_norm, agreed.release.max_grad_norm),
        ("target_delta", entry.target_delta, agreed.target_delta),
    ):
        if not math.isclose(charged, due, rel_tol=_SLACK):
            return f"it charges {name}={charged:.6g}, the manifest's terms come to {due:.6g}"
    return ""


def _beyond_promise(charges: Sequence[Entry], plan: PrivacyPlan) -> Finding | None:
    def cost(number: int) -> float:
        return epsilon(paid(charges[:number]), target_delta=plan.target_delta)

    promised = plan.target_epsilon * (1 + _SLACK)
    if cost(len(charges)) <= promised:
        return None
    # Epsilon grows with every charge, so that bisection finds the first one beyond the target.
    first = bisect_right(range(len(charges)), promised, key=lambda before: cost(before + 1))
    detail = (
        f"with it, charges under this manifest come to epsilon={cost(first + 1):.4g}, it promises "
        f"{plan.target_epsilon:g}"
    )
    return _finding(charges[first], "beyond the manifest's promise", detail)
