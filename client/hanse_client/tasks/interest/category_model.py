"""A transformer over category tokens: rise, stay or fall, and visits in the next four weeks.

- one token for each category in which a customer has an interest (`category_tokens.py`)
- a bidirectional pre-norm encoder over the customer's own tokens, without positions
- forecast = the rules' + a residual, which is exactly zero in an untrained model
- `save_pretrained` / `AutoModel.from_pretrained` with safetensors

>>> import torch
>>> model = CategoryModel(CategoryConfig()).eval()
>>> batch = CategoryBatch(
...     inputs=torch.randn(1, 2, 40),
...     rules=torch.log(torch.tensor([[[0.1, 0.8, 0.1], [0.3, 0.6, 0.1]]])),
...     expected=torch.tensor([[4.0, 2.0]]),
...     present=torch.ones(1, 2, dtype=torch.bool),
... )
>>> torch.equal(model(batch).outlook_logits, batch.rules)
True
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    PreTrainedModel,
    RobertaPreLayerNormConfig,
    RobertaPreLayerNormModel,
)
from transformers.utils.generic import ModelOutput

from hanse_client.features.ragged import Ints
from hanse_client.model.config import CategoryConfig
from hanse_client.tasks.interest.category_tokens import CategoryTokens, TokenTargets

UNKNOWN = -1
"""A target that does not exist, of a cell without a token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CategoryBatch:
    """Input and targets of B rows with at most K tokens each."""

    inputs: Tensor
    """[B, K, config.inputs] of `CategoryTokens`."""
    rules: Tensor
    """[B, K, 3] log-probabilities of fall, stay and rise by the rules."""
    expected: Tensor
    """[B, K] visits that the rules expect."""
    present: Tensor
    """[B, K] whether the cell has a token."""
    priors: Tensor | None = None
    """[B, K, 2] log-odds of rise and fall of the class; zeros if left out."""
    texts: Tensor | None = None
    """[B, K, config.class_vector_size] the class's text vector; zeros if left out."""
    outlook: Tensor | None = None
    """[B, K] 0 fall, 1 stay, 2 rise, `UNKNOWN`."""
    visits: Tensor | None = None
    """[B, K] visits with the class until the horizon, `UNKNOWN`."""

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass
class CategoryOutput(ModelOutput):
    """The model's predictions for each token."""

    outlook_logits: Tensor = None  # type: ignore[assignment]
    """[B, K, 3] unnormalised log-probability of fall, stay, rise."""
    visit_logits: Tensor = None  # type: ignore[assignment]
    """[B, K, config.visit_counts] log-probability of 0, 1, ... visits; the last holds the rest."""
    states: Tensor = None  # type: ignore[assignment]
    """[B, K, n_embd] of the transformer, for heads that are trained later."""


class _GivenEmbeddings(nn.Module):
    """Hands `inputs_embeds` on: without positions, the order of tokens has no effect."""

    def forward(self, *, inputs_embeds: Tensor, **_: Any) -> Tensor:
        return inputs_embeds


class CategoryModel(PreTrainedModel):
    """Amends the rules' forecast of each of a customer's interests.

    Guarantees:
        An untrained model gives the rules' forecast exactly. A row's output depends on that
        row alone, and permuting its tokens permutes its output.
    """

    config: CategoryConfig
    config_class = CategoryConfig
    base_model_prefix = "hanse"

    def __init__(self, config: CategoryConfig) -> None:
        super().__init__(config)
        width, known = config.n_embd, config.inputs + config.class_priors
        self.history = nn.Linear(known, width)
        self.text = nn.Linear(config.class_vector_size, width, bias=False)
        self.hidden = nn.Linear(width, width)
        self.blocks = _encoder(config)
        self.outlook = nn.Linear(width, 3)
        self.visits = nn.Linear(width, config.visit_counts)
        self.skip = nn.Linear(known, 3)
        self.post_init()  # type: ignore[no-untyped-call]
        # Texts are silent too: made-up categories have none, and weights that were never
        # trained would disturb the forecast of the first real one.
        for layer in (self.text, self.outlook, self.visits, self.skip):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(self, batch: CategoryBatch) -> CategoryOutput:
        """Predict each token's outcomes."""
        rows, cells, _ = batch.inputs.shape
        priors = batch.priors
        if priors is None:
            priors = batch.inputs.new_zeros(rows, cells, self.config.class_priors)
        known = torch.cat([batch.inputs, priors], dim=-1)
        embedded = self.history(known)
        if batch.texts is not None:
            embedded = embedded + self.text(batch.texts)
        states = self.blocks(
            inputs_embeds=self.hidden(nn.functional.gelu(embedded)), attention_mask=batch.present
        ).last_hidden_state
        counts = torch.arange(self.config.visit_counts)
        rate = batch.expected.unsqueeze(-1)
        # Padding may hold a rate of 0, whose logarithm would make gradients NaN.
        log_rate = torch.log(rate.clamp(min=1e-6))
        poisson = counts * log_rate - rate - torch.lgamma(counts + 1.0)
        return CategoryOutput(
            outlook_logits=batch.rules + self.outlook(states) + self.skip(known),
            visit_logits=torch.log_softmax(poisson + self.visits(states), dim=-1),
            states=states,
        )


def collate_tokens(
    tokens: CategoryTokens,
    rows: Ints,
    *,
    priors: np.ndarray | None = None,
    targets: TokenTargets | None = None,
    most: int | None = None,
) -> CategoryBatch:
    """Pad the tokens of rows to a batch.

    Args:
        tokens: Of a store, or of made-up shoppers.
        rows: [B] indices of rows.
        priors: [n, 2] of each token's class.
        targets: Of the tokens; left out at inference.
        most: Tokens of a row at most, the most frequent; all by default.
    """
    sizes = tokens.sizes[rows]
    if most is not None:
        sizes = np.minimum(sizes, most)
    cells = np.arange(max(int(sizes.max(initial=0)), 1))
    present = cells < sizes[:, None]
    flat = np.where(present, tokens.offsets[rows][:, None] + cells, 0)

    def padded(values: np.ndarray, filler: float) -> Tensor:
        if not len(tokens.classes):
            return torch.full((*present.shape, *values.shape[1:]), filler).to(
                torch.from_numpy(values).dtype
            )
        there = present.reshape(*present.shape, *(1 for _ in values.shape[1:]))
        return torch.from_numpy(np.where(there, values[flat], values.dtype.type(filler)))

    return CategoryBatch(
        inputs=padded(tokens.inputs, 0.0),
        rules=padded(tokens.rules, 0.0),
        expected=padded(tokens.expected, 1.0),
        present=torch.from_numpy(present),
        priors=None if priors is None else padded(priors, 0.0),
        outlook=None if targets is None else padded(targets.outlook, UNKNOWN),
        visits=None if targets is None else padded(targets.visits, UNKNOWN),
    )


def token_losses(output: CategoryOutput, batch: CategoryBatch) -> tuple[Tensor, Tensor]:
    """Each token's losses in nats, 0 where there is none.

    Returns:
        (outlook [B, K], visits [B, K]): cross-entropy of the three outcomes, and the negative
        log-likelihood of the number of visits.

    Raises:
        ValueError: The batch has no targets.
    """
    if batch.outlook is None or batch.visits is None:
        raise ValueError("a loss needs a batch with targets")

    def loss(log_p: Tensor, target: Tensor) -> Tensor:
        most = log_p.shape[-1] - 1
        chosen = log_p.gather(-1, target.clamp(0, most).unsqueeze(-1)).squeeze(-1)
        return -chosen * (target != UNKNOWN)

    log_outlook = torch.log_softmax(output.outlook_logits, dim=-1)
    return loss(log_outlook, batch.outlook), loss(output.visit_logits, batch.visits)


def _encoder(config: CategoryConfig) -> RobertaPreLayerNormModel:
    """A pre-norm encoder without tables of words and positions."""
    encoder = RobertaPreLayerNormModel(
        RobertaPreLayerNormConfig(
            vocab_size=1,
            pad_token_id=0,
            bos_token_id=0,
            eos_token_id=0,
            type_vocab_size=1,
            max_position_embeddings=1,
            hidden_size=config.n_embd,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.n_layer,
            num_attention_heads=config.n_head,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
        ),
        add_pooling_layer=False,
    )
    encoder.embeddings = _GivenEmbeddings()  # type: ignore[assignment]
    return encoder


# A second import under another name, as by a tool that collects doctests, is no error.
AutoConfig.register(CategoryConfig.model_type, CategoryConfig, exist_ok=True)
AutoModel.register(CategoryConfig, CategoryModel, exist_ok=True)
