"""Bidirectional attention that never reaches past the moment of prediction.

A bidirectional encoder that read a complete history once would leak later visits to earlier
anchors. The history is therefore read once for each anchor, with the visits after it masked.
The passes of one customer are concatenated in one row: layers see [B, P * T, D] with the
customer as the first dimension, as per-customer clipping needs, and only attention, which has
no parameters, separates them.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

ANCHORED = "hanse_anchored"
"""The name under which `transformers` finds this attention function."""


def anchored_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within each of the P passes.

    Args:
        module: The layer; not used.
        query: [B, heads, P * T, d].
        key: [B, heads, P * T, d].
        value: [B, heads, P * T, d].
        attention_mask: [B, P, 1, T] visits that each pass attends to, at least one.
        scaling: Of the scores; 1 / sqrt(d) if None.

    Returns:
        ([B, P * T, heads, d], None for the attention weights).
    """
    rows, readings, _one, steps = attention_mask.shape
    heads, size = query.shape[1], query.shape[3]

    def apart(joined: Tensor) -> Tensor:
        split = joined.reshape(rows, heads, readings, steps, size).transpose(1, 2)
        return split.reshape(rows * readings, heads, steps, size)

    # A pass without any visible visit would make softmax NaN; callers clamp to the first visit.
    attended = scaled_dot_product_attention(
        apart(query),
        apart(key),
        apart(value),
        attn_mask=attention_mask.reshape(rows * readings, 1, 1, steps),
        scale=scaling,
    )
    together = attended.reshape(rows, readings, heads, steps, size).permute(0, 1, 3, 2, 4)
    return together.reshape(rows, readings * steps, heads, size), None


AttentionInterface.register(ANCHORED, anchored_attention)
