"""The review model: what a text says of a purchase, as stars or as praise and complaint.

- a public text encoder (MiniLM, or any BERT-family checkpoint), mean over its tokens
- one linear head over the labels, which starts at zero: every label equally likely
- what is trained: the head, the last layers, LoRA factors or adapters beside them, or all
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, BertConfig, BertModel, PretrainedConfig, PreTrainedModel

from hanse_client.model.adapters import adapt, is_adaptation, layers_of, start_adaptation
from hanse_client.model.item_texts import reading_encoder
from hanse_common.errors import ConfigError
from hanse_common.trainable import OFFERED, Trainable

_FAMILY = "bert"


class ReviewConfig(PretrainedConfig):
    """Shape of a `ReviewModel`, saved beside its weights.

    Args:
        labels: What a review can be, in order; numbers where they are stars.
        encoder: Configuration of the text encoder.
        adaptation: Parameters beside its own that it is made with: `lora:R` or `adapters:R`.
    """

    model_type = "hanse-review"

    def __init__(
        self,
        *,
        labels: Sequence[str] = (),
        encoder: Mapping[str, Any] | None = None,
        adaptation: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.labels = list(labels)
        self.encoder = dict(encoder or {})
        self.adaptation = adaptation
        super().__init__(**kwargs)


class ReviewModel(PreTrainedModel):
    """Says of a text which label it has."""

    config: ReviewConfig
    config_class = ReviewConfig
    base_model_prefix = "hanse"

    def __init__(self, config: ReviewConfig) -> None:
        super().__init__(config)
        shape = BertConfig.from_dict(config.encoder)
        self.encoder = BertModel(shape, add_pooling_layer=False)
        self.width = int(shape.hidden_size)
        if config.adaptation is not None:
            adapt(self.encoder, _FAMILY, width=self.width, adaptation=config.adaptation)
        self.head = nn.Linear(self.width, len(config.labels))
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: `fresh` does, and what is read from a file stays as it is."""

    @classmethod
    def fresh(
        cls, labels: Sequence[str], *, encoder: str, trainable: str, seed: int
    ) -> ReviewModel:
        """A model that has read what its encoder has, and no review yet.

        Args:
            labels: What a review can be.
            encoder: As `hanse_client.model.item_texts` finds it.
            trainable: What will be trained, as `hanse_common.trainable` reads it.
            seed: Of the random half of LoRA factors or adapters.

        Raises:
            ConfigError: There is no such encoder, it is of another family than BERT's, or it
                has not what is to be trained.
        """
        chosen = Trainable.parse(trainable)
        with reading_encoder(encoder) as source:
            public = AutoModel.from_pretrained(source, add_pooling_layer=False)
        if public.config.model_type != _FAMILY:
            raise ConfigError(
                f"the encoder {encoder!r} is of family {public.config.model_type!r}",
                hint="reviews are read by BERT-family checkpoints, as MiniLM is",
            )
        shape = public.config.to_dict() | {
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        }
        chosen.check(layers=shape["num_hidden_layers"], width=shape["hidden_size"])
        plain = cls(ReviewConfig(labels=labels, encoder=shape))
        plain.encoder.load_state_dict(public.state_dict())
        with torch.no_grad():
            plain.head.weight.zero_()
            plain.head.bias.zero_()
        if chosen.adaptation is None:
            return plain
        plain.config.adaptation = chosen.adaptation
        adapt(plain.encoder, _FAMILY, width=plain.width, adaptation=chosen.adaptation)
        start_adaptation(plain.encoder, seed=seed)
        return plain

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Judge texts.

        Args:
            tokens: [B, T] token ids, padded on the right.
            mask: [B, T] 1 where there is a token.

        Returns:
            [B, labels] unnormalised log-probabilities.
        """
        # A row each: what a batch shared would have no gradient per customer.
        positions = torch.arange(tokens.shape[1]).expand_as(tokens).contiguous()
        states = self.encoder(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            token_type_ids=torch.zeros_like(tokens),
        ).last_hidden_state
        weights = mask.unsqueeze(-1).to(states.dtype)
        mean = (states * weights).sum(1) / weights.sum(1)
        scores: Tensor = self.head(nn.functional.normalize(mean, dim=-1) * self.width**0.5)
        return scores

    def train_only(self, part: str) -> Sequence[str]:
        """Freeze the rest; returns the names of the trained parameters, sorted.

        Args:
            part: As `hanse_common.trainable` reads it; `rules` are the interest model's.

        Raises:
            ConfigError: It is no such word, or the model was not made for it.
        """
        chosen = Trainable.parse(part)
        if chosen.kind == "rules" or chosen.adaptation not in (None, self.config.adaptation):
            raise ConfigError(
                f"model.trainable={part!r}, and this review model was made with "
                f"{self.config.adaptation or 'no adaptation'}",
                hint=f"of {OFFERED}, take what it was made for",
            )
        last = layers_of(self.encoder, _FAMILY)[-chosen.size :] if chosen.kind == "top" else []
        top = {id(p) for layer in last for p in layer.parameters()}
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(
                name.startswith("head.")
                or chosen.kind == "all"
                or id(parameter) in top
                or (chosen.adaptation is not None and is_adaptation(f".{name}"))
            )
        return sorted(name for name, p in self.named_parameters() if p.requires_grad)


def load_review_model(folder: Path) -> ReviewModel:
    """Read a review model, as `save_pretrained` wrote it."""
    model: ReviewModel = ReviewModel.from_pretrained(folder)
    return model
