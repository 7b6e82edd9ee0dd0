"""Scores of classes for the next visit: own habits, and what similar customers buy.

    score = log-linear in the customer's own decayed visits with the class, with pseudo-counts

No weight is trained: three decays, recency and popularity say nearly all about classes that a
customer buys again, and their weights are the same at every shop. The pseudo-counts back the
score off to popularity: of a customer with many visits they decide among the classes never
bought, of one with few they decide nearly everything. Until pairs of classes are released,
popularity is the public one; then it is the released one, with the customer's affinities added
for classes never bought (`category_pairs.py`).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from hanse_client.model.config import InterestConfig
from hanse_client.tasks.interest.category_pairs import DecodedPairs
from hanse_client.tasks.interest.heads import FLOOR, FREQUENCY_HALF_LIFE, Interests

HABIT_WEIGHTS: Final = {30.0: 0.35, 60.0: -0.35, 180.0: 0.8}
"""Weights of the logarithms of decayed visits, by half-life in days: of the longest itself, and
of the others' contrasts with it. Fitted to made-up shoppers, rounded on validation weeks (whole
NDCG .3913 against .3886 for the decay of 180 days alone)."""
_RECENCY_WEIGHT = 0.06
"""Of the logarithm of days since the last visit with the class, fitted with the others."""
_POPULARITY_WEIGHT = 0.1
"""Of a class's released popularity where the customer has bought it before."""
_AFFINITY_SCALE = 0.3
"""Pseudo-count of visits for an affinity of 1: .3 to 1 rank the same."""
_POPULARITY_AFFINITY = 3.0
"""Affinity to a class per share of popularity. An affinity rests on the classes that a customer
has bought, and says little of one who bought two: on Complete Journey with a thirtieth of its
visits, popularity alone has a validation NDCG of .255, affinities alone .219, both .278; with all
visits the two are equal (docs/lab-notes.md). From 1 to 10 nothing changes."""
_LEAST_AFFINITY, _MOST_AFFINITY = 1e-4, 1.0
"""An affinity is about the chance of a purchase, at most 1 whatever a forged release says."""


class CategoryBasket(nn.Module):
    """Scores of all classes for the customer's next visit; softmax over classes.

    Args:
        config: Of the interest model.
    """

    READS: Final = ("counts", "decayed", "days_since")
    """Names of the fields of `Interests` that scores depend on."""
    affinity: Tensor
    """[C, C] of `DecodedPairs`; all zeros until pairs are released."""
    bought_popularity: Tensor
    """[C] of `DecodedPairs`; zeros until then."""

    def __init__(self, config: InterestConfig) -> None:
        super().__init__()
        classes = len(config.classes)
        self._half_lives = tuple(config.half_lives)
        self.register_buffer("affinity", torch.zeros(classes, classes))
        self.register_buffer("bought_popularity", torch.zeros(classes))

    def set_pairs(self, pairs: DecodedPairs | None) -> None:
        """Use what a release of pairs says; None for nothing."""
        for buffer, values in (
            (self.affinity, None if pairs is None else pairs.affinity),
            (self.bought_popularity, None if pairs is None else pairs.popularity),
        ):
            buffer.copy_(torch.from_numpy(np.zeros(buffer.shape) if values is None else values))

    def uses_state(self) -> bool:
        """Whether a transformer's state matters: never."""
        return False

    def forward(self, past: Interests, public: Tensor) -> Tensor:
        """Score classes.

        Args:
            past: The customers' counts.
            public: [B, C] centred logarithm of each class's public popularity.

        Returns:
            [B, P, C] unnormalised log-probabilities.
        """
        ever = past.counts[..., -1].clamp(max=1.0)
        credit = FLOOR * torch.exp(public)[:, None, :]
        if bool(self.bought_popularity.any()):
            share = torch.softmax(self.bought_popularity, dim=-1)  # [C]
            affinity = (ever @ self.affinity).clamp(min=0.0) + _POPULARITY_AFFINITY * share
            affinity = affinity.clamp(_LEAST_AFFINITY, _MOST_AFFINITY)
            of_average = FLOOR * len(share) * share
            credit = torch.where(ever > 0, of_average, _AFFINITY_SCALE * affinity)
        logs = torch.log(past.decayed + credit.unsqueeze(-1))  # [B, P, C, H]
        longest = logs[..., self._half_lives.index(FREQUENCY_HALF_LIFE)]
        scores = HABIT_WEIGHTS[FREQUENCY_HALF_LIFE] * longest
        for index, half_life in enumerate(self._half_lives):
            if half_life != FREQUENCY_HALF_LIFE:
                contrast = logs[..., index] - longest
                scores = scores + HABIT_WEIGHTS.get(half_life, 0.0) * contrast
        since = torch.minimum(past.days_since, past.observed.unsqueeze(-1))
        scores = scores + _RECENCY_WEIGHT * (torch.log1p(since) - 2.5)
        return scores + _POPULARITY_WEIGHT * ever * self.bought_popularity
