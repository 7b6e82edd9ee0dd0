"""The drawing of what was spent, charge by charge: one stepped line a ledger, named at its end.

Text stays text in the page's font, colours are the page's, and lines differ in their dashes:
nothing is told by colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from hanse_common.audit.report.content import Rounds
from hanse_common.pages import visible

MOST_LINES = 6
"""With more different ledgers than this, those in between are not drawn."""

_WIDTH, _HEIGHT = 420.0, 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 34.0, 104.0, 22.0, 36.0
_DASHES = ("none", "7 3", "2 3", "9 3 2 3", "5 2 2 2 2 2", "12 4")
_GAP = 13.0
_LONGEST = 15


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One ledger, or several that say the same: epsilon after each charge."""

    label: str
    values: tuple[float, ...]


def lines_of(groups: Sequence[Rounds]) -> list[Line]:
    """Return what is drawn: the ledgers that charged something, largest first.

    Of more than `MOST_LINES` the largest and the smallest remain.
    """
    found = [
        Line(
            label=_label(group.stores),
            values=tuple(row.cumulative for row in group.rows if 0 < row.epsilon < math.inf),
        )
        for group in groups
    ]
    drawable = (line for line in found if line.values and math.isfinite(line.values[-1]))
    found = sorted(drawable, key=lambda line: -line.values[-1])
    if len(found) <= MOST_LINES:
        return found
    return [*found[: MOST_LINES - 1], found[-1]]


def draw(lines: Sequence[Line], *, limit: float | None) -> Markup:
    """Draw lines as an inline `<svg>` that screen readers can announce.

    Args:
        lines: At least one.
        limit: The stores' own, if it is to be drawn.
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
    said = "; ".join(f"{line.label}: {line.values[-1]:.4f}" for line in lines)
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-labelledby="spent-title spent-desc"'
        ' class="plot" xmlns="http://www.w3.org/2000/svg"><title id="spent-title">{}</title>'
        '<desc id="spent-desc">{}</desc>{}</svg>'
    ).format(
        f"{_WIDTH:g}",
        f"{_HEIGHT:g}",
        "Epsilon spent after each charge",
        f"One stepped line a ledger over {charges} charges, ending at {said}."
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
    """A step of 1, 2 or 5 times a power of ten that makes three to seven lines.

    >>> [_tick(top) for top in (0.9, 4.2, 18.0)]
    [0.2, 1.0, 5.0]
    """
    power = 10.0 ** (len(str(int(top))) - 1) if top >= 1 else 0.1
    while top / power < 1:
        power /= 10
    return next(m * power for m in (0.2, 0.5, 1.0, 2.0, 5.0) if top / (m * power) <= 6)


def _apart(places: Sequence[float]) -> list[float]:
    """Move labels until none covers another or the axis; they come from the top down.

    >>> _apart([100.0, 101.0]), _apart([213.0, 214.0])
    ([100.0, 113.0], [201.0, 214.0])
    """
    found: list[float] = []
    for place in places:
        found.append(max(place, found[-1] + _GAP) if found else place)
    floor = _HEIGHT - _BOTTOM
    for at in reversed(range(len(found))):
        found[at] = min(found[at], floor)
        floor = found[at] - _GAP
    return found


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
