"""The transformer over a customer's visits: GPT-2 blocks, fed through `inputs_embeds`.

One token is one visit: the mean of its items' text vectors plus a few facts about the visit
(how much, what it cost, how long since the last one, when in the week, what kind of events).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2Model

from hanse_common.model.config import InterestConfig


class VisitEncoder(nn.Module):
    """Visits in order to one state per visit, each seeing only what came before it.

    Histories are padded on the right. A causal state never sees to its right, so padding
    needs no mask and takes no part in any prediction; on the left it would shift positions
    and corrupt per-customer gradients of the position table.
    """

    def __init__(self, config: InterestConfig) -> None:
        super().__init__()
        self.text = nn.Linear(config.vector_size, config.n_embd)
        self.facts = nn.Linear(config.visit_facts, config.n_embd, bias=False)
        self.blocks = GPT2Model(
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
            )
        )
        # Visits come in as vectors; an unused token table would have no gradient to clip.
        self.blocks.wte = nn.Identity()  # type: ignore[assignment]

    def forward(self, visit_vectors: Tensor, visit_facts: Tensor) -> Tensor:
        """Encode histories.

        Args:
            visit_vectors: [B, T, vector_size] mean text vector of each visit's items.
            visit_facts: [B, T, facts].

        Returns:
            [B, T, n_embd].
        """
        tokens = self.text(visit_vectors) + self.facts(visit_facts)  # [B, T, D]
        batch, steps, _ = tokens.shape
        # Contiguous per-customer positions: the default [1, T] would be shared by the batch
        # and per-customer gradients of the position table would be wrong.
        positions = torch.arange(steps, device=tokens.device).expand(batch, steps).contiguous()
        states: Tensor = self.blocks(
            inputs_embeds=tokens, position_ids=positions, use_cache=False
        ).last_hidden_state
        return states
