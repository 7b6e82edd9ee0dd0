"""One frozen object that binds clip, sampling, noise and accounting.

Nobody assembles these by hand: training takes its clip and noise from the plan, and the
accountant takes its event from the same plan.

>>> plan = PrivacyPlan(
...     sample_rate=0.1, max_grad_norm=1.0, noise_multiplier=2.0,
...     steps_per_round=5, rounds=40, target_epsilon=4.0, target_delta=1e-6,
... )
>>> round(plan.epsilon_after(rounds=40), 2)
3.81
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from hanse_common.config import RunSettings
from hanse_common.errors import PrivacyError
from hanse_common.privacy.accounting import SampledGaussianSteps, epsilon, noise_multiplier_for


@dataclass(frozen=True, kw_only=True, slots=True)
class PrivacyPlan:
    """What one store promises each of its customers over a run, and what it costs.

    The unit is the customer: one training example is one customer's whole history at the
    store. Neighbouring data sets differ by adding or removing one customer. A person who
    shops at m stores of the federation is one customer at each of them; the promise holds
    per store and composes over the m stores.

    Guarantees:
        `epsilon_after(rounds)` never exceeds `target_epsilon`, or the plan does not exist.
    """

    sample_rate: float
    max_grad_norm: float
    noise_multiplier: float
    steps_per_round: int
    rounds: int
    target_epsilon: float
    target_delta: float

    def __post_init__(self) -> None:
        if self.max_grad_norm <= 0:
            raise PrivacyError(f"max_grad_norm={self.max_grad_norm} must be positive")
        if not 0 < self.target_delta < 1:
            raise PrivacyError(f"target_delta={self.target_delta} must lie in (0, 1)")
        cost = self.epsilon_after(rounds=self.rounds)
        if cost > self.target_epsilon:
            raise PrivacyError(
                f"{self.rounds} rounds at noise_multiplier={self.noise_multiplier:.4f} cost "
                f"epsilon={cost:.3f}, more than target_epsilon={self.target_epsilon}",
                hint="leave noise_multiplier out and it will be solved for",
            )

    @classmethod
    def from_settings(cls, settings: RunSettings) -> Self | None:
        """The plan that a run's settings ask for; None where they ask for no privacy.

        Raises:
            PrivacyError: The settings promise more than their noise can keep.
        """
        terms, training = settings.privacy, settings.training
        if terms.mode == "none":
            return None
        rounds = settings.federation.rounds
        return cls(
            sample_rate=training.sample_rate,
            max_grad_norm=terms.max_grad_norm,
            noise_multiplier=terms.noise_multiplier
            or noise_multiplier_for(
                target_epsilon=terms.target_epsilon,
                target_delta=terms.target_delta,
                sample_rate=training.sample_rate,
                count=rounds * training.local_steps,
            ),
            steps_per_round=training.local_steps,
            rounds=rounds,
            target_epsilon=terms.target_epsilon,
            target_delta=terms.target_delta,
        )

    def round_cost(self) -> SampledGaussianSteps:
        """What one round is charged."""
        return self._steps(self.steps_per_round)

    def epsilon_after(self, *, rounds: int) -> float:
        """Epsilon of that many rounds under this plan alone, at `target_delta`."""
        return epsilon([self._steps(self.steps_per_round * rounds)], target_delta=self.target_delta)

    def _steps(self, count: int) -> SampledGaussianSteps:
        return SampledGaussianSteps(
            noise_multiplier=self.noise_multiplier, sample_rate=self.sample_rate, count=count
        )
