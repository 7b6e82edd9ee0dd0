"""Are a ledger's charges what the signed manifest says they cost?"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hanse_common.audit.repeats import EXCHANGES_PER_ROUND, Use, charges_of, uses_of
from hanse_common.errors import PolicyViolation, PrivacyError
from hanse_common.manifest import Manifest
from hanse_common.manifest_terms import check_noise, plan_of
from hanse_common.privacy.accounting import epsilon
from hanse_common.privacy.chain import paid
from hanse_common.privacy.charge import Charge, Release
from hanse_common.privacy.entry import Entry
from hanse_common.privacy.plan import PrivacyPlan

_SLACK = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What is wrong, and at which entry first; 0 is the ledger, or the terms, as a whole."""

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
    """Hold the charges that name a manifest against what it grants."""
    return uses_of(manifest, charges_of(under(entries, manifest)))


def check_charges(entries: Sequence[Entry], manifest: Manifest) -> Finding | None:
    """Compare the charges that name a manifest with its terms.

    Args:
        entries: A ledger's, in order.
        manifest: Checked to be the authority's.

    Returns:
        The first charge with another mode, noise, sample rate, clip, number of steps or
        delta, of an exchange that the manifest does not have, of one more exchange than it
        grants, or with which the charges cost more than it promises; None if all keep to it.

    Edge cases:
        An exchange that is charged again, by a second attempt or under another run number, is
        no fault as long as everything charged stays within the grant and the promise. No
        renewal of the store's own budget takes anything back.
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
        # No accountant need cope with what is not as the terms say.
        charges = [entry for entry in charges if entry.sequence < against.sequence]
    grant = _beyond_grant(uses_under(entries, manifest))
    promise = _beyond_promise(charges, plan)
    if grant is not None and promise is not None:
        # What the grant allows is within the promise: the count is passed first.
        grant = replace(grant, detail=f"{grant.detail}; {promise}")
    faults = (fault for fault in (against, grant, promise) if fault is not None)
    return min(faults, key=lambda fault: fault.sequence, default=None)


def _against(entry: Entry, plan: PrivacyPlan, manifest: Manifest) -> Finding | None:
    """What is wrong with one charge by itself."""
    charges = {"train": plan.round_charge(), "evaluate": plan.evaluation_charge()}
    wrong = _differs(entry, charges.get(entry.release.kind))
    if wrong:
        return _finding(entry, "against the manifest", wrong)
    wrong = _misplaced(entry.release, manifest)
    return _finding(entry, "beyond the manifest's rounds", wrong) if wrong else None


def _misplaced(release: Release, manifest: Manifest) -> str:
    """Say why a run under these terms has no such exchange; empty if it has."""
    number, last, every = release.round, manifest.rounds, manifest.evaluate_every
    first = 1 if release.kind == "train" else 0
    if not first <= number <= last:
        return f"it is round {number}, the manifest has {last}"
    place = release.exchange - EXCHANGES_PER_ROUND * number
    if place not in ((0,) if release.kind == "train" else (1, 2)):
        return f"it is exchange {release.exchange}, which is no {release.kind!r} of round {number}"
    if place == 2 and number != last:
        return f"it is the test after round {number}, which follows round {last} alone"
    if place == 1 and every is not None and number % every and number != last:
        return f"it evaluates round {number}, the manifest says every {every} and the last"
    return ""


def _beyond_grant(uses: Sequence[Use]) -> Finding | None:
    """The first charge of one more exchange than is granted."""
    found = []
    for use in uses:
        one = use.beyond
        if one is not None:
            planned = use.granted - use.spare
            detail = (
                f"with it, {use.granted + 1} exchanges of kind {use.kind!r} are charged under "
                f"this manifest, which grants {use.granted} ({planned} and {use.spare} spare); "
                f"{use.used} are charged in all: {use.named('entry')}"
            )
            found.append(
                Finding(sequence=one.place, problem="beyond the manifest's grant", detail=detail)
            )
    return min(found, key=lambda fault: fault.sequence, default=None)


def _finding(entry: Entry, problem: str, detail: str) -> Finding:
    return Finding(sequence=entry.sequence, problem=problem, detail=detail)


def _plan(manifest: Manifest) -> PrivacyPlan | Finding | None:
    """What the terms come to; a finding if they do not keep what they promise."""
    try:
        check_noise(manifest)
        return plan_of(manifest)
    except (PolicyViolation, PrivacyError) as error:
        return Finding(
            sequence=0, problem="the manifest does not keep its promise", detail=error.message
        )


def _differs(entry: Entry, agreed: Charge | None) -> str:
    """Name the first term that is not the manifest's, with both values; empty if all are."""
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
    # Every charge adds to it, so that halving finds the first one beyond.
    first = bisect_right(range(len(charges)), promised, key=lambda before: cost(before + 1))
    detail = (
        f"with it, charges under this manifest come to epsilon={cost(first + 1):.4g}, it promises "
        f"{plan.target_epsilon:g}"
    )
    return _finding(charges[first], "beyond the manifest's promise", detail)
