"""Requests to the prediction service: their form, and their conversion to histories.

{"users": ["5f0c…"], "top": 10}
{"histories": [[{"time": "2026-03-01T17:30", "classes": ["GROCERY/CHEESE"]}]],
 "at": "2026-03-09", "top": 10}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from hanse_client.features.histories import Histories, days
from hanse_client.features.ragged import offsets_of
from hanse_client.inference.load import OpenStore
from hanse_client.inference.tables import classes_of
from hanse_client.tasks.interest import InterestConfig
from hanse_common.errors import DataError, EmptyStore
from hanse_common.settings_files import Settings

MOST = 256
"""Largest number of customers in one request."""


def _shop_clock(moment: datetime) -> datetime:
    if moment.tzinfo is not None:
        raise ValueError("write times on the shop's own clock, without an offset")
    return moment


Moment = Annotated[datetime, AfterValidator(_shop_clock)]


class Visit(Settings):
    """One visit of a posted history: its time, and the classes bought."""

    time: Moment
    classes: Annotated[list[str], Field(max_length=1_000)]


class Request(Settings):
    """The body of a request: either pseudonyms of the store's customers, or histories."""

    users: Annotated[list[str], Field(min_length=1, max_length=MOST)] | None = None
    histories: (
        Annotated[
            list[Annotated[list[Visit], Field(max_length=5_000)]],
            Field(min_length=1, max_length=MOST),
        ]
        | None
    ) = None
    at: Moment | None = None
    """The moment to predict from; if unset, the day after the store's last visit."""
    top: int = Field(default=10, ge=1, le=1_000)

    @model_validator(mode="after")
    def _one_of_both(self) -> Request:
        if (self.users is None) == (self.histories is None):
            raise ValueError("give either users or histories")
        return self


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """Customers' histories, the moment to predict from, and the length of their rankings."""

    histories: Histories
    moment: float
    top: int


def question(
    request: Request, store: OpenStore, config: InterestConfig, *, latest: float, reads_texts: bool
) -> Question:
    """Convert a request to the model's input.

    Args:
        request: The body of the request.
        store: The store, whose customers may be named.
        config: The model's vocabulary.
        latest: The moment to predict from if the request names none, in days.
        reads_texts: Whether the model reads item texts, which posted histories lack.

    Raises:
        DataError [unknown-customer]: The store has no such pseudonym.
        DataError [unknown-category]: The model ranks no such class; the hint names the nearest.
        EmptyStore: A history has no visit before the moment.
        DataError: Histories are posted to a model that reads item texts.
    """
    moment = latest if request.at is None else days(request.at)
    if request.users is not None:
        known = store.histories.customers
        places = np.searchsorted(known, request.users)
        for name, place in zip(request.users, places, strict=True):
            if place == len(known) or known[place] != name:
                raise DataError(
                    "the store has no customer with that pseudonym",
                    code="unknown-customer",
                    hint=f"position {request.users.index(name)} of users",
                )
        histories = store.histories.select(places.astype(np.int64))
    else:
        if reads_texts:
            raise DataError(
                "this model reads the texts of items, which a posted history lacks",
                hint="ask by users",
            )
        histories = _posted(request.histories or [], store, config)
    visits = np.diff(histories.until(moment).visit_offsets)
    if (visits == 0).any():
        raise EmptyStore(
            "a history has no visit before the moment of prediction",
            hint=f"position {int(np.argmin(visits))}; `at` names another moment",
        )
    return Question(histories=histories, moment=moment, top=request.top)


def _posted(
    posted: Sequence[Sequence[Visit]], store: OpenStore, config: InterestConfig
) -> Histories:
    number = {name: index for index, name in enumerate(config.classes)}
    ordered = [sorted(visits, key=lambda visit: visit.time) for visits in posted]
    flat = [visit for visits in ordered for visit in visits]
    for name in {name for visit in flat for name in visit.classes} - set(number):
        classes_of(name, config, store)  # raises with the nearest names if there is no such path
        raise DataError(
            f"{name!r} is not a class of the model", hint="it is a path that several classes share"
        )
    pairs = [sorted({number[name] for name in visit.classes}) for visit in flat]
    return Histories(
        customers=np.array([str(index) for index in range(len(posted))]),
        homes=np.full(len(posted), -1, dtype=np.int64),
        visit_offsets=offsets_of(np.array([len(visits) for visits in ordered], dtype=np.int64)),
        visit_days=np.array([days(visit.time) for visit in flat], dtype=np.float64),
        # Not read: `question` refuses posted histories if the model uses its transformer.
        visit_vectors=np.zeros((len(flat), store.histories.visit_vectors.shape[1]), np.float16),
        visit_facts=np.zeros((len(flat), config.visit_facts), dtype=np.float32),
        pair_offsets=offsets_of(np.array([len(pair) for pair in pairs], dtype=np.int64)),
        pair_classes=np.array([one for pair in pairs for one in pair], dtype=np.int32),
        observed_from=store.histories.observed_from,
    )
