"""Predictions for customers from a moment on: the next basket, the outlook, expected visits.

A prediction depends on the customer's visits before the moment, and on no other customer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import torch

from hanse_client.features.histories import EPOCH, Histories, days
from hanse_client.inference.choices import Candidates, When
from hanse_client.inference.load import OpenStore
from hanse_client.tasks.interest import InterestModel
from hanse_client.tasks.interest.features import Anchors, collate, rows_at_once
from hanse_client.tasks.interest.heads import has_interest
from hanse_common.config import RunSettings
from hanse_common.errors import ConfigError, EmptyStore

_ROWS = 4
"""Factor on the rows of a batch: a row has one anchor here, and sixteen in an evaluation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """The model's output for R customers and C classes."""

    customers: npt.NDArray[np.int64]
    """[R] indices into the store's histories."""
    scores: npt.NDArray[np.float32]
    """[R, C] unnormalised log-probabilities, by which classes are ranked."""
    shares: npt.NDArray[np.float32]
    """[R, C] each class's share of the next basket; a row adds up to 1."""
    seen: npt.NDArray[np.bool_]
    """[R, C] whether the customer bought the class before the moment."""
    recent: npt.NDArray[np.float32]
    """[R, C] visits with the class in the reference days."""
    interest: npt.NDArray[np.bool_]
    """[R, C] whether the customer has an interest in the class, for which there is an outlook."""
    chances: npt.NDArray[np.float32]
    """[R, C, 3] probabilities of fall, stay and rise; meaningless where there is no interest."""
    expected: npt.NDArray[np.float32]
    """[R, C, H] expected visits with the class up to the end of each horizon."""


def moment_of(store: OpenStore, when: When, settings: RunSettings | None) -> float:
    """The moment from which is predicted: the beginning of a day, in days.

    Args:
        store: The store; `LATEST` is the day after its last visit.
        when: The latest day, or the first day of a split.
        settings: The settings of the model's run, which fix the splits.

    Raises:
        EmptyStore: The store has no visit.
        ConfigError: `when` is a split, and no settings fix its days.
    """
    if not len(store.histories.visit_days):
        raise EmptyStore(f"store {store.name!r} has no visit", hint="see `hanse data check`")
    if when is When.LATEST:
        return float(np.floor(store.histories.visit_days.max()) + 1)
    split = None if settings is None else settings.data.split
    if split is None:
        raise ConfigError(
            f"no settings fix the days of the split {when.value!r}",
            hint="name the settings of the model's run with --settings",
        )
    return days(split.train_until if when is When.VALIDATE else split.validate_until)


def isoformat(moment: float) -> str:
    """A moment in days as ISO 8601, in the shop's local time."""
    return (EPOCH + timedelta(days=moment)).isoformat()


def known(store: OpenStore, moment: float) -> npt.NDArray[np.int64]:
    """Indices [R] of the customers with a visit before a moment.

    Raises:
        EmptyStore: There are none.
    """
    customers = store.histories.until(moment).active()
    if not len(customers):
        raise EmptyStore(
            f"no customer of store {store.name!r} has a visit before {isoformat(moment)}",
            hint="choose another --split",
        )
    return customers


def ask(
    model: InterestModel,
    histories: Histories,
    customers: npt.NDArray[np.int64],
    moment: float | npt.NDArray[np.float64],
) -> Iterator[Answers]:
    """Predict for customers, in batches that fit in memory.

    Args:
        model: The model, in evaluation mode.
        histories: The store's histories.
        customers: [R] indices into the histories.
        moment: The moment to predict from, in days: one for all, or [R] one for each.

    Yields:
        The answers of one batch of customers.
    """
    config = model.config
    moments = np.broadcast_to(np.asarray(moment, dtype=np.float64), customers.shape)
    rows = _ROWS * rows_at_once(config)
    for start in range(0, len(customers), rows):
        batch_customers = customers[start : start + rows]
        shape = (len(batch_customers), 1)
        anchors = Anchors(
            customers=batch_customers,
            moments=moments[start : start + rows].reshape(shape),
            basket=np.zeros(shape, dtype=bool),
            outlook=np.zeros(shape, dtype=bool),
        )
        batch = collate(histories, anchors, config)
        with torch.inference_mode():
            output = model(batch)
            scores = output.basket_scores[:, 0]
            recent = batch.past.counts[:, 0, :, config.reference_window]
            yield Answers(
                customers=batch_customers,
                scores=scores.numpy(),
                shares=torch.softmax(scores, dim=-1).numpy(),
                seen=batch.past.counts[:, 0].amax(dim=-1).numpy() > 0,
                recent=recent.numpy(),
                interest=has_interest(recent, config.min_visits).numpy(),
                chances=torch.softmax(output.outlook_logits[:, 0], dim=-1).numpy(),
                expected=output.expected_visits[:, 0].numpy(),
            )


def ask_all(
    model: InterestModel,
    histories: Histories,
    customers: npt.NDArray[np.int64],
    moment: float | npt.NDArray[np.float64],
) -> Answers:
    """Predict for customers and return all answers together; the caller bounds their number."""
    parts = list(ask(model, histories, customers, moment))
    return Answers(
        **{
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(Answers)
        }
    )


def ranked(answers: Answers, *, top: int, candidates: Candidates) -> list[npt.NDArray[np.int64]]:
    """Each customer's classes of highest score, best first; ties go to the lower index.

    Returns:
        [R] lists of class indices, shorter than `top` where there are fewer candidates.
    """
    allowed = ~answers.seen if candidates is Candidates.NEW else np.ones_like(answers.seen)
    order = np.argsort(np.where(allowed, -answers.scores, np.inf), axis=1, kind="stable")
    return [
        row[:top][chosen[row[:top]]].astype(np.int64)
        for row, chosen in zip(order, allowed, strict=True)
    ]
