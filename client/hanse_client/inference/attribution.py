"""Attribution of a customer's score of a category to visits and features.

Integrated gradients (Sundararajan, Taly and Yan 2017; by Captum) along the straight line from
an empty history to the customer's own: the attributions of the inputs add up to the score minus
that of an empty history. The attribution of an input that counts visits is distributed over
these visits in proportion to what each contributes to the input.

    result = attribute(histories, model, customer=3, category=17, moment=20_000.0)
    result.score - result.baseline       # nearly the sum of either of the following
    result.by_visit, result.by_feature
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from hanse_client.features.histories import Histories
from hanse_client.tasks.interest import Batch, InterestModel, Interests
from hanse_client.tasks.interest.features import Anchors, Floats, Ints, collate
from hanse_client.tasks.interest.heads import VISIT_WINDOWS
from hanse_common.errors import MissingDependency

STEPS = 400
"""Points on the line. Many, since logarithms of counts bend sharply near an empty history."""
_AT_ONCE = 50
"""Points that go through the model together, to bound memory."""
_TRANSFORMER = "the transformer: item texts and facts of visits"


@dataclass(frozen=True, kw_only=True, slots=True)
class Attribution:
    """The attribution of one customer's score of one category at one moment."""

    score: float
    """Unnormalised log-probability of the category in the next basket."""
    baseline: float
    """The same for an empty history that was observed for as long."""
    share: float
    """The category's share of the next basket."""
    visits: Ints
    """[v] indices of the visits before the moment, in the order of time."""
    by_visit: Floats
    """[v] attribution of each visit."""
    by_feature: dict[str, float]
    """Attribution of each feature: the same total, divided otherwise."""
    uses_transformer: bool
    """Whether the score depends on the transformer."""

    @property
    def difference(self) -> float:
        """Score minus baseline, to which the attributions add up."""
        return self.score - self.baseline

    @property
    def left_over(self) -> float:
        """The part of `difference` that is lost by approximating the integral by points."""
        return self.difference - sum(self.by_feature.values())


def attribute(
    histories: Histories, model: InterestModel, *, customer: int, category: int, moment: float
) -> Attribution:
    """Explain the score of one category for one customer.

    Args:
        histories: The store's histories.
        model: The model, in evaluation mode.
        customer: Index into the histories.
        category: Index into the model's classes.
        moment: The time from which is predicted, in days.

    Raises:
        MissingDependency: Captum is not installed.
    """
    try:
        from captum.attr import IntegratedGradients
    except ModuleNotFoundError as error:
        raise MissingDependency(
            "explaining needs the package 'captum', which is not installed",
            hint="pip install 'hanse[explain]'",
        ) from error
    config = model.config
    no_targets = np.zeros((1, 1), dtype=bool)
    anchors = Anchors(
        customers=np.array([customer]),
        moments=np.array([[moment]]),
        basket=no_targets,
        outlook=no_targets,
    )
    batch = collate(histories, anchors, config)
    uses_transformer = model.basket.uses_state()
    names = model.basket.READS
    inputs = tuple(getattr(batch.past, name) for name in names)
    empty = tuple(_empty(batch, name) for name in names)
    if uses_transformer:
        visit_inputs = (batch.visit_vectors, batch.visit_facts)
        inputs += visit_inputs
        empty += tuple(torch.zeros_like(part) for part in visit_inputs)

    def score(*parts: Tensor) -> Tensor:
        scores = model.basket_scores(_batch(batch, names, parts))
        return scores[:, 0, category]

    credits = IntegratedGradients(score).attribute(
        inputs,
        baselines=empty,
        n_steps=STEPS,
        method="gausslegendre",
        internal_batch_size=_AT_ONCE,
    )
    with torch.inference_mode():
        scores = model.basket_scores(batch)[0, 0]
        baseline = float(score(*empty)[0])
    past = {
        field.name: torch.zeros_like(getattr(batch.past, field.name)) for field in fields(Interests)
    }
    past |= dict(zip(names, credits, strict=False))
    visits, ages, holds = _visits(histories, customer, moment, len(config.classes))
    by_visit = _by_visit(past, batch.past, ages, holds, model)
    by_feature = _features(past, category, model)
    if uses_transformer:
        each = sum(part.sum(-1)[0].double().numpy() for part in credits[len(names) :])
        # The transformer reads the last `max_steps` visits only.
        read = min(len(visits), config.max_steps)
        by_visit[len(visits) - read :] += each[:read]
        by_feature[_TRANSFORMER] = float(np.sum(each))
    return Attribution(
        score=float(scores[category]),
        baseline=baseline,
        share=float(torch.softmax(scores, dim=-1)[category]),
        visits=visits,
        by_visit=by_visit,
        by_feature=by_feature,
        uses_transformer=uses_transformer,
    )


def _empty(batch: Batch, name: str) -> Tensor:
    """The input's value for an empty history: no visit since observation began."""
    value: Tensor = getattr(batch.past, name)
    if name == "gap":
        return batch.past.observed.clone()
    if name == "days_since":
        return batch.past.observed.unsqueeze(-1).expand_as(value).clone()
    return torch.zeros_like(value)


def _batch(batch: Batch, names: tuple[str, ...], parts: tuple[Tensor, ...]) -> Batch:
    """The customer's batch with n variants of these inputs in place of its own."""
    count = len(parts[0])
    past = {
        field.name: getattr(batch.past, field.name).expand(
            count, *getattr(batch.past, field.name).shape[1:]
        )
        for field in fields(Interests)
    }
    past |= dict(zip(names, parts, strict=False))
    vectors, facts = parts[len(names) :] or (batch.visit_vectors, batch.visit_facts)
    return Batch(
        visit_vectors=vectors.expand(count, *vectors.shape[1:]),
        visit_facts=facts.expand(count, *facts.shape[1:]),
        anchor_visit=batch.anchor_visit.expand(count, -1),
        past=Interests(**past),
    )


def _visits(
    histories: Histories, customer: int, moment: float, classes: int
) -> tuple[Ints, Floats, Floats]:
    """[v] visits before the moment, [v] their ages in days, [v, C] 1 where a visit has a class."""
    first, stop = histories.visit_offsets[customer : customer + 2]
    known = int(np.searchsorted(histories.visit_days[first:stop], moment, side="left"))
    visits = np.arange(first, first + known)
    holds = np.zeros((known, classes))
    for row, visit in enumerate(visits):
        pairs = slice(*histories.pair_offsets[visit : visit + 2])
        holds[row, histories.pair_classes[pairs]] = 1.0
    return visits, moment - histories.visit_days[visits], holds


def _by_visit(
    credit: dict[str, Tensor], past: Interests, ages: Floats, holds: Floats, model: InterestModel
) -> Floats:
    """[v] attributions of inputs distributed over visits, by the visits' part in each input."""
    config = model.config
    total = np.zeros(len(ages))
    if not len(ages):
        return total
    each = {name: part[0, 0].double().numpy() for name, part in credit.items()}
    for index, window in enumerate(config.windows):
        weights = holds * (ages <= window)[:, None]
        total += _spread(weights, each["counts"][:, index])
    for index, half_life in enumerate(config.half_lives):
        weights = holds * np.exp2(-ages / half_life)[:, None]
        total += _spread(weights, each["decayed"][:, index])
    last = np.zeros_like(holds)  # [v, C] 1 at each class's last visit
    bought = np.flatnonzero(holds.any(axis=0))
    last[len(ages) - 1 - holds[::-1, bought].argmax(axis=0), bought] = 1.0
    total += _spread(last, each["days_since"])
    for index, window in enumerate(VISIT_WINDOWS):
        weights = (ages <= window).astype(np.float64)[:, None]
        total += _spread(weights, each["visits"][index : index + 1])
    total[-1] += float(each["gap"])  # days since the last visit of any kind
    return total


def _spread(weights: Floats, credit: Floats) -> Floats:
    """[v] attributions [K] divided among visits in proportion to weights [v, K]."""
    total = weights.sum(axis=0)
    shares = weights / np.where(total > 0, total, 1.0)
    by_visit: Floats = shares @ credit
    return by_visit


def _features(credit: dict[str, Tensor], category: int, model: InterestModel) -> dict[str, float]:
    """Attributions by readable feature names: the category's own, and all others together."""
    config = model.config
    each = {name: part[0, 0].double() for name, part in credit.items()}
    named: dict[str, float] = {}
    for index, window in enumerate(config.windows):
        when = "ever" if window >= 3650 else f"in the last {window:.0f} days"
        named[f"visits with the category {when}"] = float(each["counts"][category, index])
    for index, half_life in enumerate(config.half_lives):
        name = f"visits with the category, halved every {half_life:.0f} days"
        named[name] = float(each["decayed"][category, index])
    named["days since the last visit with the category"] = float(each["days_since"][category])
    others = sum(
        float(each[name].sum() - each[name][category].sum())
        for name in ("counts", "decayed", "days_since")
    )
    named["visits with other categories"] = others
    for index, window in enumerate(VISIT_WINDOWS):
        when = "ever" if window >= 3650 else f"in the last {window:.0f} days"
        named[f"visits of any kind {when}"] = float(each["visits"][index])
    named["days since the last visit"] = float(each["gap"])
    return named
