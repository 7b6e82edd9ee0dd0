"""Inject anomalies into real histories, so that the anomalous days are known.

Each pattern draws from the given generator, changes only visits in `[start, stop)`, and returns
which customers' days it touched. All other visits stay as they were.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from hanse_client.analytics.occasions import Occasions, each_day, visit_owners
from hanse_client.features.histories import EVENT_KINDS, FACTS, Histories
from hanse_client.tasks.interest.features import Floats, Ints

Mask = npt.NDArray[np.bool_]

BURST_SHARE, BURST_VISITS = 0.1, 3
HIJACKED_SHARE = 0.3
CART_SHARE, CART_ITEMS, CART_SHAPE, CART_MEAN = 0.1, 4.0, 0.5, 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Injected:
    """Histories with an injected pattern, and the days on which to detect it."""

    histories: Histories
    days: Occasions
    """Every customer's days of the window, touched or not."""
    touched: Mask
    """Which of the days the pattern touched [n]."""


def bursts(
    histories: Histories, *, start: float, stop: float, rng: np.random.Generator
) -> Injected:
    """Add three more visits with one class on a tenth of the customers' days.

    The class is drawn by what the store sold before the window, so that most bursts are of
    something ordinary; the visits spread evenly over what is left of the day.
    """
    days = each_day(histories, start=start, stop=stop)
    chosen = np.flatnonzero(rng.random(len(days)) < BURST_SHARE)
    sold = histories.until(start).pair_classes
    drawn = rng.choice(sold, size=len(chosen)) if len(sold) else np.zeros(len(chosen), dtype=int)
    moments = days.moments[chosen]
    steps = np.arange(1, BURST_VISITS + 1) / (BURST_VISITS + 1)
    left = np.floor(moments) + 1 - moments
    changed = _rearranged(
        histories,
        owners=np.concatenate([visit_owners(histories), days.customers[chosen].repeat(len(steps))]),
        moments=np.concatenate([histories.visit_days, (moments + np.outer(steps, left)).T.ravel()]),
        sources=np.concatenate(
            [np.arange(len(histories.visit_days)), days.first[chosen].repeat(len(steps))]
        ),
        only=np.concatenate([np.full(len(histories.visit_days), -1), drawn.repeat(len(steps))]),
    )
    after = each_day(changed, start=start, stop=stop)
    touched = np.zeros(len(after), dtype=bool)
    touched[chosen] = True  # a burst adds no day, and days keep their order
    return Injected(histories=changed, days=after, touched=touched)


def hijacked(
    histories: Histories, *, start: float, stop: float, rng: np.random.Generator
) -> Injected:
    """Hand accounts to another customer from a random moment of the window's first half on.

    Of three customers in ten, all visits from that moment on are replaced by those of another
    customer of the same store, drawn among those who came in the second half. The thief's
    baskets become part of the account's history, as they would in reality.
    """
    owners = visit_owners(histories)
    inside = (histories.visit_days >= start) & (histories.visit_days < stop)
    late = np.unique(owners[inside & (histories.visit_days >= (start + stop) / 2)])
    victims = late[rng.random(len(late)) < HIJACKED_SHARE] if len(late) > 1 else late[:0]
    moments = start + rng.random(len(victims)) * (stop - start) / 2
    places = np.searchsorted(late, victims)
    # An offset of 1 to len - 1 never lands on the victim.
    thieves = late[(places + rng.integers(1, max(len(late), 2), len(victims))) % max(len(late), 1)]
    since = np.full(len(histories), np.inf)
    since[victims] = moments
    keep = np.flatnonzero(histories.visit_days < since[owners])
    new_owners, sources = [owners[keep]], [keep]
    for victim, moment, thief in zip(victims, moments, thieves, strict=True):
        first, last = histories.visit_offsets[thief : thief + 2]
        visits = np.arange(first, last)
        visits = visits[(histories.visit_days[visits] >= moment) & inside[visits]]
        sources.append(visits)
        new_owners.append(np.full(len(visits), victim))
    source = np.concatenate(sources)
    changed = _rearranged(
        histories,
        owners=np.concatenate(new_owners),
        moments=histories.visit_days[source],
        sources=source,
        only=np.full(len(source), -1),
    )
    days = each_day(changed, start=start, stop=stop)
    return Injected(histories=changed, days=days, touched=days.moments >= since[days.customers])


def cart_bursts(
    histories: Histories, *, start: float, stop: float, rng: np.random.Generator
) -> Injected:
    """Leave four more items in the cart on a tenth of the customers' days.

    The shops here record purchases only, so that any cart would stand out. Each customer
    therefore first gets a habit: a Poisson number of items left at every visit, at a rate
    drawn from a gamma distribution of mean 1 and shape 1/2 (most leave few or none, a few
    leave many).
    """
    owners = visit_owners(histories)
    rates = rng.gamma(CART_SHAPE, CART_MEAN / CART_SHAPE, size=len(histories))
    left = rng.poisson(rates[owners]).astype(np.float64)
    days = each_day(histories, start=start, stop=stop)
    touched = rng.random(len(days)) < CART_SHARE
    left[days.first[touched]] += CART_ITEMS
    return Injected(histories=_with_carts(histories, left), days=days, touched=touched)


def _with_carts(histories: Histories, left: Floats) -> Histories:
    """Add `left` cart events [v] to each visit."""
    facts = histories.visit_facts.astype(np.float64)
    items = FACTS.index("log_items")
    shares = [FACTS.index(f"share_{kind}") for kind in EVENT_KINDS]
    before = np.expm1(facts[:, items])
    events = facts[:, shares] * before[:, None]
    # A purchase goes through the cart, so the items left there come on top of those bought.
    events[:, EVENT_KINDS.index("cart")] = events[:, EVENT_KINDS.index("purchase")] + left
    total = np.maximum(events.sum(axis=1), 1.0)
    facts[:, items] = np.log1p(total)
    facts[:, shares] = events / total[:, None]
    return replace(histories, visit_facts=facts.astype(np.float32))


def _rearranged(
    histories: Histories, *, owners: Ints, moments: Floats, sources: Ints, only: Ints
) -> Histories:
    """Build histories from copied visits.

    Args:
        histories: The histories that visits are copied from.
        owners: Index of the customer who gets each visit [v].
        moments: Time of each visit in days [v].
        sources: Index of the visit that is copied [v].
        only: The one class that is bought, or -1 for the classes of the copied visit [v].
    """
    # Histories are sorted by customer, then by time; everything that follows relies on it.
    order = np.lexsort((moments, owners))
    sources, only = sources[order], only[order]
    sizes = np.where(only < 0, np.diff(histories.pair_offsets)[sources], 1)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes)
    copied = np.repeat(histories.pair_offsets[sources], sizes) + within
    single = np.repeat(only, sizes)
    last = max(len(histories.pair_classes) - 1, 0)
    classes = np.where(single < 0, histories.pair_classes[np.minimum(copied, last)], single)
    counts = np.bincount(owners, minlength=len(histories))
    return replace(
        histories,
        visit_offsets=np.concatenate([[0], np.cumsum(counts)]),
        visit_days=moments[order],
        visit_vectors=histories.visit_vectors[sources],
        visit_facts=histories.visit_facts[sources],
        pair_offsets=offsets,
        pair_classes=classes.astype(np.int32),
    )
