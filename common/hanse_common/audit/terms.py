"""Are a ledger's charges what the signed manifest says they cost?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hanse_common.errors import PolicyViolation, PrivacyError
from hanse_common.federation import check_noise, plan_of
from hanse_common.manifest import Manifest
from hanse_common.privacy.accounting import SampledGaussianSteps, epsilon
from hanse_common.privacy.chain import paid
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


def repeated_rounds(entries: Sequence[Entry]) -> int:
    """How many rounds were charged more than once: second attempts and resumed runs."""
    rounds = Counter(e.release.round for e in entries if e.release.kind == "train")
    return sum(count > 1 for count in rounds.values())


def check_charges(entries: Sequence[Entry], manifest: Manifest) -> Finding | None:
    """Compare the charges that name a manifest with its terms.

    Args:
        entries: A ledger's, in order.
        manifest: Checked to be the authority's.

    Returns:
        The first charge with another mode, noise, sample rate, clip, number of steps or
        delta, of a round that the manifest does not have, or with which the charges cost
        more than it promises; None if all keep to it.

    Edge cases:
        A round that is charged again, by a second attempt or a resumed run, is no fault as
        long as everything charged stays within the promise.
    """
    charges = under(entries, manifest)
    plan = _plan(manifest)
    if isinstance(plan, Finding):
        return plan
    costs = {} if plan is None else {"train": plan.round_cost(), "evaluate": plan.evaluation_cost()}
    for entry in charges:
        if plan is None:
            return _finding(entry, "against the manifest", "the manifest promises no privacy")
        wrong = _differs(entry, plan, costs.get(entry.release.kind))
        if wrong:
            return _finding(entry, "against the manifest", wrong)
        number, first = entry.release.round, 1 if entry.release.kind == "train" else 0
        if not first <= number <= manifest.rounds:
            detail = f"it is round {number}, the manifest has {manifest.rounds}"
            return _finding(entry, "beyond the manifest's rounds", detail)
    return None if plan is None else _beyond(charges, plan)


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


def _differs(entry: Entry, plan: PrivacyPlan, cost: SampledGaussianSteps | None) -> str:
    """Name the first term that is not the manifest's, with both values; empty if all are."""
    release, steps = entry.release, entry.steps
    if steps is None or cost is None:
        return f"the manifest knows no charge for {release.kind or 'something unnamed'!r}"
    clip = plan.max_grad_norm if release.kind == "train" else 0.0
    if release.mode != plan.mode:
        return f"mode {release.mode!r}, the manifest says {plan.mode!r}"
    for name, charged, agreed in (
        ("noise_multiplier", steps.noise_multiplier, cost.noise_multiplier),
        ("sample_rate", steps.sample_rate, cost.sample_rate),
        ("steps", steps.count, cost.count),
        ("stores per person", steps.stores, cost.stores),
        ("max_grad_norm", release.max_grad_norm, clip),
        ("target_delta", entry.target_delta, plan.target_delta),
    ):
        if not math.isclose(charged, agreed, rel_tol=_SLACK):
            return f"it charges {name}={charged:.6g}, the manifest's terms come to {agreed:.6g}"
    return ""


def _beyond(charges: Sequence[Entry], plan: PrivacyPlan) -> Finding | None:
    def cost(number: int) -> float:
        return epsilon(paid(charges[:number]), target_delta=plan.target_delta)

    if cost(len(charges)) <= plan.target_epsilon * (1 + _SLACK):
        return None
    first = next(n for n in range(1, len(charges) + 1) if cost(n) > plan.target_epsilon)
    detail = (
        f"with it, charges under this manifest come to epsilon={cost(first):.4g}, it promises "
        f"{plan.target_epsilon:g}"
    )
    return _finding(charges[first - 1], "beyond the manifest's promise", detail)
