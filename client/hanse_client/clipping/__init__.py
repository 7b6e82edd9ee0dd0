"""Per-customer clipping by book-keeping: one backward pass, no per-customer gradient tensors.

>>> import torch
>>> model = torch.nn.Linear(2, 1, bias=False)
>>> with BookKeeping(model, max_grad_norm=1.0) as clipper:
...     clipper.backward(model(torch.tensor([[3.0, 4.0], [0.3, 0.4]])).squeeze(-1))
>>> model.weight.grad  # (.6, .8) of the first, all of the second
tensor([[0.9000, 1.2000]])
"""

from hanse_client.clipping.bare_parameters import PerCustomerParameter
from hanse_client.clipping.engine import BookKeeping
from hanse_client.clipping.output_layers import IGNORED, CatalogueSoftmax, sampled_softmax

__all__ = [
    "IGNORED",
    "BookKeeping",
    "CatalogueSoftmax",
    "PerCustomerParameter",
    "sampled_softmax",
]
