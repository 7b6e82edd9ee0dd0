"""The sentences of the report: its summary, unit of privacy, trust model and assumptions.

Their order follows the pyramid of NIST SP 800-226, "Guidelines for Evaluating Differential
Privacy Guarantees" (March 2025), from the top: epsilon and the unit of privacy; algorithm,
utility and trust model; side channels, access and data collection.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from hanse_common.audit.report.content import (
    FederationTerms,
    Mechanism,
    Sight,
    Status,
    StoreFigures,
)
from hanse_common.audit.report.meaning import meaning
from hanse_common.wording import counted, epsilon

NOT_COVERED = (
    "That the noise was added, and that what left a store is what its ledger says. A ledger says "
    "what a store charged itself for.",
    "Data collection: what stores know of their customers, how long they keep it, and who there "
    "may look at it. Nothing here makes a store's own database smaller or safer.",
    "Access control: whoever holds a store's key can rewrite its ledger; who may use the "
    "machines of stores and coordinator is not looked at here.",
    "Side channels: whether a store answers, how long it takes, and that it refused a round are "
    "not noised. Noise of mode local is added in floating point before it is rounded; sums are "
    "added up in 32 bits.",
    "Settings that were tuned on the same customers: this costs privacy that no ledger shows.",
    "General facts about customers. A model predicts what people with similar histories do; that "
    "is its purpose, and it would predict the same without one person's data.",
    "Anything else that a store or the federation publishes about the same customers.",
    "Utility and bias: noise and clipping hide first what few customers do. How good the model "
    "is, and for whom, is in no ledger.",
)
"""Questions that no figure of an audit answers."""


def statement(
    status: Status,
    charged: Sequence[StoreFigures],
    terms: Sequence[FederationTerms],
    mechanisms: Sequence[Mechanism],
    open_points: int,
    *,
    simulated: bool,
    missing: int = 0,
    named: int = 0,
) -> tuple[str, ...]:
    """Return the summary: what is protected, against whom, how much and for how long.

    Args:
        status: Result of the audit.
        charged: Figures of ledgers with charges and without a fault.
        terms: Terms of these charges.
        mechanisms: Kinds of these charges.
        open_points: Number of points that could not be verified.
        simulated: Whether a store's noise is from a seed.
        missing: Number of stores with missing evidence.
        named: Number of stores that manifests and round logs name.
    """
    # No figure of a failed audit may be quoted, so the summary has none.
    if status == "failed":
        return (
            "This audit failed. Nothing on this page is a promise that anybody may rely on, and "
            "it is not to be signed, until what is named below has been explained and a new "
            "audit has passed.",
        )
    if not charged:
        return (
            "No ledger that was handed over has charged anything: there is no promise to judge.",
        )
    worst = max(charged, key=lambda store: store.epsilon)
    return (
        *(("This is a simulation; the following is what a deployment would give.",) * simulated),
        _who(charged, terms),
        "Protected is whether any one customer, with everything they did at a store, is among the "
        f"data at all; {_against(terms, mechanisms)}.",
        f"How much: ε is at most {epsilon(worst.epsilon)} at δ = {worst.target_delta:g} for a "
        f"customer of {_stores_covered(worst)}. Whoever knows everything else, sees everything "
        "that was released, and has to tell whether a given customer is there, where both were "
        f"equally likely before, is right at most {percent(worst.epsilon, worst.target_delta)} "
        f"times in 100; blind guessing is right 50 times.{_several(charged)}",
        "How long: this is the total of all charges in these ledgers, over all runs and restarts. "
        "It does not expire, no computation on released values increases it, and every further "
        "round does.",
        *(_gap(missing, named),) * (missing > 0),
        "Nothing that could be verified is wrong"
        + (
            f"; {counted(open_points, 'point')} could not be verified, and are listed below."
            if open_points
            else ", and nothing was left open."
        ),
    )


def _gap(missing: int, named: int) -> str:
    return (
        f"For whom not: the terms or the round log name {counted(named, 'store')}, and of "
        f"{missing} of them evidence is missing (section 7). What was not handed over was not "
        "looked at."
    )


def percent(value: float, target_delta: float) -> str:
    """Return the rate of right answers at even odds, in percent, rounded up.

    >>> percent(1.0, 1e-6)
    '73.2'
    """
    right = meaning(value, target_delta).right_at_even_odds
    return f"{math.ceil(round(right * 1000, 6)) / 10:.1f}"


def unit(charged: Sequence[StoreFigures], terms: Sequence[FederationTerms]) -> tuple[str, ...]:
    """Return sentences on whose privacy is counted and which data sets are neighbours."""
    sentences = [
        "The unit of privacy is the customer: the whole history of one person at one store is one "
        "training example, and is clipped as a whole. It is not a single purchase. Where a store "
        "gives one loyalty number to a household, it is the household.",
        "Two data sets are neighbours if one has all of one customer's history and the other has "
        "none of it (add or remove one). Replacing one customer by another is both at once: by "
        "group privacy at most twice this ε, at a larger δ.",
    ]
    covers = sorted({store.covers_stores for store in charged})
    if covers and covers != [1]:
        shown = " or ".join(map(str, covers))
        sentences.append(
            f"A person at up to {shown} stores counts once for all of them: the figures already "
            "hold for all their stores together."
        )
    else:
        sentences.append(
            "A person who shops at several stores is one customer at each, and is worse off: "
            "section 3 says by how much."
        )
    if any(one.one_home and one.charges for one in terms):
        sentences.append(
            "By these terms a person is trained on at one store only, their home (a keyed hash of "
            "their loyalty id names it): then the figure for one store is theirs, wherever they "
            "shop. That stores keep to this is not in their ledgers."
        )
    return tuple(sentences)


def sights(mechanisms: Sequence[Mechanism]) -> tuple[Sight, ...]:
    """Return who could see what, before and after noise."""
    if not mechanisms:
        return ()
    masked = all(one.masked for one in mechanisms)
    shared = any(one.mode == "distributed" for one in mechanisms)
    if not masked:
        coordinator = "Each store's own update, with all of the noise that the store added."
    elif shared:
        coordinator = (
            "Masked vectors, each of them uniformly random to whoever lacks the masks, and their "
            "sum, which has the noise of all stores that took part. No single store's update."
        )
    else:
        coordinator = (
            "Masked vectors and their sum. Each store's update had all of its noise before it "
            "was masked."
        )
    return (
        Sight(
            who="The customer's own store",
            sees="Everything, before clipping and noise. Nothing here protects a customer from "
            "the store where they shop.",
        ),
        Sight(who="The coordinator", sees=coordinator),
        Sight(
            who="The other stores",
            sees="The model that each round starts from: noised sums of the rounds before. A store "
            "that works with the coordinator sees what the coordinator sees, too.",
        ),
        Sight(who="Whoever gets the model", sees="What was computed from the noised sums."),
        Sight(who="The enrolment authority", sees="Keys and terms; no data and no update."),
        Sight(
            who="Whoever reads a ledger",
            sees="Times, rounds, terms and ε; a commitment to each vector that the store alone "
            "can open. No customers, and not their number.",
        ),
    )


def assumptions(
    mechanisms: Sequence[Mechanism], terms: Sequence[FederationTerms]
) -> tuple[str, ...]:
    """Return the assumptions of the guarantee, the most important first."""
    sentences: list[str] = []
    modes = {one.mode for one in mechanisms}
    if "distributed" in modes:
        sentences.append(
            "The masks are load-bearing: a single store's vector has only its own share of the "
            "noise, and without its mask it would be almost unprotected. The masks rely on "
            "X25519, AES-256 and Ed25519, and on the quorum below."
        )
        shared, all_known = _charged_under(terms, mechanisms)
        sentences += [
            f"Honest stores ({one.federation}): of the smallest sum that is ever unmasked, "
            f"{counted(one.smallest_sum, 'store')}, at most {one.colluders} may work with the "
            f"coordinator, or leave their noise out. The other {one.honest_survivors} must add "
            "theirs: together that is all the noise that was accounted. With more colluders ε "
            "does not hold."
            for one in shared
        ]
        if not all_known:
            sentences.append(
                "How many stores may collude is not known for all charges: they name terms that "
                "were not handed over."
            )
        sentences.append(
            "The enrolment authority certifies real stores only: puppets that it certified would "
            "count as honest."
        )
    if "local" in modes:
        sentences.append(
            "In mode local a store's customers need to trust only their own store: its "
            "update has all of its noise, even if all other parties collude."
        )
    if modes:
        sentences += [
            "Samples and noise are drawn from secret randomness of the store's operating system, "
            "every customer independently (Poisson sampling).",
            "No customer adds more than the clip. Stores compare clipped gradients with "
            "one-by-one gradients on real customers before their first private step.",
            "The number of stores at which a person shops is assumed as in the terms; no store can "
            "check it.",
        ]
    if "distributed" in modes:
        sentences.append(
            "Noise on integers is Skellam noise, accounted as Gaussian noise that is no stronger "
            "at any Rényi order."
        )
    return tuple(sentences)


def day(seconds: int) -> str:
    """Return a date (UTC) in words.

    >>> day(1_750_000_000)
    '15 June 2025'
    """
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%-d %B %Y}"
    except (OverflowError, ValueError, OSError):
        return f"{seconds} s"


def _who(charged: Sequence[StoreFigures], terms: Sequence[FederationTerms]) -> str:
    first, last = min(s.first for s in charged), max(s.last for s in charged)
    when = f"On {day(first)}" if day(first) == day(last) else f"From {day(first)} to {day(last)}"
    names = sorted({one.federation for one in terms if one.charges})
    which = f" of the federation {' and '.join(names)}" if names else ""
    rounds = sorted({store.rounds for store in charged})
    spread = f"{rounds[0]} to {counted(rounds[-1], 'round')}" if rounds[1:] else ""
    charged_rounds = spread or counted(rounds[0], "round")
    return f"{when}, {counted(len(charged), 'store')}{which} charged {charged_rounds} of training."


def _charged_under(
    terms: Sequence[FederationTerms], mechanisms: Sequence[Mechanism]
) -> tuple[list[FederationTerms], bool]:
    """Return the terms of charges in mode distributed, and whether they cover all of these."""
    named = [one for one in terms if one.mode == "distributed" and one.charges]
    charges = sum(one.charges for one in mechanisms if one.mode == "distributed")
    return named, sum(one.charges for one in named) >= charges


def _against(terms: Sequence[FederationTerms], mechanisms: Sequence[Mechanism]) -> str:
    if all(one.mode != "distributed" for one in mechanisms):
        return (
            "against everybody who sees what left the customer's store, and whoever they work with"
        )
    shared, all_known = _charged_under(terms, mechanisms)
    if not (shared and all_known):
        return (
            "against the coordinator and everybody who gets the model, with as many colluding "
            "stores as the terms say, not all of which were handed over"
        )
    # The guarantee for all customers is that of the weakest terms.
    most = min(one.colluders for one in shared)
    also = f", also if it works with up to {counted(most, 'store')}" if most else " alone"
    return f"against the coordinator{also}, and against everybody who gets the model"


def _stores_covered(store: StoreFigures) -> str:
    if store.covers_stores == 1:
        return "one store"
    return f"up to {store.covers_stores} stores, all together"


def _several(charged: Sequence[StoreFigures]) -> str:
    counts = sorted({count for store in charged for count in store.at_stores if count > 1})
    shown = [
        f"{epsilon(max(s.at_stores[count] for s in charged))} at {count} stores" for count in counts
    ]
    if not shown:
        return ""
    listed = shown[0] if not shown[1:] else f"{', '.join(shown[:-1])} and {shown[-1]}"
    return f" For a person who shops at several of these stores it is at most {listed}."
