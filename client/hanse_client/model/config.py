"""The configurations of the models, saved beside their weights as `config.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from transformers import PretrainedConfig


class InterestConfig(PretrainedConfig):
    """Shape of an `InterestModel` and the public vocabulary that it speaks.

    Args:
        classes: What the heads predict: category paths, type paths or item ids. Public,
            and the same for every store of a federation.
        level: Which of the three they are.
        vector_size: Width of the frozen text encoder's vectors.
        class_vector_size: Width of a class's vector: leading principal components of the
            vocabulary's text vectors.
        windows: Days looked back over when a customer's visits with a class are counted.
        half_lives: Half-lives, in days, of the decayed counts.
        reference_days: The customer's own rate is read over these last days.
        horizon_days: The outlook covers these next days.
        horizons: Ends, in days, of the times ahead for which visits are expected; rising, the
            last at most `horizon_days`.
        min_visits: A customer has an interest in a class, and so an outlook on it, from
            this many visits with it during the reference days.
        max_steps: Most recent visits that the transformer sees.
        backbone: Family of the transformer: `gpt2` reads forwards, `bert` both ways.
        backbone_options: More of its `transformers` configuration, as a checkpoint had it.
        adaptation: Parameters beside its own that it is made with: `lora:R` or `adapters:R`.
    """

    model_type = "hanse-interest"

    def __init__(
        self,
        *,
        classes: Sequence[str] = (),
        level: str = "category",
        vector_size: int = 384,
        class_vector_size: int = 16,
        visit_facts: int = 11,
        n_layer: int = 2,
        n_head: int = 4,
        n_embd: int = 64,
        hidden_size: int = 24,
        max_steps: int = 96,
        windows: Sequence[float] = (7.0, 14.0, 28.0, 56.0, 84.0, 3650.0),
        half_lives: Sequence[float] = (30.0, 60.0, 180.0),
        reference_days: float = 84.0,
        horizon_days: float = 28.0,
        horizons: Sequence[float] = (7.0, 14.0, 28.0),
        min_visits: int = 3,
        backbone: Literal["gpt2", "bert"] = "gpt2",
        backbone_options: Mapping[str, Any] | None = None,
        adaptation: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.classes = list(classes)
        self.level = level
        self.vector_size = vector_size
        self.class_vector_size = min(class_vector_size, max(len(self.classes) - 1, 1), vector_size)
        self.visit_facts = visit_facts
        self.n_layer = n_layer
        self.n_head = n_head
        self.n_embd = n_embd
        self.hidden_size = hidden_size
        self.max_steps = max_steps
        self.windows = list(windows)
        self.half_lives = list(half_lives)
        self.reference_days = reference_days
        self.horizon_days = horizon_days
        self.horizons = list(horizons)
        self.min_visits = min_visits
        self.backbone = backbone
        self.backbone_options = dict(backbone_options or {})
        self.adaptation = adaptation
        super().__init__(**kwargs)

    @property
    def reference_window(self) -> int:
        """Index into `windows` of the reference days."""
        return self.windows.index(self.reference_days)


class SequenceConfig(PretrainedConfig):
    """Shape of a `SequenceModel`: next item by item ids alone.

    Args:
        items: How many items there are; ids run from 0.
        max_steps: Most recent items that the transformer sees.
        dropout: Of input vectors and states, where training is not private.
    """

    model_type = "hanse-sequence"

    def __init__(
        self,
        *,
        items: int = 2,
        n_layer: int = 1,
        n_head: int = 2,
        n_embd: int = 64,
        max_steps: int = 50,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        self.items = items
        self.n_layer = n_layer
        self.n_head = n_head
        self.n_embd = n_embd
        self.max_steps = max_steps
        self.dropout = dropout
        super().__init__(**kwargs)


class ConversionConfig(PretrainedConfig):
    """Shape of a `ConversionModel`.

    Args:
        features: What is known of an offer, by name; the first is how far the logit of the
            customer's prior rate is from that of the usual one.
        usual_rate: What a customer of whom nothing is known is taken to redeem.
    """

    model_type = "hanse-conversion"

    def __init__(
        self, *, features: Sequence[str] = (), usual_rate: float = 0.05, **kwargs: Any
    ) -> None:
        self.features = list(features)
        self.usual_rate = usual_rate
        super().__init__(**kwargs)
