"""Draws epsilon by charge as an SVG chart: one labelled step line per ledger.

Text is SVG text in the page's font and colours are the page's. Lines differ in their dashes, so
that no information depends on colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from hanse_common.audit.report.content import Rounds
from hanse_common.pages import visible

MOST_LINES = 6
"""Most lines in the chart; of more ledgers, those in between are not drawn."""

# Sizes are in units of the SVG's view box.
_WIDTH, _HEIGHT = 420.0, 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 34.0, 104.0, 22.0, 36.0
_DASHES = ("none", "7 3", "2 3", "9 3 2 3", "5 2 2 2 2 2", "12 4")
_GAP = 13.0
"""Least distance of two labels."""
_LONGEST = 15
"""Most characters of a label: more would not fit into the right margin."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """Epsilon after each charge of one ledger, or of several equal ones."""

    label: str
    values: tuple[float, ...]


def lines_of(groups: Sequence[Rounds]) -> list[Line]:
    """Return the lines to draw: ledgers with charges, largest epsilon first.

    If there are more than `MOST_LINES`, the largest ones and the smallest one remain.
    """
    lines = [
        Line(
            label=_label(group.stores),
            values=tuple(row.cumulative for row in group.rows if 0 < row.epsilon < math.inf),
        )
        for group in groups
    ]
    drawable = (line for line in lines if line.values and math.isfinite(line.values[-1]))
    lines = sorted(drawable, key=lambda line: -line.values[-1])
    if len(lines) <= MOST_LINES:
        return lines
    return [*lines[: MOST_LINES - 1], lines[-1]]


def draw(lines: Sequence[Line], *, limit: float | None) -> Markup:
    """Draw lines as an inline `<svg>` that screen readers can announce.

    Args:
        lines: At least one.
        limit: The stores' limit on epsilon; not drawn if None.
    """
    charges = max(len(line.values) for line in lines)
    top = max(max(line.values[-1] for line in lines), limit or 0.0) * 1.06
    step = _tick(top)
    parts = [_grid(y * step, top) for y in range(int(top / step) + 1)]
    every = max(1, round(charges / 6))
    parts += [_count(at, charges) for at in range(every, charges + 1, every)]
    ends = _apart([_y(line.values[-1], top) for line in lines])
    for line, dashes, end in zip(lines, _DASHES, ends, strict=False):
        parts.append(_steps(line, dashes, charges, top))
        parts.append(_text(_WIDTH - _RIGHT + 8, end + 4, f"{line.label}", "start"))
    if limit is not None:
        y = _y(limit, top)
        parts.append(
            Markup(
                '<line x1="{}" x2="{}" y1="{y}" y2="{y}" stroke-width="1.2"'
                ' stroke-dasharray="1 3" style="stroke: var(--warn)"/>'
            ).format(_LEFT, _WIDTH - _RIGHT, y=f"{y:.1f}")
        )
        parts.append(_text(_LEFT + 4, y + 13, f"limit {limit:g}", "start"))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, "charge", "middle"))
    parts.append(_text(_LEFT - 5, _TOP - 3, "ε", "end"))
    ends_in_words = "; ".join(f"{line.label}: {line.values[-1]:.4f}" for line in lines)
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-labelledby="spent-title spent-desc"'
        ' class="plot" xmlns="http://www.w3.org/2000/svg"><title id="spent-title">{}</title>'
        '<desc id="spent-desc">{}</desc>{}</svg>'
    ).format(
        f"{_WIDTH:g}",
        f"{_HEIGHT:g}",
        "Epsilon spent after each charge",
        f"One step line per ledger over {charges} charges, ending at {ends_in_words}."
        + (f" The stores' limit is {limit:g}." if limit is not None else ""),
        Markup("").join(parts),
    )


def _label(stores: Sequence[str]) -> str:
    if stores[1:]:
        return f"{len(stores)} stores"
    name = str(visible(stores[0]))
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _x(charge: float, charges: int) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * charge / charges


def _y(value: float, top: float) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * value / top


def _tick(top: float) -> float:
    """Return a step of 1, 2 or 5 times a power of ten that gives three to seven grid lines.

    >>> [_tick(top) for top in (0.9, 4.2, 18.0)]
    [0.2, 1.0, 5.0]
    """
    power = 10.0 ** (len(str(int(top))) - 1) if top >= 1 else 0.1
    while top / power < 1:
        power /= 10
    return next(m * power for m in (0.2, 0.5, 1.0, 2.0, 5.0) if top / (m * power) <= 6)


def _apart(places: Sequence[float]) -> list[float]:
    """Move labels, given from top to bottom, until none covers another or the axis.

    >>> _apart([100.0, 101.0]), _apart([213.0, 214.0])
    ([100.0, 113.0], [201.0, 214.0])
    """
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + _GAP) if moved else place)
    # The first pass may have pushed labels below the axis; this one moves them up again.
    floor = _HEIGHT - _BOTTOM
    for at in reversed(range(len(moved))):
        moved[at] = min(moved[at], floor)
        floor = moved[at] - _GAP
    return moved


def _steps(line: Line, dashes: str, charges: int, top: float) -> Markup:
    path = f"M{_x(0, charges):.1f} {_y(0, top):.1f}"
    for number, value in enumerate(line.values, start=1):
        path += f"V{_y(value, top):.1f}H{_x(number, charges):.1f}"
    return Markup(
        '<path d="{}" fill="none" stroke-width="2" stroke-dasharray="{}"'
        ' style="stroke: var(--accent)"/>'
    ).format(path, dashes)


def _grid(value: float, top: float) -> Markup:
    y = _y(value, top)
    line = Markup(
        '<line x1="{}" x2="{}" y1="{y}" y2="{y}" stroke-width="0.6" style="stroke: var(--rule)"/>'
    ).format(_LEFT, _WIDTH - _RIGHT, y=f"{y:.1f}")
    return line + _text(_LEFT - 5, y + 4, f"{value:g}", "end")


def _count(charge: int, charges: int) -> Markup:
    # The step of a charge ends at its number.
    return _text(_x(charge, charges), _HEIGHT - _BOTTOM + 15, f"{charge}", "middle")


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup(
        '<text x="{}" y="{}" text-anchor="{}" font-size="11.5" style="fill: var(--ink)">{}</text>'
    ).format(f"{x:.1f}", f"{y:.1f}", anchor, text)
