"""Geometry of two small charts: the duration of each round, and its noise share.

The charts have no text inside, so that they can be stretched to any width; labels are HTML
beside them. Units are those of the SVG's view box, `len(rounds)` wide and 100 high.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hanse_server.deployment.watch.exchanges import Exchange

_LOW, _HIGH = 0.8, 1.2
"""Ends of the scale of noise shares; values beyond them are drawn at the ends."""
_LEAST_SLOTS = 12
"""Rounds for which a chart leaves room at least, so that few bars do not become walls."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One round.

    Args:
        x: Left end; a round is one unit wide.
        height: Of 100.
        tone: `good`, `warn` (a store was lost) or `bad` (no sum).
        title: Its description.
    """

    x: int
    height: float
    tone: str
    title: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Bars:
    """The durations of rounds."""

    width: int
    longest: float
    bars: tuple[Bar, ...]
    lost_rounds: int
    rounds_with_losses: int


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseLine:
    """The noise share after each round.

    Args:
        width: Of the view box.
        points: For a polyline.
        promised: Height of a share of 1.
        least: Height of the smallest share that is in order.
        last: The last share.
    """

    width: int
    points: str
    promised: float
    least: float
    last: float


def bars(exchanges: Sequence[Exchange]) -> Bars | None:
    """Return the bars of trained rounds, the oldest first; None if there is none."""
    if not exchanges:
        return None
    longest = max(one.seconds for one in exchanges)
    drawn = []
    for x, one in enumerate(exchanges):
        tone = "bad" if one.code else "warn" if one.lost else "good"
        result = f"lost, {one.code}" if one.code else f"{one.stores} stores"
        lost = f", without {', '.join(gone.store for gone in one.lost)}" if one.lost else ""
        drawn.append(
            Bar(
                x=x,
                height=round(max(4.0, 100 * one.seconds / longest), 2) if longest else 4.0,
                tone=tone,
                title=f"Round {one.round}: {one.seconds:.1f} s, {result}{lost}",
            )
        )
    return Bars(
        width=max(_LEAST_SLOTS, len(exchanges)),
        longest=longest,
        bars=tuple(drawn),
        lost_rounds=sum(bool(one.code) for one in exchanges),
        rounds_with_losses=sum(bool(one.lost) for one in exchanges),
    )


def noise_line(exchanges: Sequence[Exchange], *, least: float) -> NoiseLine | None:
    """Return the line of noise shares, the oldest first; None if none is measured."""
    shares = [(x, one.noise_share) for x, one in enumerate(exchanges)]
    measured = [(x + 0.5, share) for x, share in shares if share is not None]
    if not measured:
        return None
    # A single value is drawn as a short line, because a line of one point is invisible.
    drawn = measured if len(measured) > 1 else [(x + dx, s) for x, s in measured for dx in (-0.4, 0.4)]
    return NoiseLine(
        width=max(_LEAST_SLOTS, len(exchanges)),
        points=" ".join(f"{x:g},{_height(share):.2f}" for x, share in drawn),
        promised=_height(1.0),
        least=_height(least),
        last=measured[-1][1],
    )


def _height(share: float) -> float:
    """Distance from the top of the view box.

    >>> _height(1.2), _height(1.0), _height(0.0)
    (0.0, 50.0, 100.0)
    """
    inside = min(_HIGH, max(_LOW, share))
    return round(100 * (_HIGH - inside) / (_HIGH - _LOW), 6)
