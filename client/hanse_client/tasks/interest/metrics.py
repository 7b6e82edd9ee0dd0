"""Metrics of the interest model on a store's own customers; the figures stay at the store."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hanse_client.features.by_customer import customers_and_means
from hanse_client.features.histories import Histories, days, run_split
from hanse_client.tasks.base import StoredFigures
from hanse_client.tasks.interest import Batch, InterestModel
from hanse_client.tasks.interest.features import Anchors, collate, evaluation_anchors, rows_at_once
from hanse_client.tasks.scoring import TOP, auc, ranking_metrics
from hanse_common.config import RunSettings

FALL, STAY, RISE = 0, 1, 2
_BASKET = ("hr", "recall", "ndcg")
# Their rows belong to `interest_customers`; those of all other fields to baskets.
_OF_INTERESTS = ("rise_scores", "fall_scores", "outcomes", "interest_customers")


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures(StoredFigures):
    """Metrics of each basket, and scores and outcome of each interest, of an evaluation."""

    hr: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]
    ndcg: npt.NDArray[np.float64]
    explore_hr: npt.NDArray[np.float64]
    """`explore_…`: only classes that are new to the customer are ranked and are targets."""
    explore_recall: npt.NDArray[np.float64]
    explore_ndcg: npt.NDArray[np.float64]
    rise_scores: npt.NDArray[np.float32]
    """[interests] log-probability of a rise."""
    fall_scores: npt.NDArray[np.float32]
    outcomes: npt.NDArray[np.int8]
    """[interests] FALL, STAY or RISE."""
    customers: npt.NDArray[np.int64]
    """[baskets] index of each basket's customer in the store's histories."""
    explore_customers: npt.NDArray[np.int64]
    interest_customers: npt.NDArray[np.int64]
    """[interests] index of each interest's customer."""

    def of(self, customers: npt.NDArray[np.int64]) -> Figures:
        """Only the figures of these customers, by their indices."""
        selected = {}
        for field in fields(self):
            owners = self.customers
            if field.name in _OF_INTERESTS:
                owners = self.interest_customers
            elif field.name.startswith("explore_"):
                owners = self.explore_customers
            selected[field.name] = getattr(self, field.name)[np.isin(owners, customers)]
        return Figures(**selected)

    def shifted(self, by: int) -> Figures:
        """The same figures with `by` added to all indices of customers."""
        owners = ("customers", "explore_customers", "interest_customers")
        return replace(self, **{name: getattr(self, name) + by for name in owners})

    def metrics(self) -> dict[str, float]:
        """Means of basket metrics, and AUC of outlooks; NaN without any case."""
        means = {
            f"{name}@{TOP}": float(values.mean()) if len(values) else float("nan")
            for name in ("hr", "recall", "ndcg", "explore_hr", "explore_recall", "explore_ndcg")
            for values in [getattr(self, name)]
        }
        rise = auc(self.rise_scores, self.outcomes == RISE)
        fall = auc(self.fall_scores, self.outcomes == FALL)
        return {**means, "rise_auc": rise, "fall_auc": fall, "outlook_auc": (rise + fall) / 2}

    def sums(self, allowed: npt.NDArray[np.int64] | None = None) -> dict[str, float]:
        """Sums over customers, which may leave the store under masks and noise.

        Args:
            allowed: Indices of the customers to count; all if left out.

        Returns:
            Each of `hanse_common.vector.evaluation_names(task)`.

        Guarantees:
            A customer adds 1 to the number of customers, and to each basket metric the mean
            over their own baskets, in [0, 1].
        """
        all_sums: dict[str, float] = {}
        for kind in ("", "explore_"):
            values = {f"{name}@{TOP}": getattr(self, kind + name) for name in _BASKET}
            sums = customers_and_means(getattr(self, f"{kind}customers"), values, allowed=allowed)
            all_sums |= {kind + name: value for name, value in sums.items()}
        return all_sums


def judge(
    batch: Batch,
    basket_scores: npt.NDArray[Any],
    rise: npt.NDArray[Any],
    fall: npt.NDArray[Any],
    *,
    customers: npt.NDArray[np.int64],
) -> Figures:
    """Figures of scores on a batch's targets; the scores are the model's or a baseline's.

    Args:
        batch: With targets, from `evaluation_anchors`.
        basket_scores: [R, P, C], higher is likelier in the next basket.
        rise: [R, P, C], higher is likelier to rise.
        fall: [R, P, C], higher is likelier to fall.
        customers: [R] index of each row's customer.

    Raises:
        ValueError: The batch has no targets.
    """
    if batch.next_basket is None or batch.outlook is None:
        raise ValueError("an evaluation needs a batch with targets")
    targets = batch.next_basket.numpy() > 0
    has_target = targets.any(axis=-1)
    bought = batch.past.counts.numpy().max(axis=-1) > 0
    scores, wanted, new = basket_scores[has_target], targets[has_target], ~bought[has_target]
    overall = ranking_metrics(scores, wanted)
    explore = ranking_metrics(scores, wanted, allowed=new)
    owners = customers[np.nonzero(has_target)[0]]
    outcomes = batch.outlook.numpy()
    judged = outcomes >= 0
    return Figures(
        hr=overall[f"hr@{TOP}"],
        recall=overall[f"recall@{TOP}"],
        ndcg=overall[f"ndcg@{TOP}"],
        explore_hr=explore[f"hr@{TOP}"],
        explore_recall=explore[f"recall@{TOP}"],
        explore_ndcg=explore[f"ndcg@{TOP}"],
        rise_scores=rise[judged].astype(np.float32),
        fall_scores=fall[judged].astype(np.float32),
        outcomes=outcomes[judged].astype(np.int8),
        customers=owners,
        # The rows that `ranking_metrics` judged: those with a target that is new.
        explore_customers=owners[(wanted & new).any(axis=-1)],
        interest_customers=customers[np.nonzero(judged)[0]],
    )


def split_anchors(histories: Histories, settings: RunSettings, split: str) -> Anchors:
    """The anchors of a split: at every visit in it, and at its start for the outlook."""
    ends = run_split(settings)
    start, stop = (
        (ends.train_until, ends.validate_until)
        if split == "validate"
        else (ends.validate_until, ends.test_until)
    )
    return evaluation_anchors(histories, start=days(start), stop=days(stop))


def evaluate_histories(
    histories: Histories, model: InterestModel, settings: RunSettings, split: str
) -> Figures:
    """Evaluate the model on a split of a store's customers."""
    anchors = split_anchors(histories, settings, split)
    model.eval()  # type: ignore[no-untyped-call]  # a base has dropout
    parts = []
    with torch.inference_mode():
        rows = rows_at_once(model.config)
        for start in range(0, max(len(anchors), 1), rows):
            part = anchors.rows(start, start + rows)
            batch = collate(histories, part, model.config)
            output = model(batch)
            outlook = torch.log_softmax(output.outlook_logits, dim=-1).numpy()
            scores = output.basket_scores.numpy()
            rise, fall = outlook[..., RISE], outlook[..., FALL]
            parts.append(judge(batch, scores, rise, fall, customers=part.customers))
    return Figures.pooled(parts)
