"""Score how likely each canary was in the data, and choose which coins to guess.

A canary that is in and drawn adds the most that it may, C, along its own direction to a round's
sum, on which there is Gaussian noise of deviation s. In units of C, with x the released sum
along that direction minus what all others added, a round's log-likelihood ratio is

    log((1 - q) + q exp((x - 1/2) / s²)),

with q the sampling rate, 1 in a sum of statistics. Its sum over the rounds of all phases, each
with its own s, is the most powerful score (Neyman and Pearson) where a round is one step and a
direction is a canary's own. It grows with x, the inner product of sum and direction; the noise s
is measured on the released sums, as an attacker would. Where a round has several steps, or
canaries share directions, the score is weaker, but the bound is equally valid.

>>> seen = np.array([[1.1, 0.1, -0.1], [0.9, 0.0, 0.1]])  # two rounds, three canaries
>>> (scores(seen, sample_rate=0.5, noise=0.1) > 0).tolist()
[True, False, False]
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hanse_simulations.privacy_audit.bound import Guesses

Floats = npt.NDArray[np.float64]

SHARES = (1 / 8, 1 / 4, 1 / 2)
"""Fractions of the canaries to guess about, fixed before any score is seen. The bound pays for
trying all of them."""

_LEAST_NOISE = 0.05
"""Smallest noise assumed, in units of C. Below it every drawn canary stands out, and likelihoods
would only overflow."""


def scores(seen: Floats, *, sample_rate: float, noise: float) -> Floats:
    """Log-likelihood ratios of each canary being in the data, by the rounds of one phase.

    Args:
        seen: Released sums along canaries' directions minus what others added, in units of the
            most that a canary adds [rounds, canaries].
        sample_rate: Chance of a canary that is in to be drawn in a round.
        noise: Standard deviation of the noise, in the same units.

    Returns:
        [canaries]; those of several phases add up.
    """
    deviation = max(noise, _LEAST_NOISE)
    drawn = np.log(sample_rate) + (seen - 0.5) / deviation**2
    not_drawn = np.log1p(-sample_rate) if sample_rate < 1 else -np.inf
    total: Floats = np.logaddexp(not_drawn, drawn).sum(axis=0)
    return total


def guess_counts(canaries: int) -> list[int]:
    """Numbers of guesses about `canaries` canaries: an even number for each of `SHARES`.

    >>> guess_counts(1000)
    [124, 250, 500]
    """
    return [2 * round(share * canaries / 2) for share in SHARES]


def guess(canary_scores: Floats, included: npt.NDArray[np.bool_], count: int) -> Guesses:
    """Guess the highest scores in and the lowest out, as many of each; count the right ones.

    Args:
        canary_scores: Scores [canaries].
        included: The coins [canaries].
        count: Number of guesses, an even number.
    """
    each = count // 2
    order = np.argsort(-canary_scores, kind="stable")
    right = included[order[:each]].sum() + (~included[order[len(order) - each :]]).sum()
    return Guesses(count=2 * each, right=int(right))
