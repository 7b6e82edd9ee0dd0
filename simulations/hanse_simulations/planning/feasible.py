"""Solve for the privacy plan of settings, or say which settings would have one.

>>> from hanse_common.config import DataSettings, FederationSettings, PrivacySettings
>>> settings = RunSettings(
...     recipe="planned", data=DataSettings(source="synthetic"),
...     privacy=PrivacySettings(target_epsilon=0.05), federation=FederationSettings(rounds=4000),
... )
>>> try:
...     solved_plan(settings)
... except PrivacyError as error:
...     print(error.hint[:20])
possible: epsilon >=
"""

from __future__ import annotations

import math

from hanse_common.config import RunSettings
from hanse_common.errors import ConfigError, PrivacyError
from hanse_common.privacy.accounting import LEAST_NOISE, MOST_ROUNDS, largest
from hanse_common.privacy.plan import PrivacyPlan, unsolved, with_gradient_noise
from hanse_common.wording import counted, epsilon

_MOST_NOISE = 100.0
"""The largest noise multiplier that a hint counts on.

At this much noise on the update, epsilon is nearly that of the statistics alone
(`statistics_noise_multiplier` is 10), so that more would gain next to nothing; a solved plan,
which may have 0.2 % too much noise, still fits."""


def solved_plan(settings: RunSettings) -> PrivacyPlan:
    """Solve for the privacy plan of a run's settings.

    Raises:
        ConfigError: The settings ask for no privacy.
        PrivacyError: No noise keeps the promise; the hint says what is possible.
    """
    _check_private(settings)
    try:
        plan = PrivacyPlan.from_settings(settings)
    except PrivacyError as error:
        raise PrivacyError(error.message, hint=_possible(settings)) from error
    if plan is None:
        raise _nothing_to_plan()
    return plan


def price(settings: RunSettings, noise_multiplier: float, *, rounds: int | None = None) -> float:
    """Epsilon of a run at a given noise, whatever its target; infinite at next to no noise.

    Args:
        settings: The run's settings.
        noise_multiplier: Noise on the sum of gradients, in clips.
        rounds: Number of gradient rounds; that of the settings if unset.

    Raises:
        ConfigError: The settings ask for no privacy.
    """
    _check_private(settings)
    if noise_multiplier < LEAST_NOISE:
        return math.inf
    # A plan above its target does not exist; without a target it says what the noise costs.
    changes: dict[str, object] = {"privacy.target_epsilon": math.inf}
    if rounds is not None:
        # Rounds of the gradient; those of statistics are as they are.
        changes["federation.rounds"] = rounds + settings.schedule.statistics_rounds
    changed = unsolved(settings).with_changes(changes)
    plan = PrivacyPlan.from_settings(with_gradient_noise(changed, noise_multiplier))
    if plan is None:
        raise _nothing_to_plan()
    return plan.granted_epsilon


def most_rounds(settings: RunSettings, noise_multiplier: float) -> int:
    """Number of gradient rounds that stay within the target at a given noise.

    0 if not even one does; at most `accounting.MOST_ROUNDS`.
    """
    return largest(
        lambda rounds: (
            price(settings, noise_multiplier, rounds=rounds) <= settings.privacy.target_epsilon
        ),
        most=MOST_ROUNDS,
    )


def _possible(settings: RunSettings) -> str:
    """What the most noise allows: how small an epsilon, or how many rounds."""
    noise = settings.privacy.noise_multiplier or _MOST_NOISE
    wanted, target = settings.federation.rounds, settings.privacy.target_epsilon
    least = price(settings, noise)
    ways = []
    if math.isfinite(least):
        ways.append(f"epsilon >= {epsilon(least)} for {counted(wanted, 'round')}")
    rounds = most_rounds(settings, noise)
    # A plan solves for its own noise, up to 0.2 % too high: try it before promising it.
    more = settings.schedule.statistics_rounds
    if rounds and _holds(settings.with_changes({"federation.rounds": rounds + more})):
        ways.append(f"{counted(rounds, 'round')} at epsilon = {target:g}")
    return f"possible: {', or '.join(ways)}" if ways else "raise privacy.noise_multiplier"


def _holds(settings: RunSettings) -> bool:
    try:
        return PrivacyPlan.from_settings(settings) is not None
    except PrivacyError:
        return False


def _check_private(settings: RunSettings) -> None:
    if settings.privacy.mode == "none":
        raise _nothing_to_plan()


def _nothing_to_plan() -> ConfigError:
    return ConfigError(
        "privacy.mode='none' has no noise and no budget to plan",
        hint="give --mode distributed or --mode local",
    )
