"""A model of subnormal numbers tells nobody by its slowness whom a store computes on."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from hanse_client.training import train

TINY = 1e-40


def test_subnormal_parameters_become_zero():
    model = nn.Linear(3, 1)
    arrays = {
        "weight": np.array([[TINY, -TINY, 0.5]], np.float32),
        "bias": np.array([np.finfo(np.float32).tiny], np.float32),
    }
    train.load_arrays(model, arrays)
    assert model.weight.tolist() == [[0.0, 0.0, 0.5]]
    assert model.bias.item() > 0  # the least normal number is one


def test_products_that_would_be_subnormal_are_zero_in_every_thread():
    """Flushing is on in the process that trains, in each thread of a matrix product."""
    small = torch.full((256, 256), 1e-20)
    assert not (small @ (small * 1e-2)).any()
    assert (small.double() @ small.double()).any()  # they are not zero by themselves
