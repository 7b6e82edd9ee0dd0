"""What is learnt without labels: the contents of visits that the transformer has not seen.

- causal: from each visit on, what the next one holds;
- masked: some visits are hidden, and what they held is to be told from the others (a GPT-2
  still sees only those before).

Contents are classes of items, told by their texts: the state is turned into a text vector,
and scored against the vector of every class beside how common it is. Popularity is learnt
apart, and thrown away.
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
"""Of a row, where the transformer looks both ways and each anchor costs a pass."""


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
    """Cut a window of at most `steps` visits out of each history, anywhere in it."""
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
    """A transformer over visits, and what it says of the contents of one that is hidden.

    Args:
        visits: What is to be kept.
        class_vectors: [C, vector_size] texts of the classes.
        popularity: [C] logarithm of each class's share, to start from.
    """

    class_vectors: Tensor

    def __init__(self, visits: VisitEncoder, class_vectors: Tensor, popularity: Tensor) -> None:
        super().__init__()
        self.visits = visits
        width, size = visits.text.out_features, class_vectors.shape[1]
        self.say = nn.Linear(width, size, bias=False)
        nn.init.zeros_(self.say.weight)  # It knows popularity alone until it is trained.
        self.popularity = nn.Parameter(popularity.clone())
        self.hidden = nn.Parameter(torch.zeros(width))
        self.register_buffer("class_vectors", class_vectors)

    def forward(self, rows: Rows, objective: Objective, generator: torch.Generator) -> Tensor:
        """Mean cross-entropy of the contents asked for, each row one mean; scalar.

        Args:
            rows: Histories.
            objective: What is asked.
            generator: Of what is hidden.
        """
        ask = self._next if objective == "causal" else self._hidden
        states, wanted, asked = ask(rows, generator)
        scores = self.say(states) @ self.class_vectors.T + self.popularity  # [B, P, C]
        count = wanted.sum(-1)
        each = -(torch.log_softmax(scores, -1) * wanted).sum(-1) / count.clamp(min=1)
        asked = asked & (count > 0)
        found: Tensor = (each * asked).sum() / asked.sum().clamp(min=1)
        return found

    def _next(self, rows: Rows, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """States before some visits, their contents, and which of them exist."""
        batch, steps, classes = rows.contents.shape
        if self.visits.both_ways:
            at = torch.rand(batch, _READINGS, generator=generator)
            anchors = (at * (rows.lengths - 1).clamp(min=1).unsqueeze(1)).long()
        else:
            anchors = torch.arange(max(steps - 1, 1)).expand(batch, -1)
        states = self.visits(rows.vectors, rows.facts, anchors)
        asked = anchors + 1 < rows.lengths.unsqueeze(1)
        index = (anchors + 1).clamp(max=steps - 1).unsqueeze(-1).expand(-1, -1, classes)
        return states, rows.contents.gather(1, index), asked

    def _hidden(self, rows: Rows, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """States at hidden visits, their contents, and which visits are hidden."""
        batch, steps, _ = rows.contents.shape
        there = torch.arange(steps) < rows.lengths.unsqueeze(1)  # [B, T]
        hide = (torch.rand(batch, steps, generator=generator) < _MASKED) & there
        tokens = self.visits.tokens(rows.vectors, rows.facts)
        tokens = torch.where(hide.unsqueeze(-1), self.hidden, tokens)
        last = (rows.lengths - 1).unsqueeze(1) if self.visits.both_ways else None
        return self.visits.read(tokens, last), rows.contents, hide
