"""Bounds on the sum of honest stores' vectors: a sum beyond them contains a forged vector.

Masks hide single vectors, so only the sum can be checked. An honest vector is q + z: a
clipped and rounded update q of norm at most `Section.l2_bound`, and Skellam noise z of variance
`noise_variance` in each coordinate. `measure` compares a sum with the bounds for `stores` such
vectors.

Derivation. Q is the sum of the q, Z that of the z, d the length, A = stores * l2_bound >= |Q|,
V = stores * noise_variance. Every coordinate of Z is Skellam of variance V, independent of the
others and of Q. Three events get a third of `CHANCE` each; L = ln(3 / CHANCE).

1. One coordinate. Its moment generating function is exp(V (cosh t - 1)), so by Chernoff
   P(Z_j > m) <= exp(-E(m)), E(m) = m asinh(m/V) - (sqrt(m^2 + V^2) - V). Over d coordinates
   and two signs, all lie within M, where E(M) = L + ln(2d).
2. The norm of the noise. Then |Z|^2 is the sum of min(Z_j^2, M^2), which have a mean of at most
   V, values of at most M^2, and a variance of at most that of Z_j^2, which is 2V^2 + V (cutting
   is a contraction). Bernstein's inequality: |Z|^2 <= dV + s with
   s = M^2 L/3 + sqrt((M^2 L/3)^2 + 2 d (2V^2 + V) L). It is at most d M^2 in any case.
3. The noise along the signal. For a unit vector u, sum_j (cosh(t u_j) - 1) <= cosh(t) - 1, term
   by term of the series, as sum_j u_j^2k <= 1: so <u, Z> has the tail of one coordinate, and is
   at most m, where E(m) = L.

Together |Q + Z|^2 <= A^2 + 2 A m + min(d M^2, dV + s), and no coordinate is larger than
stores * ceil(clip * scale) + M. Signal and noise are nearly orthogonal: a bound on the sum of
their norms would leave a forger the product of the two as well.

>>> from hanse_common.secagg.layout import Section
>>> update = Section("update", 10_000, clip=1.0, scale=1000, headroom=1000, noise_variance=1e4)
>>> round(largest_norm(update, stores=9)), round(9 * update.l2_bound + (9 * 1e4 * 10_000) ** 0.5)
(34243, 39900)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hanse_common.secagg.layout import Integers, Layout, Section

CHANCE = 1e-9
"""Highest probability of taking one section of an honest sum for a forged one."""

_EVENT = CHANCE / 3
_ROUNDING = 1 + 1e-9
"""Margin for the error of a norm in double precision."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Excess:
    """A section whose sum honest stores cannot have made.

    Args:
        section: Its name.
        norm: L2 norm of the sum, in integer steps.
        norm_bound: Largest norm of a sum of honest vectors, in integer steps.
        largest: Largest absolute coordinate of the sum, in integer steps.
        largest_bound: Largest absolute coordinate of a sum of honest vectors.
    """

    section: str
    norm: float
    norm_bound: float
    largest: int
    largest_bound: float


def measure(layout: Layout, total: Integers, stores: int) -> tuple[Excess, ...]:
    """Return the sections of a sum that exceed the bounds of honest stores.

    Args:
        layout: The vector's layout.
        total: Signed sum of `stores` vectors, shape `(layout.length,)`.
        stores: Number of vectors in the sum.

    Guarantees:
        A section of a sum of honest vectors is returned with probability below `CHANCE`.

    Edge cases:
        A forged vector that keeps the sum within the bounds is not detected: masking hides it.
    """
    excesses = []
    for section, part in zip(layout.sections, layout.split(total).values(), strict=True):
        # Not np.linalg.norm: its BLAS would start threads for one pass over memory.
        excess = Excess(
            section=section.name,
            norm=math.sqrt(float(np.einsum("i,i->", part, part, dtype=np.float64))),
            norm_bound=largest_norm(section, stores),
            largest=int(np.abs(part).max()),
            largest_bound=largest_coordinate(section, stores),
        )
        if excess.norm > excess.norm_bound or excess.largest > excess.largest_bound:
            excesses.append(excess)
    return tuple(excesses)


def largest_norm(section: Section, stores: int, *, most: float | None = None) -> float:
    """Return the L2 norm, in integer steps, that a sum of honest vectors does not exceed.

    Args:
        section: The section.
        stores: Number of vectors in the sum.
        most: Largest norm of the sum of their values before rounding and noise, in the
            section's units, if it is known to be less than `stores` clips.
    """
    # The names of the derivation above: signal A, along m, coordinate M, slack s.
    variance, length = stores * section.noise_variance, section.length
    signal = stores * section.l2_bound
    if most is not None:
        # Each store rounds on its own, by less than one step in each coordinate.
        signal = min(signal, most * section.scale + stores * math.sqrt(length))
    log_chance = -math.log(_EVENT)
    along = _tail(variance, log_chance)
    coordinate = _coordinate_noise(section, stores)
    third = coordinate**2 * log_chance / 3
    spread = math.sqrt(2 * length * (2 * variance**2 + variance) * log_chance)
    slack = third + math.hypot(third, spread)
    noise = min(length * coordinate**2, length * variance + slack)
    return math.sqrt(signal**2 + 2 * signal * along + noise) * _ROUNDING


def largest_coordinate(section: Section, stores: int) -> float:
    """Return the absolute value that no coordinate of a sum of honest vectors exceeds."""
    signal = stores * math.ceil(section.clip * section.scale)
    return signal + _coordinate_noise(section, stores)


def _coordinate_noise(section: Section, stores: int) -> float:
    return _tail(stores * section.noise_variance, math.log(2 * section.length / _EVENT))


def _tail(variance: float, exponent: float) -> float:
    """Return the m with E(m) = `exponent`: P(noise > m) is at most exp(-exponent)."""
    if variance == 0:
        return 0.0

    def chernoff_exponent(m: float) -> float:
        # sqrt(m^2 + V^2) - V as a quotient: the difference cancels for large variances.
        return m * math.asinh(m / variance) - m * m / (math.hypot(m, variance) + variance)

    # The Gaussian tail of the same variance: a start close to the solution, and not above it.
    low, high = 0.0, math.sqrt(2 * variance * exponent)
    while chernoff_exponent(high) < exponent:
        high *= 2
    # More halvings than a double has bits. The upper end is returned: the bound stays a bound.
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if chernoff_exponent(middle) < exponent else (low, middle)
    return high
