"""Geometry of small charts that are stretched to any width.

A chart has no text inside, because stretching would distort it; labels are HTML beside it. Units
are those of the SVG's view box, one unit a value wide and 100 high.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_LEAST_SLOTS = 12
"""Values for which a chart leaves room at least, so that few bars do not become walls."""
_LOWEST = 4.0
"""Height of the lowest bar, which has to be visible."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One bar.

    Args:
        x: Left end; a bar is one unit wide.
        height: Of 100.
        tone: `good`, `warn` or `bad`.
        title: Its description.
    """

    x: int
    height: float
    tone: str
    title: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A line through values.

    Args:
        width: Of the view box.
        points: For a polyline.
        marks: Distance from the top of each horizontal rule, by name.
        last: The last value.
    """

    width: int
    points: str
    marks: Mapping[str, float]
    last: float


def width_for(count: int) -> int:
    """Return the width of the view box for a number of values."""
    return max(_LEAST_SLOTS, count)


def bars(values: Sequence[tuple[float, str, str]]) -> list[Bar]:
    """Return bars whose highest fills the chart.

    Args:
        values: Value, tone and title of each bar.

    >>> [bar.height for bar in bars([(2.0, "good", ""), (1.0, "bad", ""), (0.0, "bad", "")])]
    [100.0, 50.0, 4.0]
    """
    highest = max((value for value, _, _ in values), default=0.0) or 1.0
    return [
        Bar(x=x, height=round(max(_LOWEST, 100 * value / highest), 2), tone=tone, title=title)
        for x, (value, tone, title) in enumerate(values)
    ]


def line(
    values: Sequence[float | None], *, low: float, high: float, marks: Mapping[str, float]
) -> Line | None:
    """Return a line; None if there is no value.

    Args:
        values: None leaves a place empty.
        low: Value at the bottom; lower ones are drawn there.
        high: Value at the top, likewise.
        marks: Values of horizontal rules, by name.

    >>> line([1.0, None, 0.5], low=0.0, high=1.0, marks={"limit": 1.0})
    Line(width=12, points='0.5,0 2.5,50', marks={'limit': 0.0}, last=0.5)
    """

    def down(value: float) -> float:
        inside = min(high, max(low, value))
        return round(100 * (high - inside) / (high - low), 2)

    measured = [(x + 0.5, value) for x, value in enumerate(values) if value is not None]
    if not measured:
        return None
    drawn = measured
    if len(measured) == 1:  # a line of one point is invisible
        ((x, value),) = measured
        drawn = [(x - 0.4, value), (x + 0.4, value)]
    return Line(
        width=width_for(len(values)),
        points=" ".join(f"{x:g},{down(value):g}" for x, value in drawn),
        marks={name: down(value) for name, value in marks.items()},
        last=measured[-1][1],
    )
