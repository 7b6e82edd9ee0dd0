"""Rise, stay or fall, and visits, from the pre-trained base and a linear head on top.

    logits = base(tokens, class priors) + W [whitened inputs, class text, 1]

The base is a `CategoryModel` that was pre-trained without data of customers, and stays frozen
under privacy. Its class priors come from a noisy release (`class_residuals.py`). The head is
small enough for noise: 171 numbers for 268 classes or any other number. Its inputs are whitened
by the covariance of made-up shoppers, since that of customers would not be public; without
whitening, clipping would spend a gradient's norm on the few directions of largest variance.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hanse_client.model.config import CategoryConfig
from hanse_client.tasks.interest.category_model import (
    UNKNOWN,
    CategoryBatch,
    CategoryModel,
    CategoryOutput,
)
from hanse_client.tasks.interest.heads import INTERESTS, is_silent
from hanse_client.tasks.interest.token_batch import HeadBatch, TokenBatch

_MOST = 6.0
"""Whitened inputs are clipped here: real shoppers may lie far from all made-up ones."""


class CategoryOutlook(nn.Module):
    """The outlook of every category token.

    Args:
        config: The base's shape.
        classes: Number of classes of the vocabulary, C.
    """

    class_priors: Tensor
    """[C, 2] log-odds of rise and fall, from the released class residuals."""
    centre: Tensor
    """[inputs] mean of made-up shoppers' inputs."""
    whitening: Tensor
    """[inputs, inputs] whitens made-up shoppers' inputs."""

    def __init__(self, config: CategoryConfig, classes: int) -> None:
        super().__init__()
        self.base = CategoryModel(config)
        self.head = nn.Linear(config.inputs + config.class_vector_size, 3)
        self.register_buffer("class_priors", torch.zeros(classes, config.class_priors))
        self.register_buffer("centre", torch.zeros(config.inputs))
        self.register_buffer("whitening", torch.eye(config.inputs))

    def start_from_base(self) -> None:
        """Set the head to zero, so that the forecast is the base's."""
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def by_base(self, tokens: TokenBatch, class_vectors: Tensor) -> CategoryOutput:
        """The base's forecast, [B, P, K, ...] each; arbitrary where there is no token.

        Args:
            tokens: Of the customers.
            class_vectors: [C, K] text vectors.
        """
        shape = tokens.present.shape

        def flat(part: Tensor) -> Tensor:
            return part.flatten(0, 1)

        present = flat(tokens.present)
        # Rows without a token are padding of others' moments; attention over none is undefined.
        rows = present.any(-1)
        if not rows.any():
            # One arbitrary row: an encoder of no rows at all is an error, and a step in which
            # nobody has a token must still have a gradient, of zero.
            rows, present = rows.clone(), present.clone()
            rows[:1], present[:1, :1] = True, True
        classes = flat(tokens.classes)[rows]
        output = self.base(
            CategoryBatch(
                inputs=flat(tokens.inputs)[rows],
                rules=flat(tokens.rules)[rows],
                expected=flat(tokens.expected)[rows],
                present=present[rows],
                priors=self.class_priors[classes],
                texts=None if is_silent(self.base.text) else class_vectors[classes],
            )
        )

        def spread(part: Tensor) -> Tensor:
            whole = part.new_zeros(len(present), *part.shape[1:])
            whole = whole.index_put((rows.nonzero().squeeze(1),), part)
            return whole.reshape(*shape, *part.shape[2:])

        return CategoryOutput(
            outlook_logits=spread(output.outlook_logits),
            visit_logits=spread(output.visit_logits),
            states=spread(output.states),
        )

    def features(self, tokens: TokenBatch, class_vectors: Tensor) -> Tensor:
        """The head's inputs, [B, P, K, inputs + text]; they do not depend on weights."""
        white = (tokens.inputs - self.centre) @ self.whitening
        return torch.cat([white.clamp(-_MOST, _MOST), class_vectors[tokens.classes]], dim=-1)

    def forward(self, tokens: TokenBatch, class_vectors: Tensor) -> CategoryOutput:
        """The forecast of base and head, [B, P, K, ...]."""
        output = self.by_base(tokens, class_vectors)
        if not is_silent(self.head):
            amended = self.head(self.features(tokens, class_vectors))
            output.outlook_logits = output.outlook_logits + amended
        return output


def head_losses(head: nn.Module, batch: HeadBatch) -> Tensor:
    """Each customer's cross-entropy [B], a function of that customer's row only.

    Args:
        head: The linear head.
        batch: Of the customers drawn.

    Returns:
        A sum over interests in units of `INTERESTS`, a mean over moments.
    """
    log_p = torch.log_softmax(batch.logits + head(batch.features), dim=-1)
    return _summed(log_p, batch.outlook).sum(1) / (INTERESTS * batch.moments)


def token_batch_losses(output: CategoryOutput, batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Each customer's losses [B] of the outlook and of the number of visits, in the same units.

    Raises:
        ValueError: The batch has no targets.
    """
    if batch.outlook is None or batch.visits is None:
        raise ValueError("a loss needs a batch with targets")
    unit = INTERESTS * batch.present.shape[1]
    outlook = _summed(torch.log_softmax(output.outlook_logits, dim=-1), batch.outlook)
    visits = _summed(output.visit_logits, batch.visits)
    return outlook.sum((1, 2)) / unit, visits.sum((1, 2)) / unit


def _summed(log_p: Tensor, target: Tensor) -> Tensor:
    """Negative log-probabilities of the targets, 0 where there is none."""
    chosen = log_p.gather(-1, target.clamp(0, log_p.shape[-1] - 1).unsqueeze(-1)).squeeze(-1)
    return torch.where(target != UNKNOWN, -chosen, torch.zeros_like(chosen))
