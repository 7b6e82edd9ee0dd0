"""Attention that looks both ways and yet never past the moment of prediction.

A bidirectional encoder that read a whole history would hand later visits to earlier anchors.
So the history is read once for each anchor, and each reading sees the visits before its
anchor only. The readings of one customer lie one after another in one row: layers see
[B, P * T, D] with the customers in front, as per-customer clipping needs, and only attention,
which has no parameters, takes them apart.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

ANCHORED = "hanse_anchored"
"""Its name among the attention functions of `transformers`."""


def anchored_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within each reading.

    Args:
        module: The layer; not used.
        query: [B, heads, P * T, d].
        key: The same.
        value: The same.
        attention_mask: [B, P, 1, T] which visits each reading may see, at least one.
        scaling: Of the scores; one over the root of d if None.

    Returns:
        ([B, P * T, heads, d], no weights).
    """
    rows, readings, _one, steps = attention_mask.shape
    heads, size = query.shape[1], query.shape[3]

    def apart(joined: Tensor) -> Tensor:
        split = joined.reshape(rows, heads, readings, steps, size).transpose(1, 2)
        return split.reshape(rows * readings, heads, steps, size)

    found = scaled_dot_product_attention(
        apart(query),
        apart(key),
        apart(value),
        attn_mask=attention_mask.reshape(rows * readings, 1, 1, steps),
        scale=scaling,
    )
    together = found.reshape(rows, readings, heads, steps, size).permute(0, 1, 3, 2, 4)
    return together.reshape(rows, readings * steps, heads, size), None


AttentionInterface.register(ANCHORED, anchored_attention)
