"""Format figures for people; shared by tables, the display and the report.

>>> figure(0.38012), figure(None), figure(-0.0281)
('.380', '–', '-.028')
>>> duration(102), epsilon(7.981)
('1 min 42 s', '7.99')
"""

from __future__ import annotations

import math
import re

from hanse_common.wording import ABSENT, counted, epsilon

__all__ = ["ABSENT", "counted", "delta", "duration", "epsilon", "figure", "natural"]


def figure(value: float | None, *, digits: int = 3) -> str:
    """Write a figure between -1 and 1 without its leading zero; `–` where there is none."""
    if value is None or not math.isfinite(value):
        return ABSENT
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 and "0." in text[:3] else text


def delta(value: float) -> str:
    """Write a δ in scientific notation.

    >>> delta(1e-6), delta(2.5e-7)
    ('1e-6', '2.5e-7')
    """
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def duration(seconds: float | None) -> str:
    """Write a time span in the two largest units that matter."""
    if seconds is None or not math.isfinite(seconds):
        return ABSENT
    if seconds < 10:
        return f"{seconds:.1f} s"
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60} min"


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a key that sorts names with numbers the way people count.

    >>> sorted(["Region 10", "Region 9", "Lübeck"], key=natural)
    ['Lübeck', 'Region 9', 'Region 10']
    """
    parts = re.split(r"([0-9]+)", name)
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part)
