"""How often a customer will buy of each class in the days ahead, and whether at all.

One expected rate per customer and class, from their own decayed visits with it; over a
horizon it adds up to the visits to expect, and the chance to buy at all is that of a Poisson
not to be zero. What is learned is few numbers: what recency, other decays and the customer's
pace do to the rate, and how long a rate holds. They start at no change.

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

_LEAST = 1e-6
_LOG_MOST = 7.0
"""Nobody visits a shop a thousand times a day, whatever the weights say."""


class RateHead(nn.Module):
    """Visits to expect with every class within each horizon.

    The horizons cut the days ahead into stretches, 0-7, 7-14 and 14-28. Each has its own rate,
    positive, so that a longer horizon never expects less.
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
        """Set the weights so that the head is the Poisson forecast at the own rate."""
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def needs_features(self) -> bool:
        """Whether `interest_features` matter."""
        return not is_silent(self.rate)

    def forward(self, past: Interests, popularity: Tensor, features: Tensor | None) -> Tensor:
        """Expect visits.

        Args:
            past: Counts.
            popularity: [B, C] logarithm of each class's popularity: every customer is credited
                with a little of every class, as `BasketHead` does.
            features: [B, P, C, F] of `interest_features`; None if they do not matter.

        Returns:
            [B, P, C, horizons] expected visits from the anchor to the end of each horizon.
        """
        credit = FLOOR * torch.exp(popularity)[:, None, :, None]
        half_lives = torch.tensor(self._half_lives)
        observed = past.observed.unsqueeze(-1)
        seen_days = half_lives / math.log(2) * (1 - torch.exp2(-observed / half_lives))  # [B, P, H]
        logs = torch.log((past.decayed + credit) / seen_days.unsqueeze(2))  # [B, P, C, H]
        log_rate = logs[..., self._start : self._start + 1]
        if features is not None:
            others = [h for h in range(len(self._half_lives)) if h != self._start]
            contrasts = logs[..., others] - log_rate
            log_rate = log_rate + self.rate(torch.cat([contrasts, features], dim=-1))
        log_rates = log_rate + self.hold(log_rate / 2 + 2)
        per_day = torch.exp(log_rates.clamp(max=_LOG_MOST))
        return torch.cumsum(per_day * torch.tensor(self._stretches), dim=-1)


def chances(expected: Tensor) -> Tensor:
    """Chance of at least one visit where some are expected, if they come as a Poisson."""
    return -torch.expm1(-expected)


def rate_losses(expected: Tensor, first: Tensor) -> Tensor:
    """Each customer's multi-label loss: was each class bought, stretch after stretch?

    In every stretch up to the first visit with a class, a yes or no is foretold with the
    chance that the stretch's rate gives it: the log-likelihood of when the first visit comes,
    of which the chance of each horizon follows.

    Args:
        expected: [B, P, C, H] of `RateHead`.
        first: [B, P, C] index of the first horizon that holds a visit with the class, H if
            none does, -1 where nothing is asked.

    Returns:
        [B], a sum over classes in units of `INTERESTS`, a mean over anchors.
    """
    horizons = expected.shape[-1]
    stretches = torch.diff(expected, dim=-1, prepend=torch.zeros_like(expected[..., :1]))
    quiet = torch.arange(horizons) < first.unsqueeze(-1)
    waited = (stretches * quiet).sum(-1)
    came = (first >= 0) & (first < horizons)
    held = stretches.gather(-1, first.clamp(0, horizons - 1).unsqueeze(-1)).squeeze(-1)
    hit = -torch.log(chances(held.clamp(min=_LEAST)))
    losses = torch.where(came, hit, torch.zeros_like(hit)) + waited
    return losses.sum((1, 2)) / (INTERESTS * first.shape[1])
