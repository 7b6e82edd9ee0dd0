"""The configurations of the models, saved with their weights as `config.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from transformers import PretrainedConfig

_MOST_LAYERS, _MOST_WEIGHTS = 96, 1 << 27
"""Of a backbone: beyond what a store trains, building one would take hours and all memory."""


def _check_backbone(layers: object, width: object, inner: object) -> None:
    """Refuse sizes with which building a model would not end.

    Raises:
        ValueError: A size is no positive whole number, or the backbone is too large.
    """
    sizes = (layers, width, inner)
    if not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes):
        raise ValueError("n_layer, n_embd and intermediate_size are whole numbers from 1 on")
    depth, wide, hidden = (int(str(size)) for size in sizes)
    if depth > _MOST_LAYERS or depth * wide * (4 * wide + 2 * hidden) > _MOST_WEIGHTS:
        raise ValueError(
            f"{depth} layers of width {wide} with {hidden} inside are too large: at most "
            f"{_MOST_LAYERS} layers and {_MOST_WEIGHTS:,} weights"
        )


class InterestConfig(PretrainedConfig):
    """The shape of an `InterestModel`, and its public vocabulary.

    Args:
        kind: What the outlook rests on. `categories`: a transformer over category tokens,
            pre-trained without data of customers, and a linear head; `visits`: a transformer
            over visits, and rules.
        category: Settings of the `CategoryConfig` of the first kind's transformer.
        classes: The classes that the heads predict: category paths, type paths or item ids.
            Public, and the same for every store of a federation.
        level: Which of the three they are: category, type or product.
        vector_size: Width of an item's vector: the frozen text encoder's, and the catalogue's own.
        own_vector_size: Width of the latter, which comes last; 0 without a column `vector`.
        class_vector_size: Width of a class's vector: leading principal components of the
            vocabulary's text vectors.
        windows: Lengths, in days, of the windows in which a customer's visits are counted.
        half_lives: Half-lives, in days, of the decayed counts.
        reference_days: Days before an anchor over which the customer's usual rate is taken.
        horizon_days: Days after an anchor that the outlook covers.
        horizons: Ends, in days, of the horizons of expected visits; ascending, the last at
            most `horizon_days`.
        min_visits: Visits with a class during the reference days from which a customer has an
            interest in it, and so an outlook.
        max_steps: Number of latest visits that the transformer reads.
        backbone: Family of the transformer: `gpt2` is causal, `bert` bidirectional.
        backbone_options: Further settings of its `transformers` configuration, from a
            checkpoint.
        adaptation: Adapters that the model has: `lora:R` or `adapters:R`; None for none.
    """

    model_type = "hanse-interest"

    def __init__(
        self,
        *,
        kind: Literal["visits", "categories"] = "visits",
        category: Mapping[str, Any] | None = None,
        classes: Sequence[str] = (),
        level: str = "category",
        vector_size: int = 384,
        own_vector_size: int = 0,
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
        _check_backbone(n_layer, n_embd, dict(backbone_options or {}).get("n_inner") or 4 * n_embd)
        self.kind = kind
        self.category = dict(category or {})
        self.classes = list(classes)
        self.level = level
        self.vector_size = vector_size
        self.own_vector_size = own_vector_size
        # The vocabulary's centred vectors span at most one dimension fewer than it has classes.
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
        """The index of `reference_days` in `windows`."""
        return self.windows.index(self.reference_days)


class CategoryConfig(PretrainedConfig):
    """The shape of a `CategoryModel`.

    Args:
        inputs: Number of inputs of a category token.
        class_priors: Number of further inputs that describe its class alone.
        class_vector_size: Width of a class's text vector.
        n_embd: Width of the transformer.
        intermediate_size: Width of the hidden layer of its MLPs.
        visit_counts: Numbers of visits that are told apart, from 0; the last stands for more.
        dropout: Rate in non-private training.
    """

    model_type = "hanse-category"

    def __init__(
        self,
        *,
        inputs: int = 40,
        class_priors: int = 2,
        class_vector_size: int = 16,
        n_layer: int = 2,
        n_head: int = 4,
        n_embd: int = 48,
        intermediate_size: int = 96,
        visit_counts: int = 24,
        dropout: float = 0.1,
        **kwargs: Any,
    ) -> None:
        _check_backbone(n_layer, n_embd, intermediate_size)
        self.inputs = inputs
        self.class_priors = class_priors
        self.class_vector_size = class_vector_size
        self.n_layer = n_layer
        self.n_head = n_head
        self.n_embd = n_embd
        self.intermediate_size = intermediate_size
        self.visit_counts = visit_counts
        self.dropout = dropout
        super().__init__(**kwargs)


class SequenceConfig(PretrainedConfig):
    """The shape of a `SequenceModel`.

    Args:
        items: Number of items, numbered from 0.
        item_ids: Their ids in the catalogue, in that order; a simulation's model has none.
        max_steps: Number of latest items that the transformer reads.
        dropout: Rate on input vectors, on what each layer adds and on states, in non-private
            training.
        item_dropout: Rate of items that are hidden from the input, likewise.
        score_temperature: Divisor of the cosines that are an item's score; scores are inner
            products if it is None. (`transformers` keeps `temperature` for itself.)
    """

    model_type = "hanse-sequence"

    def __init__(
        self,
        *,
        items: int = 2,
        item_ids: Sequence[str] = (),
        n_layer: int = 1,
        n_head: int = 2,
        n_embd: int = 64,
        max_steps: int = 50,
        dropout: float = 0.0,
        item_dropout: float = 0.0,
        score_temperature: float | None = None,
        **kwargs: Any,
    ) -> None:
        _check_backbone(n_layer, n_embd, 4 * n_embd)
        self.items = items
        self.item_ids = list(item_ids)
        self.n_layer = n_layer
        self.n_head = n_head
        self.n_embd = n_embd
        self.max_steps = max_steps
        self.dropout = dropout
        self.item_dropout = item_dropout
        self.score_temperature = score_temperature
        super().__init__(**kwargs)


class TextItemConfig(PretrainedConfig):
    """The shape of a `TextItemModel`.

    Args:
        items: Number of items, numbered from 0.
        item_ids: Their ids in the catalogue, in that order; a simulation's model has none.
        vector_size: Width of the items' public vectors.
        components: Number of their principal components that the head reads of the last item and
            answers for the next one.
        coarse: Number of those that it reads of earlier items.
        max_steps: Number of latest items that are read.
        closeness: Weight of the inner product of the last item's vector and the next one's.
        decay: Factor by which an item counts less with each item after it.
        partners: Number of partners of each item in the graph of likely pairs.
    """

    model_type = "hanse-text-items"

    def __init__(
        self,
        *,
        items: int = 2,
        item_ids: Sequence[str] = (),
        vector_size: int = 256,
        components: int = 128,
        coarse: int = 64,
        max_steps: int = 20,
        closeness: float = 8.0,
        decay: float = 0.8,
        partners: int = 100,
        **kwargs: Any,
    ) -> None:
        self.items = items
        self.item_ids = list(item_ids)
        self.vector_size = vector_size
        self.components = components
        self.coarse = coarse
        self.max_steps = max_steps
        self.closeness = closeness
        self.decay = decay
        self.partners = partners
        super().__init__(**kwargs)

    @property
    def cells(self) -> int:
        """Length of the released vector of pairs, at least the number of pairs in the graph."""
        return min(self.items * self.partners, self.items * (self.items - 1) // 2)


class ConversionConfig(PretrainedConfig):
    """The shape of a `ConversionModel`.

    Args:
        features: Names of an offer's features; the first is the logit of the customer's prior
            rate less that of `usual_rate`.
        usual_rate: The prior redemption rate of a customer without campaigns.
    """

    model_type = "hanse-conversion"

    def __init__(
        self, *, features: Sequence[str] = (), usual_rate: float = 0.05, **kwargs: Any
    ) -> None:
        self.features = list(features)
        self.usual_rate = usual_rate
        super().__init__(**kwargs)
