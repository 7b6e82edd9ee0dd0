"""A model asked about customers at one moment: shares of the next basket, and the outlook.

An answer depends on what the customer did before the moment, and on no other customer.
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
"""One anchor a row instead of an evaluation's sixteen leaves room for more rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What the model says of R customers from one moment, C classes."""

    customers: npt.NDArray[np.int64]
    """[R] indices into the store's histories."""
    scores: npt.NDArray[np.float32]
    """[R, C] unnormalised log-probabilities; they rank."""
    shares: npt.NDArray[np.float32]
    """[R, C] each class's share of the next basket; a row adds up to 1."""
    seen: npt.NDArray[np.bool_]
    """[R, C] whether the customer ever bought of the class before."""
    recent: npt.NDArray[np.float32]
    """[R, C] visits with the class in the reference days."""
    interest: npt.NDArray[np.bool_]
    """[R, C] whether there is an interest, and so an outlook."""
    chances: npt.NDArray[np.float32]
    """[R, C, 3] of a fall, of staying, of a rise; without meaning where there is no interest."""
    expected: npt.NDArray[np.float32]
    """[R, C, H] visits with the class to expect up to the end of each horizon."""


def moment_of(store: OpenStore, when: When, settings: RunSettings | None) -> float:
    """The day from whose beginning the future is predicted.

    Args:
        store: The latest day is the one after its last visit.
        when: The latest, or the first day of a split.
        settings: Of the model's run; they fix the splits.

    Raises:
        EmptyStore: The store has no visit.
        ConfigError: A split is asked for, and no settings fix it.
    """
    if not len(store.histories.visit_days):
        raise EmptyStore(f"store {store.name!r} has no visit", hint="see `hanse data check`")
    if when is When.LATEST:
        return float(np.floor(store.histories.visit_days.max()) + 1)
    split = None if settings is None else settings.data.split
    if split is None:
        raise ConfigError(
            f"nothing here says when the split {when.value!r} begins",
            hint="name the settings of the model's run with --settings",
        )
    return days(split.train_until if when is When.VALIDATE else split.validate_until)


def said(moment: float) -> str:
    """Write a moment as ISO 8601 on the shop's own clock."""
    return (EPOCH + timedelta(days=moment)).isoformat()


def known(store: OpenStore, moment: float) -> npt.NDArray[np.int64]:
    """Indices of the customers with any visit before a moment.

    Raises:
        EmptyStore: Nobody has.
    """
    customers = store.histories.until(moment).active()
    if not len(customers):
        raise EmptyStore(
            f"nobody at store {store.name!r} has a visit before {said(moment)}",
            hint="choose another --split",
        )
    return customers


def ask(
    model: InterestModel,
    histories: Histories,
    customers: npt.NDArray[np.int64],
    moment: float | npt.NDArray[np.float64],
) -> Iterator[Answers]:
    """Ask the model about customers, some at a time.

    Args:
        model: Ready to be asked.
        histories: Of whom.
        customers: Indices into them.
        moment: From when on to predict, for all or for each.
    """
    config = model.config
    moments = np.broadcast_to(np.asarray(moment, dtype=np.float64), customers.shape)
    rows = _ROWS * rows_at_once(config)
    for start in range(0, len(customers), rows):
        some = customers[start : start + rows]
        shape = (len(some), 1)
        anchors = Anchors(
            customers=some,
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
                customers=some,
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
    """Ask about customers, all at once: the caller bounds how many."""
    parts = list(ask(model, histories, customers, moment))
    return Answers(
        **{
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(Answers)
        }
    )


def ranked(answers: Answers, *, top: int, candidates: Candidates) -> list[npt.NDArray[np.int64]]:
    """Each customer's best classes, the best first; ties go to the lower index.

    Returns:
        [R] lists of class indices, shorter than `top` where there are fewer candidates.
    """
    allowed = ~answers.seen if candidates is Candidates.NEW else np.ones_like(answers.seen)
    order = np.argsort(np.where(allowed, -answers.scores, np.inf), axis=1, kind="stable")
    return [
        row[:top][chosen[row[:top]]].astype(np.int64)
        for row, chosen in zip(order, allowed, strict=True)
    ]
