"""The text model: predicts the next item from public vectors, amended by private releases.

- public: whitened vectors of the items' texts; the last item's nearest ones come first
- phase `popularity`: noisy sums of what customers took
- a gradient phase: a linear head from the last item and the earlier ones to the next
- phase `pairs`: noisy counts of items taken within two steps

The score of item j after the items ..., i', i:

    8 <V_i, V_j> + <A phi, Z_j> + log p_j + b(i, j) + b(i', j) / 2

with V the public vectors, Z their first 128 principal components, phi = (Z_i, half the decayed
sum over earlier items of the first 64), A the head, p the popularity and b the pairs' bonuses.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from hanse_client.features.ragged import Ints
from hanse_client.model.config import TextItemConfig
from hanse_client.tasks.contributions import Contributions
from hanse_client.tasks.next_item import pairs, popularity
from hanse_client.tasks.next_item.features import Sequences
from hanse_client.tasks.next_item.item_vectors import ItemVectors
from hanse_client.tasks.next_item.model import NOTHING, padded

_SECOND = 0.5
"""Weight of the bonuses of the item before the last."""
_NEVER = -1e9
"""The logit of a candidate that is the target itself. Finite: if all candidates are, the
gradient of minus infinity is not a number."""
T = TypeVar("T")


class TextItemModel(PreTrainedModel):
    """Scores all items as the next one after each item of a history.

    Example:
        >>> rows = np.eye(3, dtype=np.float32)
        >>> model = TextItemModel.fresh(ItemVectors(vectors=rows, components=rows, coarse=rows))
        >>> model.next_scores([np.array([2, 0])]).round().tolist()
        [[7.0, -1.0, -1.0]]
    """

    config: TextItemConfig
    config_class = TextItemConfig
    base_model_prefix = "hanse"

    vectors: Tensor
    components: Tensor
    coarse: Tensor
    alike: Tensor

    def __init__(self, config: TextItemConfig) -> None:
        super().__init__(config)
        items, width = config.items, config.components
        self.register_buffer("vectors", torch.zeros(items, config.vector_size))
        self.register_buffer("components", torch.zeros(items, width))
        self.register_buffer("coarse", torch.zeros(items, config.coarse))
        self.register_buffer("alike", torch.arange(items))  # the first item with the same vectors
        self.head = nn.Linear(width + config.coarse, width, bias=False)
        self.released = nn.ParameterDict(
            {
                # The last number is the noise's standard deviation in each of the others.
                name: nn.Parameter(torch.zeros(length + 1), requires_grad=False)
                for name, length in releases(config).items()
            }
        )
        self._bonuses: pairs.PairBonuses | None = None
        self._log_popularity: Tensor | None = None
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: `fresh` sets new weights, and weights of a file stay as they are."""

    @classmethod
    def fresh(
        cls,
        vectors: ItemVectors,
        *,
        max_steps: int = 20,
        partners: int = 100,
        item_ids: Sequence[str] = (),
    ) -> TextItemModel:
        """An untrained model, which ranks by public vectors alone.

        Args:
            vectors: Of the public list of items.
            max_steps: Number of latest items that are read.
            partners: Number of partners of each item in the graph of likely pairs.
            item_ids: Ids of the items in the catalogue, for a deployment's stores.
        """
        items = len(vectors.vectors)
        config = TextItemConfig(
            items=items,
            item_ids=item_ids,
            vector_size=vectors.vectors.shape[1],
            components=vectors.components.shape[1],
            coarse=vectors.coarse.shape[1],
            max_steps=max_steps,
            partners=partners,
        )
        model = cls(config)
        with torch.no_grad():
            nn.init.zeros_(model.head.weight)
            model.vectors.copy_(torch.from_numpy(vectors.vectors))
            model.components.copy_(torch.from_numpy(vectors.components))
            model.coarse.copy_(torch.from_numpy(vectors.coarse))
            model.alike.copy_(torch.from_numpy(_first_alike(vectors.vectors)))
        return model

    def train_only(self, part: str) -> Sequence[str]:
        """Make the head trainable, whatever part is named; the only one that gradients train."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith("head."))
        return ["head.weight"]

    def absorb(self) -> None:
        """Forget what was derived from arrays that were loaded before."""
        self._log_popularity, self._bonuses = None, None

    def log_popularity(self) -> npt.NDArray[np.float64]:
        """Logarithms of the items' shares [items]; uniform before the release."""
        sums = _doubles(self.released[popularity.PHASE])
        return _memo(popularity.log_popularity, sums[:-1], float(sums[-1]))

    def likely_pairs(self) -> Ints:
        """The cells of the phase `pairs` under the current head: see `pairs.likely_pairs`."""
        return _memo(
            _likely_pairs,
            _doubles(self.vectors),
            _doubles(self.components),
            self.head.weight.detach().numpy()[:, : self.config.components],
            self.log_popularity(),
            self.config.closeness,
            self.config.partners,
        )

    def contributions(self, phase: str, data: Sequences) -> Contributions:
        """What each customer of training data adds to a phase's sum.

        Guarantees:
            See `popularity.contributions` and `pairs.contributions`.
        """
        if phase == popularity.PHASE:
            return popularity.contributions(data)
        return pairs.contributions(data, self.likely_pairs(), self.config.cells)

    def draw_candidates(self, count: int, rng: np.random.Generator) -> Ints:
        """Draw items by their released popularity, ascending; one may occur twice."""
        shares = np.cumsum(np.exp(self.log_popularity()))
        places = np.searchsorted(shares, rng.random(count) * shares[-1])
        return np.sort(np.minimum(places, self.config.items - 1))

    def sampled_losses(
        self,
        inputs: Tensor,
        targets: Tensor,
        candidates: Tensor,
        *,
        noise: torch.Generator | None = None,
        apart: bool = False,
    ) -> Tensor:
        """Each customer's sampled-softmax loss over texts, with candidates that all share.

        Items of the same text are one target together: the head cannot tell them apart.

        Args:
            inputs: [B, T] item ids.
            targets: [B, T] the next item of each, or `NOTHING`.
            candidates: [B, K] of `draw_candidates`, each row the same.
            noise: Not used: there is no dropout.
            apart: Not used: no table is trained.

        Returns:
            [B] cross-entropy summed over the customer's targets; 0 without any.
        """
        next_items, drawn = targets.clamp(min=0), candidates[0]
        query = self.config.closeness * self.vectors[inputs]  # [B, T, D]
        answers = self.head(self._head_inputs(inputs))  # [B, T, C]
        # Candidates were drawn by popularity, which cancels the logarithm of it in their scores.
        others = query @ self.vectors[drawn].T + answers @ self.components[drawn].T
        others = others - math.log(len(drawn))
        is_target = self.alike[drawn] == self.alike[next_items].unsqueeze(-1)  # [B, T, K]
        others = others.masked_fill(is_target, _NEVER)
        own = (query * self.vectors[next_items]).sum(-1)
        own = own + (answers * self.components[next_items]).sum(-1)
        own = own + self._log_text_popularity()[next_items]
        losses = torch.logaddexp(torch.logsumexp(others, -1), own) - own
        total: Tensor = (losses * (targets != NOTHING)).sum(1)
        return total

    @torch.inference_mode()
    def next_scores(self, past: Sequence[npt.NDArray[np.int32]]) -> npt.NDArray[np.float32]:
        """Scores of all items [n, items] as the next one of n histories, each of some items."""
        recent = [one[-self.config.max_steps :] for one in past]
        rows = torch.arange(len(past))
        end = torch.tensor([len(one) - 1 for one in recent])
        inputs = padded(recent, 0)
        last = inputs[rows, end]
        answers = self.head(self._head_inputs(inputs)[rows, end])
        scores: Tensor = self.config.closeness * (self.vectors[last] @ self.vectors.T)
        scores += answers @ self.components.T
        if self._log_popularity is None:
            self._log_popularity = torch.from_numpy(self.log_popularity()).float()
        scores += self._log_popularity
        table = scores.numpy()
        bonuses = self._pair_bonuses()
        if bonuses is not None:
            second = np.array([one[-2] if len(one) > 1 else -1 for one in recent], np.int64)
            bonuses.add_to(table, last.numpy())
            bonuses.add_to(table, second, _SECOND)
        return table

    def _head_inputs(self, inputs: Tensor) -> Tensor:
        """What the head reads at each position [B, T, C + S]: the item, and those before it."""
        ages = torch.arange(inputs.shape[1])
        ages = ages[:, None] - ages - 1  # of position s seen from t: 0 for the one before
        decays = torch.where(ages >= 0, self.config.decay ** ages.clamp(min=0).float(), 0.0)
        return torch.cat([self.components[inputs], 0.5 * (decays @ self.coarse[inputs])], dim=-1)

    def _log_text_popularity(self) -> Tensor:
        """Logarithms [items] of the share of all items with the same text."""
        shares = torch.from_numpy(np.exp(self.log_popularity())).float()
        by_text = torch.zeros_like(shares).index_add_(0, self.alike, shares)
        return by_text[self.alike].log()

    def _pair_bonuses(self) -> pairs.PairBonuses | None:
        if self._bonuses is None and bool(self.released[pairs.PHASE].any()):
            sums = _doubles(self.released[pairs.PHASE])
            self._bonuses = _memo(
                pairs.pair_bonuses,
                sums[:-1],
                float(sums[-1]),
                self.likely_pairs(),
                self.log_popularity(),
                self.vectors.numpy(),
            )
        return self._bonuses


def releases(config: TextItemConfig) -> dict[str, int]:
    """Length of the vector of each phase of statistics, in the order of the phases."""
    return {popularity.PHASE: config.items, pairs.PHASE: config.cells}


def _likely_pairs(
    vectors: npt.NDArray[np.float64],
    components: npt.NDArray[np.float64],
    head: npt.NDArray[np.float32],
    log_popularity: npt.NDArray[np.float64],
    closeness: float,
    partners: int,
) -> Ints:
    answers = pairs.rounded_queries(head, components)
    return pairs.likely_pairs(
        (closeness * vectors, answers), (vectors, components), log_popularity, partners=partners
    )


def _first_alike(vectors: npt.NDArray[np.float32]) -> Ints:
    """[n] the first item with the same vector; an item without a vector is like itself only."""
    _, first, where = np.unique(vectors, axis=0, return_index=True, return_inverse=True)
    known = vectors.any(axis=1)
    return np.where(known, first[where.ravel()], np.arange(len(vectors)))


def _doubles(tensor: Tensor) -> npt.NDArray[np.float64]:
    return tensor.detach().numpy().astype(np.float64)


_RESULTS: dict[Callable[..., Any], tuple[bytes, Any]] = {}


def _memo(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function, or return its last result if the arguments are the same.

    A simulation's worker derives the graph for dozens of stores from the same model.
    """
    digest = hashlib.blake2b()
    for argument in arguments:
        digest.update(np.ascontiguousarray(argument).data)
    key = digest.digest()
    if _RESULTS.get(function, (b"",))[0] != key:
        _RESULTS[function] = (key, function(*arguments))
    result: T = _RESULTS[function][1]
    return result


# A second import under another name, as by a tool that collects doctests, is no error.
AutoConfig.register(TextItemConfig.model_type, TextItemConfig, exist_ok=True)
AutoModel.register(TextItemConfig, TextItemModel, exist_ok=True)
