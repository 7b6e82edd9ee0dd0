"""Translates epsilon and delta into error rates of an attacker, for readers without mathematics.

Differential privacy as a hypothesis test: an attacker sees everything that was released, knows
all other customers, and decides whether one person is in the data. Every test with false alarm
rate a detects a present person at a rate b that satisfies (Wasserman and Zhou 2010; Kairouz, Oh
and Viswanath 2015, theorem 2.1)

    b <= e^epsilon a + delta        and        1 - a <= e^epsilon (1 - b) + delta.

>>> bounds = meaning(1.0, 1e-6)
>>> round(bounds.factor, 2), round(bounds.right_at_even_odds, 3)
(2.72, 0.731)
>>> round(bounds.noticed_at_one_percent, 4)
0.0272
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_FALSE_ALARM = 0.01
"""Rate of false alarms of `noticed_at_one_percent`."""
_LARGEST = 700.0
"""Largest epsilon whose exponential is a double; the rates below reach 1 long before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Meaning:
    """Upper bounds on what an attacker can learn about one person's presence.

    Args:
        epsilon: Epsilon of the bounds.
        target_delta: Delta of the bounds.
        factor: e^epsilon, by which one person can change the probability of any outcome, apart
            from delta. At delta 0, no attacker's odds grow by more than this factor.
        right_at_even_odds: Rate of right answers if both answers are equally likely.
        noticed_at_one_percent: Rate of detection at a false alarm rate of 1 %.
    """

    epsilon: float
    target_delta: float
    factor: float
    right_at_even_odds: float
    noticed_at_one_percent: float


def meaning(epsilon: float, target_delta: float) -> Meaning:
    """Return the bounds for an epsilon at a delta.

    Args:
        epsilon: Not negative.
        target_delta: In (0, 1).

    Guarantees:
        The bounds hold for every test, given this one pair of epsilon and delta; those of the
        mechanism itself may be tighter.
    """
    factor = math.exp(min(epsilon, _LARGEST))
    return Meaning(
        epsilon=epsilon,
        target_delta=target_delta,
        factor=factor,
        right_at_even_odds=min(1.0, (factor + target_delta) / (1 + factor)),
        # The first inequality above at a = 1 %, and the second one solved for b.
        noticed_at_one_percent=min(
            1.0,
            factor * _FALSE_ALARM + target_delta,
            1 - (1 - target_delta - _FALSE_ALARM) / factor,
        ),
    )
