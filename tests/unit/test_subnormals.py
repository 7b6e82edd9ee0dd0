"""A model of subnormal numbers tells nobody by its slowness whom a store computes on."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from hanse_client.training import evaluate, train
from hanse_client.training.subnormals import flushing_subnormals

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


def product() -> int:
    """How many numbers of a product are not zero that would all be subnormal."""
    small = torch.full((512, 512), 1e-20)
    return int((small @ (small * 1e-2)).count_nonzero())


def test_subnormal_products_are_zero_while_a_store_computes_and_only_then():
    assert product() > 0
    assert flushing_subnormals(product)() == 0
    assert product() > 0


@pytest.mark.parametrize("compute", [train.train_round, train.train_alone, evaluate.evaluate_round])
def test_all_that_computes_on_customers_flushes_them(compute):
    assert compute.__wrapped__ is not None


def test_in_the_process_that_answers_they_are_zero_in_every_thread():
    script = (
        "import torch; from hanse_client.training.subnormals import flush_subnormals; "
        "flush_subnormals(); a = torch.full((2048, 2048), 1e-20); "
        "print(torch.get_num_threads(), int((a @ (a * 1e-2)).count_nonzero()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["2", "0"]
