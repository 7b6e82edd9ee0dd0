"""Checks charges against the store's own limit, which every charge names.

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
        entries: The entries of a ledger, in order; their epsilon can be computed.

    Returns:
        The first charge that brings epsilon since the last renewal above its own
        `max_epsilon`, or the first renewal that is before its day or repeats an earlier day;
        None if there is no fault.

    Edge cases:
        A limit of 0 means no limit: `limits_not_checked` counts those charges. An excess within
        the tolerance between two versions of the accountant is no fault.
    """
    since = renewed = 0
    for number, entry in enumerate(entries, start=1):
        if entry.kind == "renewal":
            # A day can renew once only, or a store could renew at will.
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
    """Return the open points of `check_limits`: charges without a limit, or with another one.

    Args:
        entries: The entries of a ledger.
        policy: The store's policy; None if it is missing.
    """
    charges = [entry for entry in entries if entry.kind == "charge"]
    points = []
    without = sum(entry.max_epsilon == 0 for entry in charges)
    if without:
        points.append(f"the store's limit: {without} charges name none")
    if policy is not None:
        others = [e for e in charges if e.max_epsilon not in (0, policy.max_epsilon)]
        if others:
            points.append(
                f"why {len(others)} charges name another limit than the policy's "
                f"{policy.max_epsilon:g}: it may have changed"
            )
        days = {entry.renews for entry in entries if entry.kind == "renewal"}
        if days - {policy.budget.renews}:
            points.append("why the budget was renewed on a day that the policy does not name")
    return points


def _renewal_finding(entry: Entry, before: int) -> Finding:
    if entry.renews <= before:
        detail = f"it renews for {_day(entry.renews)}, an earlier entry did for {_day(before)}"
        if not before:
            detail = "it names no day"
        return Finding(sequence=entry.sequence, problem="a second renewal", detail=detail)
    detail = f"it was written on {_day(entry.time)}, and is for {_day(entry.renews)}"
    return Finding(sequence=entry.sequence, problem="a renewal before its day", detail=detail)


def _day(seconds: int) -> str:
    try:
        return str(datetime.fromtimestamp(seconds, UTC).date())
    # A damaged or forged entry can hold any 64 bits.
    except (OverflowError, ValueError, OSError):
        return f"{seconds} s"
