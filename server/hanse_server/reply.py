"""What a strategy sends, and the one reply that it sees: the mean of a sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np
from flwr.app import Message, MetricRecord, RecordDict

from hanse_common.config import RunSettings
from hanse_common.errors import FederationError
from hanse_common.instructions import Instructions, Kind, NDArray
from hanse_common.manifest import Manifest
from hanse_common.secagg import Aggregate
from hanse_common.vector import decode_evaluation, decode_training, unflatten
from hanse_server.strategies import to_record


def kind_of(messages: Sequence[Message]) -> Kind | None:
    """What an exchange is about, if the messages begin one.

    Raises:
        FederationError: They do not all say the same.
    """
    kinds = {message.metadata.message_type for message in messages}
    if len(kinds) != 1 or not kinds <= {"train", "evaluate"}:
        return None
    first = messages[0].content
    if any(m.content is not first and m.content != first for m in messages):
        raise FederationError(
            "the strategy sends different stores different messages, which would show the "
            "coordinator their updates",
            hint="use another strategy, or turn masking off with --no-secure-aggregation",
        )
    return cast(Kind, kinds.pop())


@lru_cache(maxsize=4)
def _settings(text: str) -> RunSettings:
    return RunSettings.model_validate_json(text)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What the strategy sees, and what the sum was multiplied by to be short enough."""

    message: Message
    cut: float | None


def reply_with(
    first: Message,
    told: Instructions,
    manifest: Manifest,
    aggregate: Aggregate,
    arrays: Mapping[str, NDArray],
    *,
    sum_norm: float,
) -> Reply:
    """Turn a sum into the one reply that the strategy sees.

    Args:
        first: A message that began the exchange, which is answered.
        told: The exchange.
        manifest: Its terms.
        aggregate: The sum.
        arrays: The model that was sent.
        sum_norm: L2 norm that the sum of updates is cut to.
    """
    records: dict[str, Any] = {}
    settings = _settings(told.settings)
    cut = None
    if told.kind == "train":
        sums = decode_training(aggregate.total, manifest)
        # The sum is released as it is; what is made of it costs no epsilon.
        cut = min(1.0, sum_norm / max(float(np.sqrt(np.square(sums.update).sum())), sum_norm))
        factor = cut * settings.update_factor(told.round)
        mean = unflatten(sums.update * (factor / len(aggregate.survivors)), arrays)
        moved = {n: (a + mean[n]).astype(np.float32) for n, a in arrays.items()}
        records["arrays"] = to_record(moved)
        figures = sums.statistics
    else:
        figures = decode_evaluation(aggregate.total, manifest, settings.task)
    records["metrics"] = MetricRecord({"num-examples": 1, **figures})
    return Reply(message=Message(RecordDict(records), reply_to=first), cut=cut)
