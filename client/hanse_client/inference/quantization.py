"""A model whose layers multiply in eight bits: torch's dynamic quantisation.

Weights are rounded once, activations batch by batch; everything between layers stays float.
Whether that is faster, and what it does to rankings, `hanse bench serve` measures.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from hanse_client.tasks.interest import InterestModel
from hanse_client.tasks.interest.heads import is_silent


def to_int8(model: InterestModel) -> InterestModel:
    """Return a copy with every layer that has a say quantised; the model stays as it is."""
    found: Any = copy.deepcopy(model)
    found.eval().requires_grad_(False)
    for parent in list(found.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, Conv1D):  # GPT-2's own kind of linear layer
                setattr(parent, name, _linear(layer))
    with torch.inference_mode():
        # A silent layer costs nothing as it is, and packed it would be asked.
        spoken: Any = {
            name
            for name, layer in found.named_modules()
            # peft asks its factors for their weights' type, which packed ones do not tell.
            if isinstance(layer, nn.Linear) and not is_silent(layer) and ".lora_" not in name
        }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch points to its successor, another package
        torch.ao.quantization.quantize_dynamic(found, spoken, dtype=torch.qint8, inplace=True)
    quantised: InterestModel = found
    return quantised


def _linear(layer: Conv1D) -> nn.Linear:
    inputs, outputs = layer.weight.shape
    linear = nn.Linear(inputs, outputs)
    with torch.no_grad():
        linear.weight.copy_(layer.weight.T)
        linear.bias.copy_(layer.bias)
    return linear.requires_grad_(False)
