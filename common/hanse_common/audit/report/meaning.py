"""What an epsilon and a delta mean for one person, in chances that need no mathematics.

The hypothesis-testing reading: somebody sees everything that was released, knows all other
customers, and has to tell whether one person is among the data. Whatever they do, of the times
that the person is absent they are wrong at a rate a, and of the times that the person is there
they notice at most a rate b with (Wasserman and Zhou 2010; Kairouz, Oh and Viswanath 2015,
theorem 2.1)

    b <= e^epsilon a + delta        and        1 - a <= e^epsilon (1 - b) + delta.

>>> found = meaning(1.0, 1e-6)
>>> round(found.factor, 2), round(found.right_at_even_odds, 3)
(2.72, 0.731)
>>> round(found.noticed_at_one_percent, 4)
0.0272
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_FALSE_ALARM = 0.01
_LARGEST = 700.0
"""Beyond it, e to that power is no double; the chances below are 1 long before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Meaning:
    """Upper bounds on what anybody can tell about one person.

    Args:
        epsilon: For which they hold.
        target_delta: With which.
        factor: By how much the chance of anything seen may change, beside the addition of
            delta; e^epsilon. Were delta zero, nobody's odds could grow more than so many times.
        right_at_even_odds: Share of right answers where both answers were equally likely.
        noticed_at_one_percent: Share of persons who are there that are noticed, where one in
            a hundred who are not is accused.
    """

    epsilon: float
    target_delta: float
    factor: float
    right_at_even_odds: float
    noticed_at_one_percent: float


def meaning(epsilon: float, target_delta: float) -> Meaning:
    """Say what an epsilon at a delta lets anybody tell.

    Args:
        epsilon: Not negative.
        target_delta: In (0, 1).

    Guarantees:
        Bounds on every test whatsoever, under this one pair of epsilon and delta; the
        mechanism may allow less.
    """
    factor = math.exp(min(epsilon, _LARGEST))
    return Meaning(
        epsilon=epsilon,
        target_delta=target_delta,
        factor=factor,
        right_at_even_odds=min(1.0, (factor + target_delta) / (1 + factor)),
        noticed_at_one_percent=min(
            1.0,
            factor * _FALSE_ALARM + target_delta,
            1 - (1 - target_delta - _FALSE_ALARM) / factor,
        ),
    )
