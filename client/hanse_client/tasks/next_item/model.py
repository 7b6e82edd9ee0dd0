"""The sequence model: next item from item ids, for data sets that papers publish figures on.

- one item table, read at the input and at the output
- a popularity term per item, so that a model that learnt nothing else ranks by popularity
- the transformer of the interest model (`backbone.py`)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hanse_client.model.backbone import gpt2_blocks, read_causal
from hanse_client.model.config import SequenceConfig

NOTHING = -1
"""A target that is not asked for."""
_SPREAD = 0.02


class SequenceModel(PreTrainedModel):
    """Scores every item as the next one after each item of a history.

    Example:
        >>> model = SequenceModel.fresh(SequenceConfig(items=9, n_embd=4, max_steps=5), seed=1)
        >>> model.states(torch.tensor([[3, 1, 4]])).shape
        torch.Size([1, 3, 4])
    """

    config: SequenceConfig
    config_class = SequenceConfig
    base_model_prefix = "hanse"

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__(config)
        self.items = nn.Embedding(config.items, config.n_embd)
        self.popularity = nn.Embedding(config.items, 1)
        self.blocks = gpt2_blocks(config)
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: `fresh` does, and what is read from a file stays as it is."""

    @classmethod
    def fresh(cls, config: SequenceConfig, *, seed: int) -> SequenceModel:
        """An untrained model; nothing of it depends on any data.

        Args:
            config: Its shape.
            seed: Of its random weights.
        """
        state = torch.get_rng_state()
        torch.manual_seed(seed)
        model = cls(config)
        with torch.no_grad():
            nn.init.normal_(model.items.weight, std=_SPREAD)
            nn.init.zeros_(model.popularity.weight)
        torch.set_rng_state(state)
        return model

    def states(self, inputs: Tensor, *, noise: torch.Generator | None = None) -> Tensor:
        """Read histories.

        Args:
            inputs: [B, T] item ids in order, padded on the right with any id.
            noise: Of dropout; none if left out.

        Returns:
            [B, T, n_embd], each having seen its own item and those before it.
        """
        tokens = self._dropped(self.items(inputs), noise)
        return self._dropped(read_causal(self.blocks, tokens), noise)

    def scores(self, states: Tensor) -> Tensor:
        """Score all items, [..., items], from states [..., n_embd]."""
        return states @ self.items.weight.T + self.popularity.weight.squeeze(-1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Score all items after each item of some histories: [B, T, items] from [B, T]."""
        return self.scores(self.states(inputs))

    def sampled_losses(
        self,
        inputs: Tensor,
        targets: Tensor,
        candidates: Tensor,
        *,
        noise: torch.Generator | None = None,
        apart: bool = False,
    ) -> Tensor:
        """Each customer's own loss: cross-entropy of next items among shared candidates.

        Args:
            inputs: [B, T] item ids.
            targets: [B, T] the next item of each, or `NOTHING`.
            candidates: [B, K] rising item ids that the target is told from, each row the same,
                K at least 2. They are drawn from the public list of items, by chance that no
                customer's data enters. A candidate that is the target does not count against it.
            noise: Of dropout.
            apart: Look candidates up for each customer by itself in tables that are trained,
                as clipping needs; else once for all, from the first row.

        Returns:
            [B] mean over the customer's targets; 0 without any.
        """
        asked = targets != NOTHING
        wanted = targets.clamp(min=0)
        states = self.states(inputs, noise=noise)  # [B, T, D]
        right = (states * self.items(wanted)).sum(-1) + self.popularity(wanted).squeeze(-1)
        once = candidates[:1]
        vectors = self.items(candidates if apart and self.items.weight.requires_grad else once)
        liked = self.popularity(candidates if apart else once)
        wrong = states @ vectors.transpose(1, 2) + liked.transpose(1, 2)  # [B, T, K]
        # Candidates rise, so that a target is found without comparing all pairs.
        place = torch.searchsorted(candidates[0], wanted).clamp(max=candidates.shape[1] - 1)
        met = (candidates[0][place] == wanted).unsqueeze(-1)
        place = place.unsqueeze(-1)
        wrong = wrong.scatter(-1, place, wrong.gather(-1, place).masked_fill(met, -torch.inf))
        losses = torch.logaddexp(torch.logsumexp(wrong, -1), right) - right
        mean: Tensor = (losses * asked).sum(1) / asked.sum(1).clamp(min=1)
        return mean

    def train_only(self, part: str) -> Sequence[str]:
        """Freeze the rest; returns the names of the trained parameters, sorted.

        Args:
            part: `all`; `heads`, the tables of items, without the transformer; or `rules`,
                the popularity of items alone.
        """
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(
                part == "all"
                or name.startswith("popularity.")
                or (part == "heads" and name.startswith("items."))
            )
        return sorted(name for name, p in self.named_parameters() if p.requires_grad)

    def _dropped(self, values: Tensor, noise: torch.Generator | None) -> Tensor:
        rate = self.config.dropout
        if noise is None or not rate:
            return values
        kept = torch.rand(values.shape, generator=noise) >= rate
        return values * kept / (1 - rate)
