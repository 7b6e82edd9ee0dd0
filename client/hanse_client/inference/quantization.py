"""Dynamic quantisation of a model's linear layers to eight bits, by torch.

Weights are rounded once, activations batch by batch; everything between layers stays float.
`hanse bench serve` measures the speed and the effect on rankings.
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
    """Return a copy in which every linear layer that affects the output is quantised."""
    quantised: Any = copy.deepcopy(model)
    quantised.eval().requires_grad_(False)
    for parent in list(quantised.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, Conv1D):  # GPT-2's own kind of linear layer
                setattr(parent, name, _linear(layer))
    with torch.inference_mode():
        # The model skips a silent layer (all zeros); a packed one it could not recognise, and
        # would run.
        active: Any = {
            name
            for name, layer in quantised.named_modules()
            # peft reads the dtype of its factors' weights, which packed layers do not have.
            if isinstance(layer, nn.Linear) and not is_silent(layer) and ".lora_" not in name
        }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces its successor, another package
        torch.ao.quantization.quantize_dynamic(quantised, active, dtype=torch.qint8, inplace=True)
    result: InterestModel = quantised
    return result


def _linear(layer: Conv1D) -> nn.Linear:
    inputs, outputs = layer.weight.shape
    linear = nn.Linear(inputs, outputs)
    with torch.no_grad():
        linear.weight.copy_(layer.weight.T)
        linear.bias.copy_(layer.bias)
    return linear.requires_grad_(False)
