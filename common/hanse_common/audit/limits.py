"""Did a store keep to its own limit? Every charge names the one that was in force.

>>> from hanse_common.privacy.accounting import SampledGaussianSteps
>>> from hanse_common.privacy.entry import GENESIS
>>> steps = SampledGaussianSteps(noise_multiplier=4.0, sample_rate=0.1, count=40)
>>> charge = Entry(sequence=1, kind="charge", previous=GENESIS, time=0, steps=steps,
...                target_delta=1e-6, max_epsilon=0.5)
>>> str(check_limits([charge]))
"entry 1 is beyond the store's own limit: epsilon since the last renewal comes to 0.711 with \
it, it names max_epsilon=0.5"
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from hanse_common.audit.terms import Finding
from hanse_common.policy import StorePolicy
from hanse_common.privacy.accounting import epsilon
from hanse_common.privacy.chain import paid
from hanse_common.privacy.entry import Entry
from hanse_common.privacy.verify import TOLERANCE


def check_limits(entries: Sequence[Entry]) -> Finding | None:
    """Compare every charge with the limit that it names, and every renewal with its day.

    Args:
        entries: A ledger's, in order; their epsilon can be computed.

    Returns:
        The first charge with which epsilon since the last renewal exceeds the `max_epsilon`
        of its own entry, or the first renewal before its day or for a day that renewed
        before; None if there is none.

    Edge cases:
        A limit of 0 is none: `limits_not_checked` counts those charges. An excess within the
        tolerance between two versions of the accountant is none.
    """
    since = renewed = 0
    for number, entry in enumerate(entries, start=1):
        if entry.kind == "renewal":
            if not renewed < entry.renews <= entry.time:
                return _renewal_finding(entry, renewed)
            since, renewed = number, entry.renews
        elif entry.kind == "charge" and entry.max_epsilon > 0:
            spent = epsilon(paid(entries[:number], since=since), target_delta=entry.target_delta)
            if spent > entry.max_epsilon * (1 + TOLERANCE):
                return Finding(
                    sequence=entry.sequence,
                    problem="beyond the store's own limit",
                    detail=f"epsilon since the last renewal comes to {spent:.4g} with it, it "
                    f"names max_epsilon={entry.max_epsilon:g}",
                )
    return None


def limits_not_checked(entries: Sequence[Entry], policy: StorePolicy | None) -> list[str]:
    """Say what `check_limits` cannot: charges without a limit, or with another than today's.

    Args:
        entries: A ledger's.
        policy: The store's, if it was handed over.
    """
    charges = [entry for entry in entries if entry.kind == "charge"]
    found = []
    without = sum(entry.max_epsilon == 0 for entry in charges)
    if without:
        found.append(f"the store's limit: {without} charges name none")
    if policy is not None:
        others = [e for e in charges if e.max_epsilon not in (0, policy.max_epsilon)]
        if others:
            found.append(
                f"why {len(others)} charges name another limit than the policy's "
                f"{policy.max_epsilon:g}: it may have changed"
            )
        days = {entry.renews for entry in entries if entry.kind == "renewal"}
        if days - {policy.budget.renews}:
            found.append("why the budget was renewed on a day that the policy does not name")
    return found


def _renewal_finding(entry: Entry, before: int) -> Finding:
    if entry.renews <= before:
        detail = f"it renews for {_day(entry.renews)}, as an entry before it did for {_day(before)}"
        if not before:
            detail = "it names no day"
        return Finding(sequence=entry.sequence, problem="a second renewal", detail=detail)
    detail = f"it was written on {_day(entry.time)}, and is for {_day(entry.renews)}"
    return Finding(sequence=entry.sequence, problem="a renewal before its day", detail=detail)


def _day(seconds: int) -> str:
    try:
        return str(datetime.fromtimestamp(seconds, UTC).date())
    except (OverflowError, ValueError, OSError):
        return f"{seconds} s"
