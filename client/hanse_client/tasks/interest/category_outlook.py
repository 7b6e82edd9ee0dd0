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
        if torch.is_grad_enabled() and self.trains_base():
            # One pass for each moment, with all customers in it, as the clipper needs: the
            # first dimension of a layer's input must be the customers'.
            points = range(tokens.present.shape[1])
            each = [self._by_base(tokens.at(point), class_vectors) for point in points]
            return CategoryOutput(
                outlook_logits=torch.stack([one.outlook_logits for one in each], dim=1),
                visit_logits=torch.stack([one.visit_logits for one in each], dim=1),
                states=torch.stack([one.states for one in each], dim=1),
            )
        # Rows without a token, the padding of others' moments, are not computed.
        flat = tokens.flat()
        rows = flat.present.any(-1)
        output = self._by_base(flat.select(rows), class_vectors)

        def spread(part: Tensor) -> Tensor:
            whole = part.new_zeros(len(rows), *part.shape[1:])
            whole[rows] = part
            return whole.reshape(*tokens.present.shape, *part.shape[2:])

        return CategoryOutput(
            outlook_logits=spread(output.outlook_logits),
            visit_logits=spread(output.visit_logits),
            states=spread(output.states),
        )

    def trains_base(self) -> bool:
        """Whether the base is trained, so that nothing of it can be kept between steps."""
        return any(parameter.requires_grad for parameter in self.base.parameters())

    def _by_base(self, tokens: TokenBatch, class_vectors: Tensor) -> CategoryOutput:
        """The base's forecast of R rows, [R, K, ...] each."""
        if not len(tokens):
            # An encoder of no rows at all is an error.
            cells = tokens.present.shape
            config = self.base.config
            return CategoryOutput(
                outlook_logits=tokens.inputs.new_zeros(*cells, 3),
                visit_logits=tokens.inputs.new_zeros(*cells, config.visit_counts),
                states=tokens.inputs.new_zeros(*cells, config.n_embd),
            )
        # Attention over nothing is undefined: a row without tokens reads its first cell, which
        # has no target and so no gradient.
        empty = ~tokens.present.any(-1, keepdim=True)
        first = torch.arange(tokens.present.shape[1]) == 0
        output: CategoryOutput = self.base(
            CategoryBatch(
                inputs=tokens.inputs,
                rules=tokens.rules,
                expected=tokens.expected,
                present=tokens.present | (empty & first),
                priors=self.class_priors[tokens.classes],
                texts=None if is_silent(self.base.text) else class_vectors[tokens.classes],
            )
        )
        return output

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
