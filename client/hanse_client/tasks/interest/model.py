"""The interest model: a Hugging Face model from shopping histories to future purchases.

Kind `categories` (the default of a run's settings):

- outlook: a transformer over category tokens, pre-trained without data of customers and frozen
  under privacy, and a trained linear head
- next basket: own habits by fixed rules, and affinities from a noisy sum
- what is released as noisy sums is saved with the model, as frozen parameters `released.*`

Kind `visits`:

- items by their texts: frozen text vectors, and a trainable projection of them
- GPT-2 or BERT blocks over visits, new or from a checkpoint
- heads: next basket with a repeat-purchase term, outlook from a Poisson forecast, visits

Both: `save_pretrained` / `from_pretrained` with safetensors, class vectors included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils.generic import ModelOutput

from hanse_client.model.adapters import is_adaptation, layers_of
from hanse_client.model.backbone import VisitEncoder
from hanse_client.model.config import CategoryConfig, InterestConfig
from hanse_client.model.item_texts import Vectors, principal_components
from hanse_client.tasks.interest import category_pairs, class_residuals
from hanse_client.tasks.interest.category_basket import CategoryBasket
from hanse_client.tasks.interest.category_model import CategoryModel, CategoryOutput
from hanse_client.tasks.interest.category_outlook import CategoryOutlook
from hanse_client.tasks.interest.heads import (
    INTERESTS,
    BasketHead,
    Interests,
    OutlookHead,
    interest_features,
)
from hanse_client.tasks.interest.rates import RateHead, rate_losses
from hanse_client.tasks.interest.token_batch import TokenBatch
from hanse_common.errors import ConfigError
from hanse_common.trainable import Trainable

if TYPE_CHECKING:
    from hanse_client.model.pretrained import ModelCheckpoint

_RULES = ("basket.repeat.", "basket.habit.", "basket.popularity.", "outlook.rule.", "rates.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Input and targets of B customers at P anchors each; T visits, C classes.

    Without targets at inference.
    """

    visit_vectors: Tensor
    """[B, T, vector_size]."""
    visit_facts: Tensor
    """[B, T, facts]."""
    anchor_visit: Tensor
    """[B, P] index of the last visit before the anchor; -1 if none of the T visits is."""
    past: Interests
    tokens: TokenBatch | None = None
    """Of the customers at their anchors, for a model of categories; an anchor whose outlook is
    not to be forecast has none."""
    next_basket: Tensor | None = None
    """[B, P, C] 1 for each class of the next visit; all 0 without a target."""
    outlook: Tensor | None = None
    """[B, P, C] 0 fall, 1 stay, 2 rise; -1 without a target."""
    first_visit: Tensor | None = None
    """[B, P, C] index of the first of `config.horizons` that contains a visit with the class,
    the number of horizons if none does; -1 without a target."""

    def __len__(self) -> int:
        return len(self.anchor_visit)

    def rows(self, start: int, stop: int) -> Batch:
        """The customers of a slice."""

        def cut(part: Tensor | None) -> Any:
            return None if part is None else part[start:stop]

        past = {f.name: cut(getattr(self.past, f.name)) for f in fields(Interests)}
        tokens = None if self.tokens is None else self.tokens.rows(start, stop)
        inner = ("past", "tokens")
        rest = {f.name: cut(getattr(self, f.name)) for f in fields(Batch) if f.name not in inner}
        return Batch(past=Interests(**past), tokens=tokens, **rest)


@dataclass
class InterestOutput(ModelOutput):
    """The model's predictions for each customer at each anchor."""

    basket_scores: Tensor = None  # type: ignore[assignment]
    """[B, P, C] unnormalised log-probability of each class in the next visit."""
    outlook_logits: Tensor = None  # type: ignore[assignment]
    """[B, P, C, 3] unnormalised log-probability of fall, stay, rise."""
    expected_visits: Tensor = None  # type: ignore[assignment]
    """[B, P, C, horizons] expected visits with the class until the end of each horizon."""


class InterestModel(PreTrainedModel):
    """Predicts customers' next purchases from their own histories.

    Example:
        >>> config = InterestConfig(classes=["milk", "bread", "wine"], n_embd=8, vector_size=4)
        >>> model = InterestModel(config)
        >>> sorted({name.split(".")[0] for name, _ in model.named_parameters()})
        ['basket', 'outlook', 'rates', 'visits']
        >>> config.kind = "categories"
        >>> InterestModel(config).releases()
        {'category-pairs': 6, 'class-residuals': 12}
    """

    config: InterestConfig
    config_class = InterestConfig
    base_model_prefix = "hanse"
    class_vectors: Tensor
    class_popularity: Tensor
    """[C] logarithm of the number of catalogue items in each class over its mean."""

    def __init__(self, config: InterestConfig) -> None:
        super().__init__(config)
        self.basket: BasketHead | CategoryBasket
        self.outlook: OutlookHead | CategoryOutlook
        classes = len(config.classes)
        if config.kind == "categories":
            shape = {**config.category, "class_vector_size": config.class_vector_size}
            self.basket = CategoryBasket(config)
            self.outlook = CategoryOutlook(CategoryConfig(**shape), classes)
            self._absorbed: bytes | None = None
            self.released = nn.ParameterDict(
                {
                    phase: nn.Parameter(torch.zeros(length + 1), requires_grad=False)
                    for phase, length in self.releases().items()
                }
            )
        else:
            self.visits = VisitEncoder(config)
            self.basket = BasketHead(config)
            self.outlook = OutlookHead(config)
        self.rates = RateHead(config)
        self.register_buffer("class_vectors", torch.zeros(classes, config.class_vector_size))
        self.register_buffer("class_popularity", torch.zeros(classes))
        self.post_init()  # type: ignore[no-untyped-call]

    def releases(self) -> dict[str, int]:
        """Phases of statistics -> length of the vector that each releases."""
        classes = len(self.config.classes)
        if self.config.kind != "categories":
            return {}
        lengths = {class_residuals.PHASE: class_residuals.residual_cells(classes)}
        if classes <= category_pairs.MOST_CLASSES:
            lengths[category_pairs.PHASE] = category_pairs.pair_cells(classes)
        return dict(sorted(lengths.items()))

    @torch.no_grad()
    def absorb(self) -> None:
        """Recompute what the model derives from its released sums, unless they are the same.

        Edge cases:
            A sum of all zeros was not released yet: the model keeps its public prior.
        """
        if not (
            isinstance(self.outlook, CategoryOutlook) and isinstance(self.basket, CategoryBasket)
        ):
            return
        key = b"".join(sums.numpy().tobytes() for sums in self.released.values())
        if key == self._absorbed:
            return
        self._absorbed = key
        classes = len(self.config.classes)
        values, noise = self._released(class_residuals.PHASE)
        priors = class_residuals.class_priors(values, classes=classes, noise=noise)
        self.outlook.class_priors.copy_(torch.from_numpy(priors))
        if category_pairs.PHASE in self.released:
            values, noise = self._released(category_pairs.PHASE)
            pairs = category_pairs.decode_pairs(values, classes=classes, noise=noise)
            self.basket.set_pairs(pairs)

    @classmethod
    def fresh(
        cls,
        config: InterestConfig,
        *,
        class_texts: Vectors,
        item_texts: Vectors,
        class_sizes: Vectors,
        seed: int,
        checkpoint: ModelCheckpoint | None = None,
    ) -> InterestModel:
        """An untrained model, initialised from a public catalogue only.

        Args:
            config: The model's shape and vocabulary.
            class_texts: [C, vector_size] text vectors of `config.classes`.
            item_texts: [N, vector_size] text vectors of a public catalogue.
            class_sizes: [C] number of catalogue items in each class, a public proxy for its
                popularity.
            seed: Of the transformer's random weights.
            checkpoint: Weights of the transformer instead; `config` must have its shape.

        Guarantees:
            The model depends on no customer, so no epsilon has to cover it.
        """
        # Restored below: making a model must not move the generator of the caller.
        generator_state = torch.get_rng_state()
        torch.manual_seed(seed)
        # Adapted last: a checkpoint's weights have the names of a plain transformer.
        adaptation, config.adaptation = config.adaptation, None
        model = cls(config)
        torch.set_rng_state(generator_state)
        width = min(config.n_embd, *item_texts.shape)
        item_mean, item_directions = principal_components(item_texts, width)
        model._set_classes(class_texts, class_sizes)
        with torch.no_grad():
            text = model.visits.text
            # Text inputs get the spread that a checkpoint's word vectors had.
            spread = 0.5 if checkpoint is None else checkpoint.token_spread
            nn.init.zeros_(text.weight)
            text.weight[:width] = torch.from_numpy(item_directions.T) * spread
            nn.init.zeros_(text.bias)
            text.bias[:width] = torch.from_numpy(-(item_mean @ item_directions)) * spread
        if isinstance(model.basket, BasketHead) and isinstance(model.outlook, OutlookHead):
            model.basket.start_from_own_frequency()
            model.outlook.start_from_own_rate()
        model.rates.start_from_own_rate()
        if checkpoint is not None:
            checkpoint.load_into(model.visits)
        if adaptation is not None:
            model.visits.adapt(adaptation, seed=seed)
            model.config.adaptation = adaptation
        return model

    @classmethod
    def on_base(
        cls,
        config: InterestConfig,
        base: CategoryModel,
        *,
        class_texts: Vectors,
        class_sizes: Vectors,
        centre: npt.NDArray[np.float64],
        whitening: npt.NDArray[np.float64],
    ) -> InterestModel:
        """An untrained model of kind `categories`, from a base and a public catalogue only.

        Args:
            config: The vocabulary; kind and shape are set here.
            base: Pre-trained without data of customers.
            class_texts: [C, vector_size] text vectors of `config.classes`.
            class_sizes: [C] number of catalogue items in each class.
            centre: [inputs] mean of made-up shoppers' inputs.
            whitening: [inputs, inputs] whitens them.

        Guarantees:
            The model depends on no customer, so no epsilon has to cover it.
        """
        shape = base.config
        names = ("inputs", "class_priors", "n_layer", "n_head", "n_embd", "intermediate_size")
        config.kind = "categories"
        config.category = {name: getattr(shape, name) for name in names}
        config.category |= {"visit_counts": shape.visit_counts, "dropout": shape.dropout}
        generator_state = torch.get_rng_state()
        model = cls(config)
        torch.set_rng_state(generator_state)
        model._set_classes(class_texts, class_sizes)
        model.rates.start_from_own_rate()
        outlook = model._category_outlook()
        outlook.start_from_base()
        weights = base.state_dict()
        # A vocabulary of few classes has shorter text vectors; a base of made-up shoppers has
        # never seen a text.
        text = outlook.base.text.weight
        weights["text.weight"] = weights["text.weight"][:, : text.shape[1]]
        outlook.base.load_state_dict(weights)
        with torch.no_grad():
            outlook.centre.copy_(torch.from_numpy(centre))
            outlook.whitening.copy_(torch.from_numpy(whitening))
        return model

    def _set_classes(self, class_texts: Vectors, class_sizes: Vectors) -> None:
        """Set the vectors and the public popularity of the vocabulary."""
        mean, directions = principal_components(class_texts, self.config.class_vector_size)
        sizes = torch.from_numpy(class_sizes)
        with torch.no_grad():
            self.class_vectors.copy_(torch.from_numpy((class_texts - mean) @ directions))
            self.class_popularity.copy_(torch.log(sizes / sizes.mean()))

    def forward(self, batch: Batch) -> InterestOutput:
        """Predict from every anchor of every customer."""
        if isinstance(self.outlook, CategoryOutlook):
            return self._by_categories(batch, self.outlook)
        return self._by_visits(batch)

    def basket_scores(self, batch: Batch) -> Tensor:
        """`InterestOutput.basket_scores` alone; a model of categories needs no tokens for it."""
        if isinstance(self.basket, CategoryBasket):
            scores: Tensor = self.basket(batch.past, self._public(batch))
            return scores
        return self._by_visits(batch).basket_scores

    def reads_texts(self) -> bool:
        """Whether the output depends on the texts of items, by the transformer over visits."""
        if isinstance(self.outlook, CategoryOutlook):
            return False
        with torch.inference_mode():
            return self.basket.uses_state() or self.outlook.uses_state()

    def _public(self, batch: Batch) -> Tensor:
        return self.class_popularity.expand(len(batch), -1)  # [B, C]

    def _by_categories(self, batch: Batch, outlook: CategoryOutlook) -> InterestOutput:
        tokens = batch.tokens
        if tokens is None:
            raise ValueError("a model of categories needs a batch with tokens")
        forecast: CategoryOutput = outlook(tokens, self.class_vectors)
        expected = self.rates(batch.past, self._public(batch), None)  # [B, P, C, horizons]
        # The base counts visits in the longest horizon; the rules say when in it.
        counts = torch.arange(forecast.visit_logits.shape[-1], dtype=torch.float32)
        factor = (forecast.visit_logits.exp() @ counts) / tokens.expected  # [B, P, K]
        ones = expected.new_ones(expected.shape[:3])
        present = tokens.present
        amended = ones.scatter_reduce(
            2, tokens.classes, torch.where(present, factor, torch.ones_like(factor)), "prod"
        )
        logits = expected.new_zeros(*expected.shape[:3], 3)
        index = tokens.classes.unsqueeze(-1).expand(-1, -1, -1, 3)
        # Added, since padding has the index of a real class.
        logits = logits.scatter_add(2, index, forecast.outlook_logits * present.unsqueeze(-1))
        return InterestOutput(
            basket_scores=self.basket_scores(batch),
            outlook_logits=logits,
            expected_visits=expected * amended.unsqueeze(-1),
        )

    def _by_visits(self, batch: Batch) -> InterestOutput:
        basket, outlook = self.basket, self.outlook
        if not (isinstance(basket, BasketHead) and isinstance(outlook, OutlookHead)):
            raise TypeError("a model of categories has no transformer over visits")
        state = None
        # Skipped if no head reads it; skips took a pass of 64 customers from 118 to 22 ms.
        if basket.uses_state() or outlook.uses_state():
            # [B, P, D]
            state = self.visits(batch.visit_vectors, batch.visit_facts, batch.anchor_visit)
        classes = self.class_vectors.expand(len(batch), -1, -1)  # [B, C, K]
        public = self._public(batch)
        features = None
        if basket.needs_features() or self.rates.needs_features():
            features = interest_features(batch.past, self.config)
        popularity = basket.popularity.settled(public)
        return InterestOutput(
            basket_scores=basket(batch.past, state, classes, public, features),
            outlook_logits=outlook(batch.past, state, classes),
            expected_visits=self.rates(batch.past, popularity, features),
        )

    def _category_outlook(self) -> CategoryOutlook:
        if not isinstance(self.outlook, CategoryOutlook):
            raise TypeError("not a model of categories")
        return self.outlook

    def _released(self, phase: str) -> tuple[npt.NDArray[np.float64], float]:
        """A released sum, and the standard deviation of the noise of each of its numbers."""
        values = self.released[phase].detach().numpy().astype(np.float64)
        return values[:-1], float(values[-1])

    def train_only(self, part: str) -> Sequence[str]:
        """Make a part trainable and freeze the rest; returns the sorted names of the part.

        Args:
            part: As in `hanse_common.trainable`.

        Raises:
            ConfigError: The part is unknown, has more layers or a higher rank than the
                transformer, or is an adaptation that the model was made without.
        """
        chosen = Trainable.parse(part)
        if self.config.kind == "categories":
            return self._train_categories(chosen)
        chosen.check(layers=self.config.n_layer, width=self.config.n_embd)
        if chosen.adaptation not in (None, self.config.adaptation):
            raise ConfigError(
                f"model.trainable={part!r}, but the model was made with "
                f"{self.config.adaptation or 'no adaptation'}",
                hint="make the model with the same settings: `hanse model init`",
            )
        top = self._top(chosen.size) if chosen.kind == "top" else ()
        for name, parameter in self.named_parameters():
            if chosen.kind == "rules":
                trained = is_rule(name)
            elif chosen.kind == "all" or not name.startswith("visits."):
                trained = True
            elif is_adaptation(name):
                trained = chosen.adaptation is not None
            else:
                trained = name.startswith(top)
            parameter.requires_grad_(trained)
        return sorted(name for name, p in self.named_parameters() if p.requires_grad)

    def _train_categories(self, chosen: Trainable) -> Sequence[str]:
        """`train_only` for kind `categories`: the linear head, or the base too."""
        prefixes = {"rules": "outlook.head.", "heads": "outlook.head.", "all": "outlook."}
        if chosen.kind not in prefixes:
            raise ConfigError(
                f"model.trainable={str(chosen)!r} is not for a model of categories",
                hint="take heads for its linear head or all for its transformer too, or set "
                "model.kind = 'visits'",
            )
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith(prefixes[chosen.kind]))
        return sorted(name for name, p in self.named_parameters() if p.requires_grad)

    def _top(self, count: int) -> tuple[str, ...]:
        """Name prefixes of the last layers and of the norm after them."""
        last = layers_of(self.visits.blocks, self.config.backbone)[-count:]
        names = [name for name, module in self.named_modules() if any(module is x for x in last)]
        return (*(f"{name}." for name in names), "visits.blocks.ln_f.")


def is_rule(name: str) -> bool:
    """Whether a parameter corrects the simple forecasts that the heads start from."""
    return name.startswith(_RULES)


def customer_losses(
    output: InterestOutput, batch: Batch, *, outlook_weight: float, rate_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Each customer's losses, functions of that customer's row only.

    Args:
        output: The model's output for `batch`.
        batch: With all targets.
        outlook_weight: Weight of the outlook loss; the basket loss has weight 1.
        rate_weight: Weight of the loss of expected visits.

    Returns:
        (basket [B], weighted outlook [B], weighted rates [B]): cross-entropy of the next
        basket's classes under a softmax over all classes, of the outlook over classes with an
        interest, and `rate_losses`, each a mean over the customer's anchors; 0 for a customer
        without targets.

    Raises:
        ValueError: The batch has no targets.
    """
    if batch.next_basket is None or batch.outlook is None or batch.first_visit is None:
        raise ValueError("a loss needs a batch with targets")
    log_p = torch.log_softmax(output.basket_scores, dim=-1)  # [B, P, C]
    bought = batch.next_basket.sum(-1)  # [B, P]
    per_anchor = -(log_p * batch.next_basket).sum(-1) / bought.clamp(min=1)
    basket = per_anchor.sum(1) / (bought > 0).sum(1).clamp(min=1)
    valid = batch.outlook >= 0
    log_q = torch.log_softmax(output.outlook_logits, dim=-1)
    chosen = log_q.gather(-1, batch.outlook.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    # Divided by a public constant instead of the customer's own number of interests, so that
    # each interest has the same weight in the sum, whoever has it.
    outlook = -(chosen * valid).sum((1, 2)) / (INTERESTS * valid.shape[1])
    rates = rate_losses(output.expected_visits, batch.first_visit)
    return basket, outlook_weight * outlook, rate_weight * rates


# A second import under another name, as by a tool that collects doctests, is no error.
AutoConfig.register(InterestConfig.model_type, InterestConfig, exist_ok=True)
AutoModel.register(InterestConfig, InterestModel, exist_ok=True)
