"""Which variant to train: the largest whose signal-to-noise stays above a rule of thumb.

>>> advise([("rules", 392, 7.5), ("all", 138_028, 0.4)], threshold=3.0, parameters=2471).variant
'rules'
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SIGNAL_TO_NOISE = 3.0
"""The signal-to-noise of a round from which on joining was measured to pay off.

On the twelve regions of Complete Journey, a federation predicts rises at least as well as each
region alone without privacy at 3.5 and above, and worse at 2.6 and below (docs/privacy.md,
Planning). It is a rule of thumb from one data set and one kind of model, not a theorem."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recommendation:
    """What to train, and why.

    Args:
        variant: The largest variant above the threshold; None if none is.
        reason: Why, in one sentence.
        parameters: The most parameters for which signal-to-noise stays above the threshold.
    """

    variant: str | None
    reason: str
    parameters: int


def advise(
    candidates: Sequence[tuple[str, int, float]], *, threshold: float, parameters: int
) -> Recommendation:
    """Pick the largest variant above the threshold.

    Args:
        candidates: Name, parameters and signal-to-noise of each.
        threshold: Least signal-to-noise of a round.
        parameters: The most parameters for which it stays above the threshold.
    """
    room = f"there is room for {parameters:,} parameters"
    good = [each for each in candidates if each[2] >= threshold]
    if not good:
        # The best of them shows how far off the threshold is.
        name, count, ratio = max(candidates, key=lambda each: each[2])
        return Recommendation(
            variant=None,
            reason=f"none of these: even {name} ({count:,} parameters) has a signal-to-noise of "
            f"{ratio:.2f}, below {threshold:g}; {room}. More customers, a larger epsilon, a "
            "higher sample rate or fewer rounds help",
            parameters=parameters,
        )
    name, count, ratio = max(good, key=lambda each: each[1])
    larger = [each for each in candidates if each[1] > count]
    why = f"{ratio:.2f} is at least {threshold:g}"
    if larger:
        after, _, less = min(larger, key=lambda each: each[1])
        why += f", {after} has {less:.2f}"
    return Recommendation(
        variant=name,
        reason=f"the largest whose signal-to-noise stays above the threshold: {why}; {room}",
        parameters=parameters,
    )
