"""Expected visits with each class within each horizon, from a Poisson rate per customer.

The rate of a customer and class starts at their own decayed visits with it. Summed over a
horizon it gives the expected visits; the probability of at least one is that of a Poisson
variable above 0. Few parameters are learned: how recency, other decays and the customer's
activity change the rate, and how it changes over the horizons. They start at no change.

>>> import torch
>>> expected = torch.tensor([0.25, 0.5, 1.0])  # visits in the next 7, 14 and 28 days
>>> [round(chance, 2) for chance in chances(expected).tolist()]
[0.22, 0.39, 0.63]
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from hanse_client.model.config import InterestConfig
from hanse_client.tasks.interest.heads import (
    FLOOR,
    FREQUENCY_HALF_LIFE,
    INTERESTS,
    Interests,
    feature_count,
    is_silent,
)

_LEAST = 1e-6  # keeps the logarithm of a probability finite
_LOG_MOST = 7.0
"""Bounds the rate at e^7 = 1,097 visits a day, so that no weights make a loss overflow."""


class RateHead(nn.Module):
    """Expected visits with every class within each horizon.

    The horizons divide the future into stretches: 0-7, 7-14 and 14-28 days. Each has its own
    positive rate, so that expected visits never decrease with the horizon.
    """

    def __init__(self, config: InterestConfig) -> None:
        super().__init__()
        self._half_lives = tuple(config.half_lives)
        self._start = config.half_lives.index(FREQUENCY_HALF_LIFE)
        ends = [0.0, *config.horizons]
        self._stretches = [stop - start for start, stop in pairwise(ends)]
        self.rate = nn.Linear(len(config.half_lives) - 1 + feature_count(config), 1, bias=False)
        self.hold = nn.Linear(1, len(config.horizons))

    def start_from_own_rate(self) -> None:
        """Set the weights so that the head forecasts by the customer's own decayed rate."""
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def needs_features(self) -> bool:
        """Whether the output or a gradient depends on `interest_features`."""
        return not is_silent(self.rate)

    def forward(self, past: Interests, popularity: Tensor, features: Tensor | None) -> Tensor:
        """Predict expected visits.

        Args:
            past: The customers' counts.
            popularity: [B, C] logarithm of each class's popularity, for the pseudo-counts of
                `BasketHead`.
            features: [B, P, C, F] of `interest_features`; None if `needs_features` is false.

        Returns:
            [B, P, C, horizons] expected visits from the anchor to the end of each horizon.
        """
        credit = FLOOR * torch.exp(popularity)[:, None, :, None]
        half_lives = torch.tensor(self._half_lives)
        observed = past.observed.unsqueeze(-1)
        # The integral of the decay over the days observed: visits over it are an unbiased rate.
        seen_days = half_lives / math.log(2) * (1 - torch.exp2(-observed / half_lives))  # [B, P, H]
        logs = torch.log((past.decayed + credit) / seen_days.unsqueeze(2))  # [B, P, C, H]
        log_rate = logs[..., self._start : self._start + 1]
        if features is not None:
            others = [h for h in range(len(self._half_lives)) if h != self._start]
            contrasts = logs[..., others] - log_rate
            log_rate = log_rate + self.rate(torch.cat([contrasts, features], dim=-1))
        # Centres the logarithm near 0 and halves its spread, for gradients of the others' size.
        log_rates = log_rate + self.hold(log_rate / 2 + 2)
        per_day = torch.exp(log_rates.clamp(max=_LOG_MOST))
        return torch.cumsum(per_day * torch.tensor(self._stretches), dim=-1)


def chances(expected: Tensor) -> Tensor:
    """Probability of at least one visit of a Poisson with these expected visits; same shape."""
    return -torch.expm1(-expected)


def rate_losses(expected: Tensor, first: Tensor) -> Tensor:
    """Each customer's negative log-likelihood of the stretch with the first visit, by class.

    This is discrete-time survival analysis: the stretches before the first visit have none,
    with probability exp(-rate), and its own stretch has at least one.

    Args:
        expected: [B, P, C, H] of `RateHead`.
        first: [B, P, C] index of the first horizon that contains a visit with the class, H if
            none does, -1 without a target.

    Returns:
        [B], a sum over classes in units of `INTERESTS`, a mean over anchors.
    """
    horizons = expected.shape[-1]
    stretches = torch.diff(expected, dim=-1, prepend=torch.zeros_like(expected[..., :1]))
    quiet = torch.arange(horizons) < first.unsqueeze(-1)
    no_visit = (stretches * quiet).sum(-1)  # 0 without a target, as no index is below -1
    visited = (first >= 0) & (first < horizons)
    rate = stretches.gather(-1, first.clamp(0, horizons - 1).unsqueeze(-1)).squeeze(-1)
    # Clamped inside `where`: an infinite loss of the other branch would make its gradient NaN.
    visit = -torch.log(chances(rate.clamp(min=_LEAST)))
    losses = torch.where(visited, visit, torch.zeros_like(visit)) + no_visit
    return losses.sum((1, 2)) / (INTERESTS * first.shape[1])
