"""The review model: a text classifier for stars or sentiment.

- a public text encoder (MiniLM, or any BERT-family checkpoint) with mean pooling
- a linear head over the labels that starts at zero, so that all labels are equally likely
- optionally a second linear reader, which is computed from released sums (`statistics`)
- trainable: the head, and optionally the last layers, LoRA factors, adapters, or all
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    PretrainedConfig,
    PreTrainedModel,
)

from hanse_client.model.adapters import adapt, is_adaptation, layers_of, start_adaptation
from hanse_client.model.item_texts import MAX_UNKNOWN, reading_encoder
from hanse_client.tasks.review.opinions import made_up_opinions
from hanse_client.tasks.review.reader import OneShotReader
from hanse_client.tasks.review.statistics import TextSpace
from hanse_common.errors import ConfigError, DataError
from hanse_common.phases import is_released
from hanse_common.trainable import OFFERED, Trainable

_FAMILY = "bert"
_OPINIONS, _OPINIONS_SEED, _ROWS = 1000, 7, 50
"""Number of made-up opinions, their seed, and how many are read at once. 500 and 3,000 of them
gave the same accuracy."""


class ReviewConfig(PretrainedConfig):
    """The shape of a `ReviewModel`, saved with its weights.

    Args:
        labels: The names of the labels, in order; numbers for stars.
        encoder: Configuration of the text encoder.
        adaptation: Adapters that the model has: `lora:R` or `adapters:R`; None for none.
        statistics: Whether the model has the reader that is computed from released sums.
    """

    model_type = "hanse-review"

    def __init__(
        self,
        *,
        labels: Sequence[str] = (),
        encoder: Mapping[str, Any] | None = None,
        adaptation: str | None = None,
        statistics: bool = False,
        **kwargs: Any,
    ) -> None:
        self.labels = list(labels)
        self.encoder = dict(encoder or {})
        self.adaptation = adaptation
        self.statistics = statistics
        super().__init__(**kwargs)


class ReviewModel(PreTrainedModel):
    """Classifies texts by label."""

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
        self.reader = OneShotReader(len(config.labels), self.width) if config.statistics else None
        self.released = nn.ParameterDict(self.reader.sums() if self.reader else {})
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: `fresh` sets new weights, and weights of a file stay as they are."""

    @classmethod
    def fresh(
        cls,
        labels: Sequence[str],
        *,
        encoder: str,
        trainable: str,
        seed: int,
        statistics: bool = False,
    ) -> ReviewModel:
        """A model with a pre-trained encoder and an untrained head.

        Args:
            labels: The names of the labels.
            encoder: A text encoder, as in `hanse_client.model.item_texts`.
            trainable: The part that will be trained, as in `hanse_common.trainable`.
            seed: Of the random half of LoRA factors or adapters.
            statistics: Whether the model reads released sums; its public constants come from
                the encoder's states of made-up opinions, which are the same for every seed.

        Raises:
            ConfigError: There is no such encoder, it is not of the BERT family, or it lacks
                the layers to be trained.
            DataError [unreadable-texts]: With `statistics`, it does not know the opinions' words.
        """
        chosen = Trainable.parse(trainable)
        with reading_encoder(encoder) as source:
            public = AutoModel.from_pretrained(source, add_pooling_layer=False)
        if public.config.model_type != _FAMILY:
            raise ConfigError(
                f"the encoder {encoder!r} is of family {public.config.model_type!r}",
                hint="reviews need a BERT-family checkpoint, such as MiniLM",
            )
        # No dropout: its masks would make a loss depend on the row's place in the batch.
        shape = public.config.to_dict() | {
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        }
        chosen.check(layers=shape["num_hidden_layers"], width=shape["hidden_size"])
        plain = cls(ReviewConfig(labels=labels, encoder=shape, statistics=statistics))
        plain.encoder.load_state_dict(public.state_dict())
        with torch.no_grad():
            plain.head.weight.zero_()
            plain.head.bias.zero_()
        if plain.reader is not None:
            plain.reader.start(plain._opinion_space(source))
        if chosen.adaptation is None:
            return plain
        plain.config.adaptation = chosen.adaptation
        adapt(plain.encoder, _FAMILY, width=plain.width, adaptation=chosen.adaptation)
        start_adaptation(plain.encoder, seed=seed)
        return plain

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Classify texts.

        Args:
            tokens: [B, T] token ids, padded on the right.
            mask: [B, T] 1 where there is a token.

        Returns:
            [B, labels] unnormalised log-probabilities.
        """
        states = self.states(tokens, mask)
        # Times the root of the width: coordinates of about unit size for the head.
        scores: Tensor = self.head(states * self.width**0.5)
        return scores if self.reader is None else scores + self.reader(states)

    def states(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """The encoder's mean states of texts, as unit vectors [B, D].

        Args:
            tokens: [B, T] token ids, padded on the right.
            mask: [B, T] 1 where there is a token.
        """
        # One row of positions a customer: a [1, T] that the batch shares would give the position
        # table one gradient for all customers.
        positions = torch.arange(tokens.shape[1]).expand_as(tokens).contiguous()
        states = self.encoder(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            token_type_ids=torch.zeros_like(tokens),
        ).last_hidden_state
        weights = mask.unsqueeze(-1).to(states.dtype)
        return nn.functional.normalize((states * weights).sum(1) / weights.sum(1), dim=-1)

    def absorb(self) -> None:
        """Compute the reader from the sums that were released so far."""
        if self.reader is not None:
            self.reader.absorb(self.released)

    def _opinion_space(self, source: str) -> TextSpace:
        """Public constants of the encoder whose tokenizer lies in `source`.

        Raises:
            DataError [unreadable-texts]: It does not know the opinions' words.
        """
        tokenizer = AutoTokenizer.from_pretrained(source)
        texts, praise = made_up_opinions(_OPINIONS, seed=_OPINIONS_SEED)
        longest = self.encoder.config.max_position_embeddings
        read = tokenizer(
            texts, padding=True, truncation=True, max_length=longest, return_tensors="pt"
        )
        # A tokenizer of bytes has no such token, and knows all words.
        nothing = -1 if tokenizer.unk_token_id is None else tokenizer.unk_token_id
        unknown = (read["input_ids"] == nothing).sum()
        if unknown > MAX_UNKNOWN * read["attention_mask"].sum():
            raise DataError(
                f"the encoder's tokenizer in {source!r} does not know the words of the made-up "
                "opinions, which are English, and sums of statistics rest on its states of them",
                code="unreadable-texts",
                hint="set model.encoder to a multilingual one, or take the recipe "
                "reviews-gradient, which needs no opinions",
            )
        self.train(False)
        with torch.inference_mode():
            parts = zip(
                read["input_ids"].split(_ROWS), read["attention_mask"].split(_ROWS), strict=True
            )
            states = torch.cat([self.states(tokens, mask) for tokens, mask in parts])
        return TextSpace.of(states.double().numpy(), praise)

    def train_only(self, part: str) -> Sequence[str]:
        """Make a part trainable and freeze the rest; returns the sorted names of the part.

        Args:
            part: As in `hanse_common.trainable`; `rules` exist in the interest model only.

        Raises:
            ConfigError: The part is unknown, or the model was made without it.
        """
        chosen = Trainable.parse(part)
        if chosen.kind == "rules" or chosen.adaptation not in (None, self.config.adaptation):
            raise ConfigError(
                f"model.trainable={part!r}, but this review model was made with "
                f"{self.config.adaptation or 'no adaptation'}",
                hint=f"use the one of {OFFERED} that it was made for",
            )
        last = layers_of(self.encoder, _FAMILY)[-chosen.size :] if chosen.kind == "top" else []
        top = {id(p) for layer in last for p in layer.parameters()}
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(
                not is_released(name)
                and (
                    name.startswith("head.")
                    or chosen.kind == "all"
                    or id(parameter) in top
                    or (chosen.adaptation is not None and is_adaptation(f".{name}"))
                )
            )
        return sorted(name for name, p in self.named_parameters() if p.requires_grad)


def load_review_model(folder: Path) -> ReviewModel:
    """Read a review model that `save_pretrained` wrote."""
    model: ReviewModel = ReviewModel.from_pretrained(folder)
    return model


# A second import under another name, as by a tool that collects doctests, is no error.
AutoConfig.register(ReviewConfig.model_type, ReviewConfig, exist_ok=True)
AutoModel.register(ReviewConfig, ReviewModel, exist_ok=True)
