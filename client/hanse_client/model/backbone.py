"""The transformer over a customer's visits, fed through `inputs_embeds`: GPT-2 or BERT.

One token is one visit: the mean of its items' text vectors plus a few facts about the visit
(how much, what it cost, how long since the last one, when in the week, what kind of events).

- `gpt2` is causal: one pass serves all anchors, for a state never sees to its right.
- `bert` looks both ways, so it reads the history once for each anchor, up to that anchor
  and no further (`anchored.py`); P anchors cost about P passes.
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
"""The last visit before an anchor that has none."""


class VisitEncoder(nn.Module):
    """Visits in order to one state per anchor, which has seen only what came before it.

    Histories are padded on the right. A causal state never sees to its right, so padding
    needs no mask and takes no part in any prediction; on the left it would shift positions
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
        """Whether a state sees visits after its own, as far as it is let."""
        return self._family == "bert"

    def adapt(self, adaptation: str, *, seed: int) -> None:
        """Add LoRA factors or adapters that change nothing until they are trained."""
        with torch.random.fork_rng():  # what peft draws is drawn again, from the seed
            adapt(self.blocks, self._family, width=self._width, adaptation=adaptation)
        start_adaptation(self.blocks, seed=seed)

    def forward(self, visit_vectors: Tensor, visit_facts: Tensor, anchor_visit: Tensor) -> Tensor:
        """Encode histories as they are seen from some anchors.

        Args:
            visit_vectors: [B, T, vector_size] mean text vector of each visit's items.
            visit_facts: [B, T, facts].
            anchor_visit: [B, P] the last visit before each anchor, or `UNSEEN`.

        Returns:
            [B, P, n_embd]; zero where there is no visit before the anchor.
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
        return states.masked_fill((anchor_visit == UNSEEN).unsqueeze(-1), 0.0)

    def tokens(self, visit_vectors: Tensor, visit_facts: Tensor) -> Tensor:
        """Each visit as the transformer reads it, [B, T, D]."""
        tokens: Tensor = self.text(visit_vectors) + self.facts(visit_facts)
        return tokens

    def read(self, tokens: Tensor, last: Tensor | None = None) -> Tensor:
        """Run the transformer.

        Args:
            tokens: [B, T, D].
            last: `bert` only: [B, P] the last visit that each reading may see.

        Returns:
            [B, T, D]; of `bert` all readings one after another, [B, P * T, D].
        """
        if self._family == "gpt2":
            return read_causal(self.blocks, tokens)
        if last is None:
            raise ValueError("a transformer that looks both ways must be told how far")
        batch, steps, _ = tokens.shape
        positions = torch.arange(steps, device=tokens.device)
        readings = last.shape[1]
        where = positions.repeat(readings).expand(batch, -1).contiguous()  # [B, P * T]
        found = self.blocks(
            inputs_embeds=tokens.repeat(1, readings, 1),
            position_ids=where,
            token_type_ids=torch.zeros_like(where),
            attention_mask=(positions <= last.unsqueeze(-1)).unsqueeze(2),  # [B, P, 1, T]
        )
        states: Tensor = found.last_hidden_state
        return states


def gpt2_blocks(config: InterestConfig | SequenceConfig) -> GPT2Model:
    """GPT-2 without dropout or a token table, for vectors as long as `config.n_embd`."""
    blocks = GPT2Model(
        GPT2Config(
            vocab_size=1,
            bos_token_id=0,
            eos_token_id=0,
            n_positions=config.max_steps,
            n_embd=config.n_embd,
            n_layer=config.n_layer,
            n_head=config.n_head,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            **getattr(config, "backbone_options", {}),
        )
    )
    # Visits come in as vectors; an unused token table would have no gradient to clip.
    blocks.wte = nn.Identity()  # type: ignore[assignment]
    return blocks


def read_causal(blocks: nn.Module, tokens: Tensor) -> Tensor:
    """States [B, T, D] of tokens [B, T, D], each seeing only what came before it."""
    batch, steps, _ = tokens.shape
    # Contiguous per-customer positions: the default [1, T] would be shared by the batch
    # and per-customer gradients of the position table would be wrong.
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
