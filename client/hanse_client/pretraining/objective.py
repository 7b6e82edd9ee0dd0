"""Self-supervised objectives: predict the contents of a visit that the transformer cannot see.

- causal: predict each visit from the visits before it (as GPT, Radford et al. 2018);
- masked: hide a fifth of the visits and predict them from the others (as BERT, Devlin et al.
  2018); a GPT-2 still sees only earlier ones.

The contents of a visit are the classes of its items. A projection of the state is scored
against the text vector of every class, plus a popularity bias. Projection and popularity are
not part of the checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from hanse_client.features.histories import Histories
from hanse_client.model.backbone import VisitEncoder

Objective = Literal["causal", "masked"]
_MASKED = 0.2
_READINGS = 4
"""Anchors of a row for a bidirectional transformer, where each costs a pass."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Windows of B histories, padded on the right."""

    vectors: Tensor
    """[B, T, vector_size]."""
    facts: Tensor
    """[B, T, facts]."""
    contents: Tensor
    """[B, T, C] 1 for each class of the visit."""
    lengths: Tensor
    """[B] visits in the window."""


def rows_of(
    histories: Histories, customers: np.ndarray, classes: int, steps: int, rng: np.random.Generator
) -> Rows:
    """Draw a uniform window of at most `steps` visits from each history.

    Args:
        histories: Public histories.
        customers: [B] indices of customers with a visit.
        classes: Number of classes, C.
        steps: Maximum length of a window.
        rng: Of the windows' positions.
    """
    starts, stops = histories.visit_offsets[customers], histories.visit_offsets[customers + 1]
    lengths = np.minimum(stops - starts, steps)
    firsts = starts + rng.integers(0, stops - starts - lengths + 1)
    most = int(lengths.max(initial=1))
    shape = (len(customers), most)
    vectors = torch.zeros(*shape, histories.visit_vectors.shape[1])
    facts = torch.zeros(*shape, histories.visit_facts.shape[1])
    contents = torch.zeros(*shape, classes)
    for row, (first, length) in enumerate(zip(firsts, lengths, strict=True)):
        part = slice(first, first + length)
        vectors[row, :length] = torch.from_numpy(histories.visit_vectors[part].astype(np.float32))
        facts[row, :length] = torch.from_numpy(histories.visit_facts[part])
        a, b = histories.pair_offsets[first], histories.pair_offsets[first + length]
        sizes = np.diff(histories.pair_offsets[first : first + length + 1])
        where = torch.from_numpy(np.repeat(np.arange(length), sizes))
        contents[row, where, torch.from_numpy(histories.pair_classes[a:b].astype(np.int64))] = 1.0
    return Rows(vectors=vectors, facts=facts, contents=contents, lengths=torch.from_numpy(lengths))


class Contents(nn.Module):
    """A transformer over visits with a head that predicts the contents of a visit.

    Args:
        visits: The encoder to train, which becomes the checkpoint.
        class_vectors: [C, vector_size] text vectors of the classes.
        popularity: [C] initial logarithm of each class's share.
    """

    class_vectors: Tensor

    def __init__(self, visits: VisitEncoder, class_vectors: Tensor, popularity: Tensor) -> None:
        super().__init__()
        self.visits = visits
        width, size = visits.text.out_features, class_vectors.shape[1]
        self.project = nn.Linear(width, size, bias=False)
        # Zero, so that an untrained model predicts popularity: its loss is the one to beat.
        nn.init.zeros_(self.project.weight)
        self.popularity = nn.Parameter(popularity.clone())
        self.hidden = nn.Parameter(torch.zeros(width))
        self.register_buffer("class_vectors", class_vectors)

    def forward(self, rows: Rows, objective: Objective, generator: torch.Generator) -> Tensor:
        """Mean cross-entropy of the targets' contents over all visits of a batch; scalar.

        Args:
            rows: Windows of histories.
            objective: causal or masked.
            generator: Of hidden visits and anchors.
        """
        select = self._next if objective == "causal" else self._hidden
        states, contents, is_target = select(rows, generator)
        scores = self.project(states) @ self.class_vectors.T + self.popularity  # [B, P, C]
        count = contents.sum(-1)
        each = -(torch.log_softmax(scores, -1) * contents).sum(-1) / count.clamp(min=1)
        is_target = is_target & (count > 0)
        # A mean over the batch: nothing here is private, so customers need no loss of their own.
        mean: Tensor = (each * is_target).sum() / is_target.sum().clamp(min=1)
        return mean

    def _next(self, rows: Rows, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """States before visits, the visits' contents, and a mask of the visits that exist."""
        batch, steps, classes = rows.contents.shape
        if self.visits.both_ways:
            at = torch.rand(batch, _READINGS, generator=generator)
            anchors = (at * (rows.lengths - 1).clamp(min=1).unsqueeze(1)).long()
        else:
            anchors = torch.arange(max(steps - 1, 1)).expand(batch, -1)
        states = self.visits(rows.vectors, rows.facts, anchors)
        is_target = anchors + 1 < rows.lengths.unsqueeze(1)
        index = (anchors + 1).clamp(max=steps - 1).unsqueeze(-1).expand(-1, -1, classes)
        return states, rows.contents.gather(1, index), is_target

    def _hidden(self, rows: Rows, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """States at all visits, their contents, and a mask of the hidden ones."""
        batch, steps, _ = rows.contents.shape
        there = torch.arange(steps) < rows.lengths.unsqueeze(1)  # [B, T]
        hide = (torch.rand(batch, steps, generator=generator) < _MASKED) & there
        tokens = self.visits.tokens(rows.vectors, rows.facts)
        tokens = torch.where(hide.unsqueeze(-1), self.hidden, tokens)
        last = (rows.lengths - 1).unsqueeze(1) if self.visits.both_ways else None
        return self.visits.read(tokens, last), rows.contents, hide
