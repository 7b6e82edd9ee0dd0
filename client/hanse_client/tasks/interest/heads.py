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
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from hanse_client.model.config import InterestConfig

FLOOR = 0.05
"""Visits with a class that a customer is credited with at the start, on average."""

POPULARITY_SCALE = 8.0
"""How far a step on a class's popularity moves it, beside other parameters."""

FREQUENCY_HALF_LIFE = 180.0
FORECAST_HALF_LIFE = 60.0
VISIT_WINDOWS = (7.0, 28.0, 84.0, 3650.0)
_REFERENCE_VISITS = 2

INTERESTS = 8.0
"""About how many interests a customer has at a time: a public constant."""


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

    def pick(self, index: Tensor) -> Interests:
        """The same past with K of the classes only, by their indices [B, P, K]."""
        wide = index.unsqueeze(-1)
        return replace(
            self,
            counts=self.counts.gather(2, wide.expand(-1, -1, -1, self.counts.shape[-1])),
            decayed=self.decayed.gather(2, wide.expand(-1, -1, -1, self.decayed.shape[-1])),
            days_since=self.days_since.gather(2, index),
        )


def interest_features(past: Interests, config: InterestConfig) -> Tensor:
    """Describe a customer's past with every class by centred logarithms of about unit spread.

    One level, then contrasts: each rate against that of the reference days. Counts of
    nested windows rise and fall together, and features that do would slow training and
    waste what per-customer clipping leaves of a gradient.

    Returns:
        [B, P, C, `feature_count`].
    """
    reference = config.reference_window
    observed = past.observed.unsqueeze(-1)  # [B, P, 1]
    rates = _log_rates(past.counts, config.windows, observed.unsqueeze(-1))  # [B, P, C, W]
    visits = _log_rates(past.visits, VISIT_WINDOWS, observed)  # [B, P, V]
    usual, usually = rates[..., reference], visits[..., _REFERENCE_VISITS]
    since = torch.minimum(past.days_since, observed)
    of_class = [
        torch.log1p(past.counts[..., reference]) - 2.0,
        usual - usually.unsqueeze(-1) + 1.0,
        torch.log1p(since) - 2.5,
        *(rates[..., w] - usual for w in range(len(config.windows)) if w != reference),
    ]
    of_customer = torch.stack(
        [
            usually + 1.5,
            torch.log1p(past.gap) - 1.0,
            *(
                visits[..., v] - usually
                for v in range(len(VISIT_WINDOWS))
                if v != _REFERENCE_VISITS
            ),
        ],
        dim=-1,
    )
    wide = of_customer.unsqueeze(2).expand(-1, -1, past.counts.shape[2], -1)
    return torch.cat([torch.stack(of_class, dim=-1), wide], dim=-1)


def feature_count(config: InterestConfig) -> int:
    """Width of `interest_features`."""
    return len(config.windows) + 2 + len(VISIT_WINDOWS) + 1


def _log_rates(counts: Tensor, windows: Sequence[float], observed: Tensor) -> Tensor:
    """Logarithms of visits a day in each window, or in the days observed if these are fewer."""
    days = torch.minimum(torch.tensor(list(windows)), observed)
    return torch.log((counts + 0.3) / days)


class Popularity(nn.Module):
    """What is learned of each class's popularity, added to what is public about it."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(classes))

    def forward(self, public: Tensor) -> Tensor:
        """Shift public logarithms of popularity, [B, C]."""
        return public + POPULARITY_SCALE * self.shift

    def settled(self, public: Tensor) -> Tensor:
        """The same for a head that uses popularity and does not train it."""
        return public + POPULARITY_SCALE * self.shift.detach()


def is_silent(layer: nn.Linear) -> bool:
    """Whether a layer's answer is exactly zero and nobody asks for its gradient."""
    parameters = list(layer.parameters())
    if not parameters:  # packed by quantisation: it has a say, and shows no weights
        return False
    trained = torch.is_grad_enabled() and any(p.requires_grad for p in parameters)
    return not trained and not any(bool(p.any()) for p in parameters)


class _Mixer(nn.Module):
    """One hidden layer over own past, customer state and class, added up class by class."""

    def __init__(self, config: InterestConfig, features: int, outputs: int) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.past = nn.Linear(features, hidden)
        self.state = nn.Linear(config.n_embd, hidden, bias=False)
        self.item = nn.Linear(config.class_vector_size, hidden, bias=False)
        self.out = nn.Linear(hidden, outputs)

    def start_from_nothing(self) -> None:
        """Answer zero until trained; the transformer is heard last."""
        for layer in (self.out, self.state):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.out.bias)

    def uses_state(self) -> bool:
        """Whether the transformer's state matters."""
        return not is_silent(self.out) and not is_silent(self.state)

    def forward(self, features: Tensor, state: Tensor | None, classes: Tensor) -> Tensor:
        """Mix [B, P, C, F], [B, P, D] and [B, P or 1, C, K] into [B, P, C, outputs]."""
        hidden = self.past(features)
        if state is not None and not is_silent(self.state):
            hidden = hidden + self.state(state).unsqueeze(2)
        hidden = hidden + self.item(classes)
        mixed: Tensor = self.out(nn.functional.gelu(hidden))
        return mixed


class BasketHead(nn.Module):
    """Scores of all classes for the customer's next visit; softmax over classes."""

    def __init__(self, config: InterestConfig) -> None:
        super().__init__()
        self._config = config
        self.repeat = nn.Linear(len(config.half_lives), 1, bias=False)
        self.habit = nn.Linear(feature_count(config), 1, bias=False)
        self.taste = nn.Linear(config.class_vector_size, config.class_vector_size, bias=False)
        self.mixer = _Mixer(config, feature_count(config), outputs=1)
        self.match = nn.Linear(config.n_embd, config.class_vector_size)
        self.popularity = Popularity(len(config.classes))
        self._start = config.half_lives.index(FREQUENCY_HALF_LIFE)

    def start_from_own_frequency(self) -> None:
        """Set the weights so that the head ranks by the customer's decayed frequency."""
        for layer in (self.repeat, self.habit, self.taste, self.match):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.match.bias)
        self.mixer.start_from_nothing()
        nn.init.zeros_(self.popularity.shift)
        with torch.no_grad():
            self.repeat.weight[0, 0] = 1.0

    def uses_state(self) -> bool:
        """Whether the transformer's state matters."""
        return self.mixer.uses_state() or not is_silent(self.match)

    def needs_features(self) -> bool:
        """Whether `interest_features` matter."""
        return not (is_silent(self.habit) and is_silent(self.mixer.out))

    def forward(
        self,
        past: Interests,
        state: Tensor | None,
        classes: Tensor,
        public: Tensor,
        features: Tensor | None,
    ) -> Tensor:
        """Score classes.

        Popularity enters as visits that every customer is credited with (the pseudo-counts
        of a Dirichlet prior): it decides among classes that a customer never bought and
        hardly touches those that they often do.

        Args:
            past: Counts.
            state: [B, P, D] of the transformer.
            classes: [B, C, K] class vectors.
            public: [B, C] logarithm of each class's public popularity, around 0.
            features: [B, P, C, F] of `interest_features`; None if they do not matter.

        Returns:
            [B, P, C], unnormalised logarithms of probability.
        """
        credit = FLOOR * torch.exp(self.popularity(public))[:, None, :, None]
        logs = torch.log(past.decayed + credit)  # [B, P, C, H]
        usual = logs[..., self._start].unsqueeze(-1)
        others = [h for h in range(logs.shape[-1]) if h != self._start]
        own: Tensor = self.repeat(torch.cat([usual, logs[..., others] - usual], dim=-1)).squeeze(-1)
        scores = own
        if features is not None:
            scores = scores + self.habit(features).squeeze(-1)
            if not is_silent(self.mixer.out):
                mixed = self.mixer(features, state, classes.unsqueeze(1))
                scores = scores + mixed.squeeze(-1)
        if not is_silent(self.taste):
            share = past.decayed[..., self._start]
            share = share / share.sum(-1, keepdim=True).clamp(min=1.0)
            profile = torch.einsum("bpc,bck->bpk", share, classes)
            scores = scores + torch.einsum("bpk,bck->bpc", self.taste(profile), classes)
        if state is not None and not is_silent(self.match):
            seen = torch.einsum("bpk,bck->bpc", self.match(state), classes)
            scores = scores + seen / math.sqrt(classes.shape[-1])
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
        self._config = config
        inputs = feature_count(config) + 2 * len(config.half_lives)
        self.rule = nn.Linear(inputs + config.class_vector_size, 3)
        self.mixer = _Mixer(config, inputs, outputs=3)

    def start_from_own_rate(self) -> None:
        """Set the weights so that the head is the Poisson forecast at the own rate."""
        nn.init.zeros_(self.rule.weight)
        nn.init.zeros_(self.rule.bias)
        self.mixer.start_from_nothing()

    def uses_state(self) -> bool:
        """Whether the transformer's state matters."""
        return self.mixer.uses_state()

    def forward(self, past: Interests, state: Tensor | None, classes: Tensor) -> Tensor:
        """Score the three outcomes.

        Returns:
            [B, P, C, 3] unnormalised logarithms; without meaning where the customer has no
            interest in the class (`has_interest`).
        """
        counts = past.counts[..., self._reference]
        active = has_interest(counts, self._min_visits)  # [B, P, C]
        # Few of the classes: the K most that any customer here has an interest in.
        most = max(int(active.sum(-1).max()), 1) if active.numel() else 1
        index = torch.argsort(active.to(torch.int8), dim=-1, descending=True, stable=True)
        index = index[..., :most]  # [B, P, K]
        chosen = past.pick(index)
        tails = self._log_tails(chosen)
        fall, rise = (tails[..., 2 * self._forecast + side] for side in (0, 1))
        stay = torch.log((1 - fall.exp() - rise.exp()).clamp(min=1e-3))
        kinds = classes.unsqueeze(1).expand(-1, index.shape[1], -1, -1)
        kinds = kinds.gather(2, index.unsqueeze(-1).expand(-1, -1, -1, kinds.shape[-1]))
        pairs = tails.unflatten(-1, (-1, 2))  # [B, P, K, H, 2]
        forecast = pairs[..., self._forecast, :]
        others = [h for h in range(len(self._half_lives)) if h != self._forecast]
        contrasts = (pairs[..., others, :] - forecast.unsqueeze(-2)).flatten(-2)
        features = interest_features(chosen, self._config)
        inputs = torch.cat([forecast / 2 + 1, contrasts, features], dim=-1)
        answer = torch.stack([fall, stay, rise], dim=-1)
        answer = answer + self.rule(torch.cat([inputs, kinds / 2], dim=-1))
        if not is_silent(self.mixer.out):
            answer = answer + self.mixer(inputs, state, kinds)
        nothing = answer.new_zeros((*active.shape, 3))
        logits: Tensor = nothing.scatter(2, index.unsqueeze(-1).expand(-1, -1, -1, 3), answer)
        return logits

    def _log_tails(self, past: Interests) -> Tensor:
        """Log-probability of a fall and of a rise under Poisson, at each decayed rate.

        P(N <= k; m) is the regularised upper incomplete gamma function Q(k + 1, m)
        (Abramowitz and Stegun 26.4.21).

        Returns:
            [B, P, K, 2H] for a past of K classes.
        """
        reference, horizon = self._config_days
        most, least = outlook_bounds(past.counts[..., self._reference] * (horizon / reference))
        below = torch.ceil(least) - 1
        columns = []
        for index, half_life in enumerate(self._half_lives):
            seen_days = half_life / math.log(2) * (1 - torch.exp2(-past.observed / half_life))
            rate = past.decayed[..., index] / seen_days.unsqueeze(-1) * horizon + 0.03
            rise = torch.special.gammainc(torch.floor(most) + 1, rate)
            fall = torch.special.gammaincc((below + 1).clamp(min=1), rate)
            fall = torch.where(below >= 0, fall, torch.zeros_like(fall))
            columns += [torch.log(fall + 1e-3), torch.log(rise + 1e-3)]
        return torch.stack(columns, dim=-1)


def has_interest(reference_count: Tensor, min_visits: int) -> Tensor:
    """Whether a customer has an interest in a class, from visits in the reference days."""
    return reference_count >= min_visits


def outlook_bounds(expected: Tensor) -> tuple[Tensor, Tensor]:
    """(most, least) visits that still count as staying, one standard score either side."""
    spread = torch.sqrt(expected + 1)
    return expected + spread, expected - spread
