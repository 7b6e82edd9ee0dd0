"""What is predicted from a customer's state, each head starting from a strong simple rule.

- `BasketHead` ranks classes for the next visit. It starts as the customer's own purchase
  frequency, decayed over half a year, which is very hard to beat on groceries, and learns
  what to add: other decays, popularity, what the transformer has seen.
- `OutlookHead` says whether an interest will fall, stay or rise over the next weeks. It
  starts from a Poisson forecast at the customer's own decayed rate.

An untrained model is therefore already a sensible one, and training can only be asked to
improve on it. All weights sit in modules whose inputs lead with the customer's dimension,
which is what per-customer clipping needs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hanse_common.model.config import InterestConfig

FLOOR = 0.05
"""Added to decayed counts before the logarithm: what a class never bought starts with."""

FREQUENCY_HALF_LIFE = 180.0
FORECAST_HALF_LIFE = 60.0
VISIT_WINDOWS = (7.0, 28.0, 84.0, 3650.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Interests:
    """A customer's own past with every class, seen from each anchor (a point in time).

    B customers, P anchors, C classes, W windows, H half-lives.
    """

    counts: Tensor
    """[B, P, C, W] visits with the class in the last `windows` days."""
    decayed: Tensor
    """[B, P, C, H] visits with the class, each halved per half-life of age."""
    days_since: Tensor
    """[B, P, C] days since the last visit with the class; 3650 if there was none."""
    visits: Tensor
    """[B, P, 4] visits of any kind in the last `VISIT_WINDOWS` days."""
    gap: Tensor
    """[B, P] days since the last visit."""
    observed: Tensor
    """[B, P] days for which the customer has been observed, at least 1."""


def interest_features(past: Interests) -> Tensor:
    """Describe a customer's past with every class by roughly centred logarithms.

    Returns:
        [B, P, C, W + H + 6].
    """
    customer = torch.cat([past.visits, past.gap.unsqueeze(-1)], dim=-1)  # [B, P, 5]
    classes = past.counts.shape[2]
    raw = torch.cat(
        [
            past.counts,
            past.decayed,
            past.days_since.unsqueeze(-1),
            customer.unsqueeze(2).expand(-1, -1, classes, -1),
        ],
        dim=-1,
    )
    return (torch.log1p(raw) - 1.0) / 1.5


def feature_count(config: InterestConfig) -> int:
    """Width of `interest_features`."""
    return len(config.windows) + len(config.half_lives) + 2 + len(VISIT_WINDOWS)


class ClassBias(nn.Module):
    """A learned popularity of each class."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, scores: Tensor) -> Tensor:
        """Add it to scores of shape [B, P, C]."""
        return scores + self.bias


class _Mixer(nn.Module):
    """One hidden layer over own past, customer state and class, added up class by class."""

    def __init__(self, config: InterestConfig, features: int, outputs: int) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.past = nn.Linear(features, hidden)
        self.state = nn.Linear(config.n_embd, hidden, bias=False)
        self.item = nn.Linear(config.class_vector_size, hidden, bias=False)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, features: Tensor, state: Tensor, classes: Tensor) -> Tensor:
        """Mix [B, P, C, F], [B, P, D] and [B, C, K] into [B, P, C, outputs]."""
        hidden = self.past(features)
        hidden = hidden + self.state(state).unsqueeze(2) + self.item(classes).unsqueeze(1)
        mixed: Tensor = self.out(nn.functional.gelu(hidden))
        return mixed


class BasketHead(nn.Module):
    """Scores of all classes for the customer's next visit; softmax over classes."""

    def __init__(self, config: InterestConfig) -> None:
        super().__init__()
        self.repeat = nn.Linear(len(config.half_lives), 1, bias=False)
        self.mixer = _Mixer(config, feature_count(config), outputs=1)
        self.match = nn.Linear(config.n_embd, config.class_vector_size)
        self.popularity = ClassBias(len(config.classes))
        self._start = config.half_lives.index(FREQUENCY_HALF_LIFE)

    def start_from_own_frequency(self) -> None:
        """Set the weights so that the head ranks by the customer's decayed frequency."""
        for layer in (self.repeat, self.mixer.out, self.match):
            nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.popularity.bias)
        with torch.no_grad():
            self.repeat.weight[0, self._start] = 1.0

    def forward(self, past: Interests, features: Tensor, state: Tensor, classes: Tensor) -> Tensor:
        """Score classes.

        Returns:
            [B, P, C], unnormalised logarithms of probability.
        """
        own: Tensor = self.repeat(torch.log(FLOOR + past.decayed)).squeeze(-1)
        seen = torch.einsum("bpk,bck->bpc", self.match(state), classes) / math.sqrt(
            classes.shape[-1]
        )
        mixed = self.mixer(features, state, classes).squeeze(-1)
        scores: Tensor = self.popularity(own + seen + mixed)
        return scores


class OutlookHead(nn.Module):
    """Logits of fall, stay and rise for every class in which a customer has an interest.

    A customer's own rate over the reference days expects mu visits with the class during the
    horizon; an interest rises if the count exceeds mu + sqrt(mu + 1), falls if it stays
    below mu - sqrt(mu + 1). Whether that is likely depends above all on mu, and a Poisson
    forecast at the customer's own decayed rate says how: the head starts there.
    """

    def __init__(self, config: InterestConfig) -> None:
        super().__init__()
        self._config_days = (config.reference_days, config.horizon_days)
        self._reference = config.reference_window
        self._min_visits = config.min_visits
        self._half_lives = tuple(config.half_lives)
        self._forecast = config.half_lives.index(FORECAST_HALF_LIFE)
        tails = 2 * len(config.half_lives)
        self.tails = nn.Linear(tails, 3)
        self.mixer = _Mixer(config, feature_count(config) + tails, outputs=3)
        self.item = nn.Linear(config.class_vector_size, 3, bias=False)

    def start_from_own_rate(self) -> None:
        """Set the weights so that the head is the Poisson forecast at the own rate."""
        for layer in (self.tails, self.mixer.out, self.item):
            nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, past: Interests, features: Tensor, state: Tensor, classes: Tensor) -> Tensor:
        """Score the three outcomes.

        Returns:
            [B, P, C, 3] unnormalised logarithms; without meaning where the customer has no
            interest in the class (`has_interest`).
        """
        tails = self._log_tails(past)  # [B, P, C, 2H]
        fall, rise = (tails[..., 2 * self._forecast + side] for side in (0, 1))
        stay = torch.log((1 - fall.exp() - rise.exp()).clamp(min=1e-3))
        forecast = torch.stack([fall, stay, rise], dim=-1)
        scaled = tails / 2 + 1
        mixed = self.mixer(torch.cat([features, scaled], dim=-1), state, classes)
        logits: Tensor = forecast + self.tails(scaled) + mixed + self.item(classes).unsqueeze(1)
        return logits

    def _log_tails(self, past: Interests) -> Tensor:
        """Log-probability of a fall and of a rise under Poisson, at each decayed rate.

        P(N <= k; m) is the regularised upper incomplete gamma function Q(k + 1, m)
        (Abramowitz and Stegun 26.4.21).
        """
        reference, horizon = self._config_days
        active = has_interest(past.counts[..., self._reference], self._min_visits)
        expected = past.counts[..., self._reference][active] * (horizon / reference)
        most, least = outlook_bounds(expected)
        observed = past.observed.unsqueeze(2).expand(active.shape)[active]
        columns = []
        for index, half_life in enumerate(self._half_lives):
            seen_days = half_life / math.log(2) * (1 - torch.exp2(-observed / half_life))
            rate = past.decayed[..., index][active] / seen_days * horizon + 0.03
            rise = torch.special.gammainc(torch.floor(most) + 1, rate)
            below = torch.ceil(least) - 1
            fall = torch.special.gammaincc((below + 1).clamp(min=1), rate)
            fall = torch.where(below >= 0, fall, torch.zeros_like(fall))
            columns += [torch.log(fall + 1e-3), torch.log(rise + 1e-3)]
        tails = past.counts.new_zeros((*active.shape, len(columns)))
        tails[active] = torch.stack(columns, dim=-1)
        return tails


def has_interest(reference_count: Tensor, min_visits: int) -> Tensor:
    """Whether a customer has an interest in a class, from visits in the reference days."""
    return reference_count >= min_visits


def outlook_bounds(expected: Tensor) -> tuple[Tensor, Tensor]:
    """(most, least) visits that still count as staying, one standard score either side."""
    spread = torch.sqrt(expected + 1)
    return expected + spread, expected - spread
