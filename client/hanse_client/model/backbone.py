"""The transformer over a customer's visits, GPT-2 or BERT, which reads `inputs_embeds`.

One token is one visit: the mean of its items' text vectors plus a few facts about the visit
(number of items, spend, days since the last visit, weekday, kinds of events).

- `gpt2` is causal, so one pass serves all anchors.
- `bert` is bidirectional, so it reads the history once for each anchor, with later visits
  masked (`anchored_attention.py`); P anchors cost about P passes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

from hanse_client.model.adapters import adapt, start_adaptation
from hanse_client.model.anchored_attention import ANCHORED
from hanse_client.model.config import InterestConfig, SequenceConfig
from hanse_common.errors import ConfigError

UNSEEN = -1
"""The index of the last visit before an anchor without any earlier visit."""


class VisitEncoder(nn.Module):
    """Encodes histories as one state per anchor, which depends only on visits before it.

    Histories are padded on the right. A causal state depends on nothing to its right, so
    padding needs no mask and affects no prediction; on the left it would shift positions
    and corrupt per-customer gradients of the position table.
    """

    def __init__(self, config: InterestConfig) -> None:
        super().__init__()
        self.text = nn.Linear(config.vector_size, config.n_embd)
        self.facts = nn.Linear(config.visit_facts, config.n_embd, bias=False)
        self.blocks = gpt2_blocks(config) if config.backbone == "gpt2" else _bert(config)
        self._family, self._width = config.backbone, config.n_embd
        if config.adaptation is not None:
            adapt(self.blocks, self._family, width=self._width, adaptation=config.adaptation)

    @property
    def both_ways(self) -> bool:
        """Whether the transformer is bidirectional: a state also attends to later visits."""
        return self._family == "bert"

    def adapt(self, adaptation: str, *, seed: int) -> None:
        """Add LoRA factors or adapters, which have no effect until they are trained."""
        # peft draws initial weights from the global generator; they are replaced below.
        with torch.random.fork_rng():
            adapt(self.blocks, self._family, width=self._width, adaptation=adaptation)
        start_adaptation(self.blocks, seed=seed)

    def forward(self, visit_vectors: Tensor, visit_facts: Tensor, anchor_visit: Tensor) -> Tensor:
        """Encode histories up to each anchor.

        Args:
            visit_vectors: [B, T, vector_size] mean text vector of each visit's items.
            visit_facts: [B, T, facts].
            anchor_visit: [B, P] index of the last visit before each anchor, or `UNSEEN`.

        Returns:
            [B, P, n_embd]; zero for an anchor without an earlier visit.
        """
        tokens = self.tokens(visit_vectors, visit_facts)
        last = anchor_visit.clamp(min=0)
        if self._family == "gpt2":
            index = last.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
            states = self.read(tokens).gather(1, index)
        else:
            customers, points = last.shape
            width = tokens.shape[-1]
            states = self.read(tokens, last).unflatten(1, (points, -1))  # [B, P, T, D]
            index = last[:, :, None, None].expand(customers, points, 1, width)
            states = states.gather(2, index).squeeze(2)
        # The clamp above gave such anchors the first visit, which they must not see.
        return states.masked_fill((anchor_visit == UNSEEN).unsqueeze(-1), 0.0)

    def tokens(self, visit_vectors: Tensor, visit_facts: Tensor) -> Tensor:
        """Input embeddings of the visits [B, T, D]."""
        tokens: Tensor = self.text(visit_vectors) + self.facts(visit_facts)
        return tokens

    def read(self, tokens: Tensor, last: Tensor | None = None) -> Tensor:
        """Run the transformer.

        Args:
            tokens: [B, T, D].
            last: `bert` only: [B, P] index of the last visit that each pass attends to.

        Returns:
            [B, T, D]; for `bert` the P passes one after another, [B, P * T, D].

        Raises:
            ValueError: `last` is missing for `bert`.
        """
        if self._family == "gpt2":
            return read_causal(self.blocks, tokens)
        if last is None:
            raise ValueError("a bidirectional transformer needs the last visit of each pass")
        batch, steps, _ = tokens.shape
        positions = torch.arange(steps, device=tokens.device)
        readings = last.shape[1]
        # Contiguous per customer, as in `read_causal`.
        where = positions.repeat(readings).expand(batch, -1).contiguous()  # [B, P * T]
        output = self.blocks(
            inputs_embeds=tokens.repeat(1, readings, 1),
            position_ids=where,
            token_type_ids=torch.zeros_like(where),
            attention_mask=(positions <= last.unsqueeze(-1)).unsqueeze(2),  # [B, P, 1, T]
        )
        states: Tensor = output.last_hidden_state
        return states


def gpt2_blocks(config: InterestConfig | SequenceConfig, *, dropout: float = 0.0) -> GPT2Model:
    """GPT-2 without token table, for input vectors of size `config.n_embd`.

    Args:
        config: The shape.
        dropout: Rate on what each layer adds, in train mode only. Private training must not use
            it: its masks make a loss depend on the row's place in the batch.
    """
    blocks = GPT2Model(
        GPT2Config(
            vocab_size=1,
            bos_token_id=0,
            eos_token_id=0,
            n_positions=config.max_steps,
            n_embd=config.n_embd,
            n_layer=config.n_layer,
            n_head=config.n_head,
            resid_pdrop=dropout,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            **getattr(config, "backbone_options", {}),
        )
    )
    # The input is vectors; an unused token table would be noised and sent without any gradient.
    blocks.wte = nn.Identity()  # type: ignore[assignment]
    return blocks


def read_causal(blocks: nn.Module, tokens: Tensor) -> Tensor:
    """States [B, T, D] of tokens [B, T, D]; each depends on its own token and earlier ones."""
    batch, steps, _ = tokens.shape
    # Positions per customer: the batch would share the default [1, T], and per-customer
    # gradients of the position table would be wrong.
    positions = torch.arange(steps, device=tokens.device).expand(batch, steps).contiguous()
    states: Tensor = blocks(
        inputs_embeds=tokens, position_ids=positions, use_cache=False
    ).last_hidden_state
    return states


def _bert(config: InterestConfig) -> BertModel:
    options: dict[str, Any] = {"intermediate_size": 4 * config.n_embd, **config.backbone_options}
    if config.backbone != "bert":
        raise ConfigError(
            f"there is no backbone {config.backbone!r}", hint="take model.backbone = gpt2 or bert"
        )
    shape = BertConfig(
        vocab_size=1,
        pad_token_id=None,
        type_vocab_size=1,
        max_position_embeddings=config.max_steps,
        hidden_size=config.n_embd,
        num_hidden_layers=config.n_layer,
        num_attention_heads=config.n_head,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **options,
    )
    shape._attn_implementation = ANCHORED
    blocks = BertModel(shape, add_pooling_layer=False)
    blocks.embeddings.word_embeddings = nn.Identity()  # type: ignore[assignment]
    return blocks
