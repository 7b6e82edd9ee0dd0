"""What each phase of a run costs, and how many customers its noise hides.

A phase's noise falls with the root of its share of the budget: four times the share is half the
noise. A number of a sum of statistics is seen above its noise from as many customers on as the
noise has deviations in it; a phase that needs more than the federation has is better left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hanse_common.config import RunSettings
from hanse_common.privacy.accounting import epsilon
from hanse_common.privacy.plan import PrivacyPlan

if TYPE_CHECKING:
    from hanse_simulations.planning.forecast import Population

_SEEN = 2.0
"""Standard deviations at which a number is told from its noise."""
_TOO_MANY = 0.25
"""Fraction of all customers beyond which a phase is too noisy: no number of a sum over many
classes or items is about so many of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseForecast:
    """What one phase of a run costs.

    Args:
        phase: Its name; `train` for the gradient.
        release: `gradient` or `statistics`.
        rounds: Number of its rounds.
        share: Its share of the budget, as a part of squared mu.
        noise_multiplier: Noise in units of a customer's largest contribution.
        epsilon: Epsilon of the phase alone.
        seen_from: Customers who must add all that they can to one number until it exceeds its
            noise by two deviations; None for the gradient.
    """

    phase: str
    release: str
    rounds: int
    share: float
    noise_multiplier: float
    epsilon: float
    seen_from: float | None


def phase_forecasts(
    settings: RunSettings, plan: PrivacyPlan, population: Population
) -> tuple[PhaseForecast, ...]:
    """Return one row for each phase, in order; none if all rounds release gradients."""
    shares = {phase.name: phase.share or 0.0 for phase in settings.phases}
    rows = []
    for phase in plan.schedule.all if settings.phases else ():
        charge = plan.charge(phase.name)
        if charge is None:
            continue
        gradient = phase.release == "gradient"
        noise = plan.noise_multiplier if gradient else plan.phase_noise[phase.name]
        # In mode local every store adds all of the noise to its own sum.
        stores = len(population.customers) if plan.mode == "local" else 1
        rows.append(
            PhaseForecast(
                phase=phase.name,
                release=phase.release,
                rounds=phase.rounds,
                share=shares[phase.name],
                noise_multiplier=noise,
                epsilon=epsilon([charge.steps] * phase.rounds, target_delta=plan.target_delta),
                seen_from=None if gradient else _SEEN * noise * stores**0.5,
            )
        )
    return tuple(rows)


def phase_warnings(
    settings: RunSettings, plan: PrivacyPlan, population: Population
) -> tuple[str, ...]:
    """Return advice on shares: a sentence for each phase that is too noisy to be worth its own."""
    return tuple(
        f"phase {row.phase!r} tells a number from its noise from {row.seen_from:.0f} of "
        f"{population.total} customers on: give it {(row.seen_from / limit) ** 2:.2g} times its "
        f"share of {row.share:g}, or leave it out and give its share to the others"
        for row in phase_forecasts(settings, plan, population)
        if row.seen_from is not None and row.seen_from > (limit := _TOO_MANY * population.total)
    )
