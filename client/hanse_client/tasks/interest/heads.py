"""The heads for next basket and outlook, each initialised to a strong simple forecast.

- `BasketHead` ranks classes for the next visit. It starts as the customer's own purchase
  frequency, decayed with a half-life of 180 days, which is hard to beat on groceries, and
  learns corrections from other decays, popularity and the transformer's state.
- `OutlookHead` predicts whether an interest falls, stays or rises over the next weeks. It
  starts from a Poisson forecast at the customer's own decayed rate.

An untrained model is therefore a usable baseline that training improves on (docs/lab-notes.md
has the alternatives). All weights are in modules whose inputs have the customer as the first
dimension, as per-customer clipping needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor, nn

from hanse_client.model.config import InterestConfig

FLOOR = 0.05
"""Pseudo-count of visits with a class of average popularity."""

_POPULARITY_SCALE = 8.0
"""Factor on the popularity parameter, which a step so moves further; chosen in docs/lab-notes.md
under one learning rate for all parameters (20 and 30 were worse or diverged)."""

FREQUENCY_HALF_LIFE = 180.0
_FORECAST_HALF_LIFE = 60.0  # the best of the rates tried for the outlook (docs/lab-notes.md)
VISIT_WINDOWS = (7.0, 28.0, 84.0, 3650.0)
_REFERENCE_VISITS = 2

INTERESTS = 8.0
"""Typical number of interests of a customer; a public constant, independent of the data."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interests:
    """Customers' own past with every class at each anchor (a moment in time).

    B customers, P anchors, C classes, W windows, H half-lives.
    """

    counts: Tensor
    """[B, P, C, W] visits with the class in the last `windows` days."""
    decayed: Tensor
    """[B, P, C, H] visits with the class, each with weight 2^(-age / half-life)."""
    days_since: Tensor
    """[B, P, C] days since the last visit with the class; 3650 if there was none."""
    visits: Tensor
    """[B, P, 4] visits of any kind in the last `VISIT_WINDOWS` days."""
    gap: Tensor
    """[B, P] days since the last visit."""
    observed: Tensor
    """[B, P] days since the store's records began, at least 1."""

    def pick(self, index: Tensor) -> Interests:
        """The same past of only K classes, by their indices [B, P, K]."""
        wide = index.unsqueeze(-1)
        return replace(
            self,
            counts=self.counts.gather(2, wide.expand(-1, -1, -1, self.counts.shape[-1])),
            decayed=self.decayed.gather(2, wide.expand(-1, -1, -1, self.decayed.shape[-1])),
            days_since=self.days_since.gather(2, index),
        )


def interest_features(past: Interests, config: InterestConfig) -> Tensor:
    """Features of a customer's past with every class: centred logarithms of about unit spread.

    They are one level, and contrasts of each rate with that of the reference days. Raw counts
    of nested windows are highly correlated, which slows training and spends the norm that
    clipping leaves of a gradient on one direction (docs/lab-notes.md: rise AUC .713 against
    .707).

    Returns:
        [B, P, C, `feature_count`].
    """
    reference = config.reference_window
    observed = past.observed.unsqueeze(-1)  # [B, P, 1]
    rates = _log_rates(past.counts, config.windows, observed.unsqueeze(-1))  # [B, P, C, W]
    visits = _log_rates(past.visits, VISIT_WINDOWS, observed)  # [B, P, V]
    class_rate, visit_rate = rates[..., reference], visits[..., _REFERENCE_VISITS]
    since = torch.minimum(past.days_since, observed)
    # The constants that centre features are part of the code: means of the data would not be
    # public.
    of_class = [
        torch.log1p(past.counts[..., reference]) - 2.0,
        class_rate - visit_rate.unsqueeze(-1) + 1.0,
        torch.log1p(since) - 2.5,
        *(rates[..., w] - class_rate for w in range(len(config.windows)) if w != reference),
    ]
    of_customer = torch.stack(
        [
            visit_rate + 1.5,
            torch.log1p(past.gap) - 1.0,
            *(
                visits[..., v] - visit_rate
                for v in range(len(VISIT_WINDOWS))
                if v != _REFERENCE_VISITS
            ),
        ],
        dim=-1,
    )
    wide = of_customer.unsqueeze(2).expand(-1, -1, past.counts.shape[2], -1)
    return torch.cat([torch.stack(of_class, dim=-1), wide], dim=-1)


def feature_count(config: InterestConfig) -> int:
    """Number of features F of `interest_features`."""
    return len(config.windows) + 2 + len(VISIT_WINDOWS) + 1


def _log_rates(counts: Tensor, windows: Sequence[float], observed: Tensor) -> Tensor:
    """Logarithms of visits a day in each window, or in the days observed if they are fewer."""
    days = torch.minimum(torch.tensor(list(windows)), observed)
    return torch.log((counts + 0.3) / days)


class Popularity(nn.Module):
    """The popularity of classes: a trained shift of its public logarithm."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(classes))

    def forward(self, public: Tensor) -> Tensor:
        """Logarithms of popularity [B, C] from the public ones [B, C]."""
        return public + _POPULARITY_SCALE * self.shift

    def settled(self, public: Tensor) -> Tensor:
        """The same without a gradient, for a head that uses popularity and does not train it."""
        return public + _POPULARITY_SCALE * self.shift.detach()


def is_silent(layer: nn.Linear) -> bool:
    """Whether a layer's output is exactly zero and no gradient of it is needed."""
    parameters = list(layer.parameters())
    if not parameters:  # quantised layers pack their weights, which are therefore not parameters
        return False
    trained = torch.is_grad_enabled() and any(p.requires_grad for p in parameters)
    return not trained and not any(bool(p.any()) for p in parameters)


class _Mixer(nn.Module):
    """An MLP with one hidden layer over features, transformer state and class vector."""

    def __init__(self, config: InterestConfig, features: int, outputs: int) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.past = nn.Linear(features, hidden)
        self.state = nn.Linear(config.n_embd, hidden, bias=False)
        self.item = nn.Linear(config.class_vector_size, hidden, bias=False)
        self.out = nn.Linear(hidden, outputs)

    def start_from_nothing(self) -> None:
        """Set the output to zero. The state's layer is zero too, so it is learned last."""
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
        # Sums of three layers: a concatenation would copy the state for each of C classes.
        hidden = hidden + self.item(classes)
        mixed: Tensor = self.out(nn.functional.gelu(hidden))
        return mixed


class BasketHead(nn.Module):
    """Scores of all classes for the customer's next visit; softmax over classes."""

    READS: Final = ("counts", "decayed", "days_since", "visits", "gap")
    """Names of the fields of `Interests` that scores depend on."""

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
        """Set the weights so that the head ranks by the customer's own decayed frequency."""
        for layer in (self.repeat, self.habit, self.taste, self.match):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.match.bias)
        self.mixer.start_from_nothing()
        nn.init.zeros_(self.popularity.shift)
        with torch.no_grad():
            self.repeat.weight[0, 0] = 1.0  # of the frequency; the others are contrasts with it

    def uses_state(self) -> bool:
        """Whether the transformer's state matters."""
        return self.mixer.uses_state() or not is_silent(self.match)

    def needs_features(self) -> bool:
        """Whether the output or a gradient depends on `interest_features`."""
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

        Popularity enters as pseudo-counts of a Dirichlet prior: it ranks classes that a customer
        never bought, and hardly changes the scores of those that they buy often.

        Args:
            past: The customers' counts.
            state: [B, P, D] of the transformer; None if `uses_state` is false.
            classes: [B, C, K] class vectors.
            public: [B, C] centred logarithm of each class's public popularity.
            features: [B, P, C, F] of `interest_features`; None if `needs_features` is false.

        Returns:
            [B, P, C] unnormalised log-probabilities.
        """
        credit = FLOOR * torch.exp(self.popularity(public))[:, None, :, None]
        logs = torch.log(past.decayed + credit)  # [B, P, C, H]
        frequency = logs[..., self._start].unsqueeze(-1)
        others = [h for h in range(logs.shape[-1]) if h != self._start]
        contrasts = logs[..., others] - frequency
        own: Tensor = self.repeat(torch.cat([frequency, contrasts], dim=-1)).squeeze(-1)
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
            match = torch.einsum("bpk,bck->bpc", self.match(state), classes)
            scores = scores + match / math.sqrt(classes.shape[-1])
        return scores


class OutlookHead(nn.Module):
    """Logits of fall, stay and rise for every class in which a customer has an interest.

    Let mu be the visits with the class that the customer's rate over the reference days gives
    for the horizon. An interest rises if the count exceeds mu + sqrt(mu + 1), and falls if it
    is below mu - sqrt(mu + 1). The probabilities depend mostly on mu, as a Poisson forecast
    at the customer's own decayed rate does, from which the head starts.
    """

    def __init__(self, config: InterestConfig) -> None:
        super().__init__()
        self._config_days = (config.reference_days, config.horizon_days)
        self._reference = config.reference_window
        self._min_visits = config.min_visits
        self._half_lives = tuple(config.half_lives)
        self._forecast = config.half_lives.index(_FORECAST_HALF_LIFE)
        self._config = config
        inputs = feature_count(config) + 2 * len(config.half_lives)
        self.rule = nn.Linear(inputs + config.class_vector_size, 3)
        self.mixer = _Mixer(config, inputs, outputs=3)

    def start_from_own_rate(self) -> None:
        """Set the weights so that the head forecasts by the customer's own decayed rate."""
        nn.init.zeros_(self.rule.weight)
        nn.init.zeros_(self.rule.bias)
        self.mixer.start_from_nothing()

    def uses_state(self) -> bool:
        """Whether the transformer's state matters."""
        return self.mixer.uses_state()

    def forward(self, past: Interests, state: Tensor | None, classes: Tensor) -> Tensor:
        """Score the three outcomes.

        Returns:
            [B, P, C, 3] unnormalised log-probabilities of fall, stay and rise; 0 or arbitrary
            where the customer has no interest in the class (`has_interest`).
        """
        counts = past.counts[..., self._reference]
        active = has_interest(counts, self._min_visits)  # [B, P, C]
        # Computed for K classes only, the most in which any row of the batch has an interest;
        # the logits of an interest do not depend on K.
        most = max(int(active.sum(-1).max()), 1) if active.numel() else 1
        index = torch.argsort(active.to(torch.int8), dim=-1, descending=True, stable=True)
        index = index[..., :most]  # [B, P, K]
        chosen = past.pick(index)
        tails = self._log_tails(chosen)
        fall, rise = (tails[..., 2 * self._forecast + side] for side in (0, 1))
        # The tails have 1e-3 added, so that their sum can exceed 1 by a little.
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
        """Log-probabilities of a fall and of a rise for a Poisson at each decayed rate.

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
            fall = torch.where(below >= 0, fall, torch.zeros_like(fall))  # no count is below 0
            columns += [torch.log(fall + 1e-3), torch.log(rise + 1e-3)]
        return torch.stack(columns, dim=-1)


def has_interest(reference_count: Tensor, min_visits: int) -> Tensor:
    """Whether a customer has an interest in a class, by its visits in the reference days."""
    return reference_count >= min_visits


def outlook_bounds(expected: Tensor) -> tuple[Tensor, Tensor]:
    """(most, least) visits that still count as staying: one standard deviation either side."""
    spread = torch.sqrt(expected + 1)
    return expected + spread, expected - spread
