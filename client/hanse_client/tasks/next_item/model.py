"""The sequence model: predicts the next item from ids, for the data sets of papers.

- one table of item vectors, tied between input and output
- scores by inner product, or by cosine over a temperature, which trains in half the epochs
- a popularity bias per item, so that a model with little training ranks by popularity
- the causal transformer of the interest model (`backbone.py`)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from hanse_client.model.backbone import gpt2_blocks, read_causal
from hanse_client.model.config import SequenceConfig

NOTHING = -1
"""The target of a position without a loss."""
_SPREAD = 0.02  # the standard deviation of new weights in GPT-2


class SequenceModel(PreTrainedModel):
    """Scores all items as the next one after each item of a history.

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
        self.blocks = gpt2_blocks(config, dropout=config.dropout)
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: `fresh` sets new weights, and weights of a file stay as they are."""

    @classmethod
    def fresh(cls, config: SequenceConfig, *, seed: int) -> SequenceModel:
        """An untrained model, which depends on no data.

        Args:
            config: The model's shape.
            seed: Of the random weights.
        """
        # Restored below: making a model must not move the generator of the caller.
        state = torch.get_rng_state()
        torch.manual_seed(seed)
        model = cls(config)
        with torch.no_grad():
            nn.init.normal_(model.items.weight, std=_SPREAD)
            nn.init.zeros_(model.popularity.weight)
        torch.set_rng_state(state)
        return model

    def states(self, inputs: Tensor, *, noise: torch.Generator | None = None) -> Tensor:
        """The transformer's states after each item.

        Args:
            inputs: [B, T] item ids in order, padded on the right with any id.
            noise: Generator of dropout; no dropout if left out.

        Returns:
            [B, T, n_embd]; each state depends on its own item and those before it.
        """
        rate = self.config.dropout
        tokens = self.items(inputs)
        if self.config.score_temperature is not None:
            # As in SASRec. Rows of .02 are small beside what the first layer adds at the start:
            # after four epochs of Amazon Beauty HR@10 is .019 without this factor, .087 with it.
            tokens = tokens * math.sqrt(self.config.n_embd)
        tokens = _dropped(tokens, self.config.item_dropout, noise, shape=inputs.shape)
        tokens = _dropped(tokens, rate, noise)
        for module in self.blocks.modules():
            if isinstance(module, nn.Dropout):
                module.train(noise is not None)
        if noise is None or not rate:
            return read_causal(self.blocks, tokens)
        # The layers' own dropout draws from torch's global generator, which is put back.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (1,), generator=noise)))
            states = read_causal(self.blocks, tokens)
        return _dropped(states, rate, noise)

    def scores(self, states: Tensor) -> Tensor:
        """Scores of all items [..., items] from states [..., n_embd]."""
        vectors = self._compared(self.items.weight)
        return self._compared(states) @ vectors.T + self.popularity.weight.squeeze(-1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Scores of all items [B, T, items] after each item of histories [B, T]."""
        return self.scores(self.states(inputs))

    def next_scores(self, past: Sequence[npt.NDArray[np.int32]]) -> npt.NDArray[np.float32]:
        """Scores of all items [n, items] as the next one of n histories, each of some items."""
        recent = [one[-self.config.max_steps :] for one in past]
        last = torch.tensor([len(one) - 1 for one in recent])
        states = self.states(padded(recent, 0))[torch.arange(len(past)), last]
        scores: npt.NDArray[np.float32] = self.scores(states).numpy()
        return scores

    def draw_candidates(self, count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Draw different items, each as likely as any, ascending; all if there are no more."""
        items = self.config.items
        if count >= items:
            return np.arange(items)
        return np.sort(rng.choice(items, count, replace=False))

    def sampled_losses(
        self,
        inputs: Tensor,
        targets: Tensor,
        candidates: Tensor,
        *,
        noise: torch.Generator | None = None,
        apart: bool = False,
    ) -> Tensor:
        """Each customer's sampled-softmax loss, with negatives that all customers share.

        Args:
            inputs: [B, T] item ids.
            targets: [B, T] the next item of each, or `NOTHING`.
            candidates: [B, K] ascending item ids, each row the same, K at least 2. They are
                drawn from the public list of items, independently of any customer's data. A
                candidate that is the target does not count as a negative.
            noise: Generator of dropout; no dropout if left out.
            apart: Look up the candidates separately for each customer in tables that are
                trained, as per-customer clipping needs; otherwise once, from the first row.

        Returns:
            [B] mean cross-entropy over the customer's targets; 0 without any.
        """
        has_target = targets != NOTHING
        next_items = targets.clamp(min=0)
        states = self._compared(self.states(inputs, noise=noise))  # [B, T, D]
        positive = (states * self._compared(self.items(next_items))).sum(-1)
        positive = positive + self.popularity(next_items).squeeze(-1)
        once = candidates[:1]
        # A look-up that the batch shared would give one gradient for all customers together.
        vectors = self.items(candidates if apart and self.items.weight.requires_grad else once)
        vectors = self._compared(vectors)
        biases = self.popularity(candidates if apart else once)
        negative = states @ vectors.transpose(1, 2) + biases.transpose(1, 2)  # [B, T, K]
        # Candidates ascend, so that targets are located by bisection, not in all K.
        place = torch.searchsorted(candidates[0], next_items).clamp(max=candidates.shape[1] - 1)
        is_target = (candidates[0][place] == next_items).unsqueeze(-1)
        place = place.unsqueeze(-1)
        # -inf takes the target out of the negatives, where it would be counted twice.
        negative = negative.scatter(
            -1, place, negative.gather(-1, place).masked_fill(is_target, -torch.inf)
        )
        losses = torch.logaddexp(torch.logsumexp(negative, -1), positive) - positive
        mean: Tensor = (losses * has_target).sum(1) / has_target.sum(1).clamp(min=1)
        return mean

    def train_only(self, part: str) -> Sequence[str]:
        """Make a part trainable and freeze the rest; returns the sorted names of the part.

        Args:
            part: `all`; `heads`, which are the tables of items without the transformer; or
                `rules`, which are the popularity biases only.
        """
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(
                part == "all"
                or name.startswith("popularity.")
                or (part == "heads" and name.startswith("items."))
            )
        return sorted(name for name, p in self.named_parameters() if p.requires_grad)

    def _compared(self, vectors: Tensor) -> Tensor:
        """Vectors [..., D] scaled so that inner products of two of them are scores."""
        temperature = self.config.score_temperature
        if temperature is None:
            return vectors
        return nn.functional.normalize(vectors, dim=-1) / math.sqrt(temperature)


def _dropped(
    values: Tensor, rate: float, noise: torch.Generator | None, *, shape: torch.Size | None = None
) -> Tensor:
    """Dropout of values [B, T, D], or of whole vectors if `shape` is [B, T]."""
    if noise is None or not rate:
        return values
    # With a generator of its own: nn.Dropout draws from torch's global one.
    kept = torch.rand(shape or values.shape, generator=noise) >= rate
    if shape is not None:
        return values * kept.unsqueeze(-1)
    return values * kept / (1 - rate)


def padded(rows: Sequence[npt.NDArray[np.int32]], filler: int) -> Tensor:
    """Rows of any length as one table [n, longest], filled up on the right."""
    width = max((len(row) for row in rows), default=0) or 1
    table = np.full((len(rows), width), filler, dtype=np.int64)
    for place, row in enumerate(rows):
        table[place, : len(row)] = row
    return torch.from_numpy(table)


# A second import under another name, as by a tool that collects doctests, is no error.
AutoConfig.register(SequenceConfig.model_type, SequenceConfig, exist_ok=True)
AutoModel.register(SequenceConfig, SequenceModel, exist_ok=True)
