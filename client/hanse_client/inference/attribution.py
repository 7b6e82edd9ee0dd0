"""What carries a customer's score of a category, by integrated gradients.

The score is followed from an empty history to the customer's own in a straight line, and each
input is credited with what the score gains on the way (Sundararajan, Taly and Yan 2017; by
Captum). The credits add up to the score less that of an empty history. An input that counts
visits passes its credit on to them: to each as much as it counts for in it.

    found = attribute(histories, model, customer=3, category=17, moment=20_000.0)
    found.score - found.baseline       # nearly the sum of what follows
    found.by_visit, found.by_feature
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hanse_client.features.histories import Histories
from hanse_client.tasks.interest import Batch, InterestModel, Interests
from hanse_client.tasks.interest.features import Anchors, Floats, Ints, collate
from hanse_client.tasks.interest.heads import VISIT_WINDOWS
from hanse_common.errors import MissingDependency

STEPS = 400
"""Points on the line: logarithms of counts bend sharply where a history begins."""
_AT_ONCE = 50
_PAST = ("counts", "decayed", "days_since", "visits", "gap")
_TRANSFORMER = "the transformer: item texts and facts of visits"


@dataclass(frozen=True, kw_only=True, slots=True)
class Attribution:
    """Of one customer, one category and one moment."""

    score: float
    """Unnormalised log-probability of the category in the next basket."""
    baseline: float
    """The same of somebody with an empty history, observed for as long."""
    share: float
    """The category's share of the next basket."""
    visits: Ints
    """[v] indices of the visits before the moment, in the order of time."""
    by_visit: Floats
    """[v] what each visit carries."""
    by_feature: dict[str, float]
    """What each feature carries, the same credit seen from the other side."""
    listens: bool
    """Whether the transformer has any say in the score."""

    @property
    def difference(self) -> float:
        """Score less baseline, which the credits add up to."""
        return self.score - self.baseline

    @property
    def left_over(self) -> float:
        """What the approximation of the line by points leaves unexplained."""
        return self.difference - sum(self.by_feature.values())


def attribute(
    histories: Histories, model: InterestModel, *, customer: int, category: int, moment: float
) -> Attribution:
    """Explain the score of one category for one customer.

    Args:
        histories: Of the store.
        model: Ready to be asked.
        customer: Index into the histories.
        category: Index into the model's classes.
        moment: From when on is predicted; days.

    Raises:
        MissingDependency: There is no Captum on this machine.
    """
    try:
        from captum.attr import IntegratedGradients
    except ModuleNotFoundError as error:
        raise MissingDependency(
            "explaining needs the package 'captum', which is not installed",
            hint="pip install 'hanse[explain]'",
        ) from error
    config = model.config
    nothing = np.zeros((1, 1), dtype=bool)
    anchors = Anchors(
        customers=np.array([customer]),
        moments=np.array([[moment]]),
        basket=nothing,
        outlook=nothing,
    )
    batch = collate(histories, anchors, config)
    listens = model.basket.uses_state()
    inputs = tuple(getattr(batch.past, name) for name in _PAST)
    empty = tuple(_empty(batch, name) for name in _PAST)
    if listens:
        seen = (batch.visit_vectors, batch.visit_facts)
        inputs, empty = inputs + seen, empty + tuple(torch.zeros_like(part) for part in seen)

    def score(*parts: Tensor) -> Tensor:
        scores: Tensor = model(_batch(batch, parts)).basket_scores
        return scores[:, 0, category]

    credits = IntegratedGradients(score).attribute(
        inputs,
        baselines=empty,
        n_steps=STEPS,
        method="gausslegendre",
        internal_batch_size=_AT_ONCE,
    )
    with torch.inference_mode():
        scores = model(batch).basket_scores[0, 0]
        baseline = float(score(*empty)[0])
    past = dict(zip(_PAST, credits, strict=False))
    visits, ages, holds = _visits(histories, customer, moment, len(config.classes))
    by_visit = _passed_on(past, batch.past, ages, holds, model)
    by_feature = _features(past, category, model)
    if listens:
        each = sum(part.sum(-1)[0].double().numpy() for part in credits[len(_PAST) :])
        heard = min(len(visits), config.max_steps)
        by_visit[len(visits) - heard :] += each[:heard]
        by_feature[_TRANSFORMER] = float(np.sum(each))
    return Attribution(
        score=float(scores[category]),
        baseline=baseline,
        share=float(torch.softmax(scores, dim=-1)[category]),
        visits=visits,
        by_visit=by_visit,
        by_feature=by_feature,
        listens=listens,
    )


def _empty(batch: Batch, name: str) -> Tensor:
    """What an empty history would show: no visit, and none for as long as was looked."""
    value: Tensor = getattr(batch.past, name)
    if name == "gap":
        return batch.past.observed.clone()
    if name == "days_since":
        return batch.past.observed.unsqueeze(-1).expand_as(value).clone()
    return torch.zeros_like(value)


def _batch(batch: Batch, parts: tuple[Tensor, ...]) -> Batch:
    """The same customer with other inputs, n at a time."""
    count = len(parts[0])
    past = dict(zip(_PAST, parts, strict=False))
    vectors, facts = parts[len(_PAST) :] or (batch.visit_vectors, batch.visit_facts)
    return Batch(
        visit_vectors=vectors.expand(count, *vectors.shape[1:]),
        visit_facts=facts.expand(count, *facts.shape[1:]),
        anchor_visit=batch.anchor_visit.expand(count, -1),
        past=Interests(**past, observed=batch.past.observed.expand(count, -1)),
    )


def _visits(
    histories: Histories, customer: int, moment: float, classes: int
) -> tuple[Ints, Floats, Floats]:
    """([v] visits before the moment, [v] their ages in days, [v, C] 1 for each class)."""
    first, stop = histories.visit_offsets[customer : customer + 2]
    known = int(np.searchsorted(histories.visit_days[first:stop], moment, side="left"))
    visits = np.arange(first, first + known)
    holds = np.zeros((known, classes))
    for row, visit in enumerate(visits):
        pairs = slice(*histories.pair_offsets[visit : visit + 2])
        holds[row, histories.pair_classes[pairs]] = 1.0
    return visits, moment - histories.visit_days[visits], holds


def _passed_on(
    credit: dict[str, Tensor], past: Interests, ages: Floats, holds: Floats, model: InterestModel
) -> Floats:
    """[v] what inputs pass on to visits, each as much as it counts for in them."""
    config = model.config
    found = np.zeros(len(ages))
    if not len(ages):
        return found
    each = {name: part[0, 0].double().numpy() for name, part in credit.items()}
    for index, window in enumerate(config.windows):
        weights = holds * (ages <= window)[:, None]
        found += _spread(weights, each["counts"][:, index])
    for index, half_life in enumerate(config.half_lives):
        weights = holds * np.exp2(-ages / half_life)[:, None]
        found += _spread(weights, each["decayed"][:, index])
    last = np.zeros_like(holds)  # [v, C] the class's last visit
    bought = np.flatnonzero(holds.any(axis=0))
    last[len(ages) - 1 - holds[::-1, bought].argmax(axis=0), bought] = 1.0
    found += _spread(last, each["days_since"])
    for index, window in enumerate(VISIT_WINDOWS):
        weights = (ages <= window).astype(np.float64)[:, None]
        found += _spread(weights, each["visits"][index : index + 1])
    found[-1] += float(each["gap"])
    return found


def _spread(weights: Floats, credit: Floats) -> Floats:
    """[v] credits [K] shared out by weights [v, K]."""
    total = weights.sum(axis=0)
    shares = weights / np.where(total > 0, total, 1.0)
    found: Floats = shares @ credit
    return found


def _features(credit: dict[str, Tensor], category: int, model: InterestModel) -> dict[str, float]:
    """Credits by readable names; the category's own beside those of all others."""
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
