"""What the coordinator makes of a sum: is its noise there, is it short enough, and the mean.

A few thousand coordinates of every masked vector carry nothing but noise. Their sum shows the
coordinator how much noise the stores added, and nothing about any customer: so it notices a
store that adds none, by a fault or an old release, before many rounds rest on it. Malice it
does not notice: a store can add noise there and nowhere else.

>>> monitor = NoiseMonitor(variance=100.0)
>>> rng = np.random.default_rng(1)
>>> for _ in range(3):
...     monitor.take(rng.normal(0.0, (10 * 100.0) ** 0.5, 4096), stores=10)
>>> 0.95 < monitor.share < 1.05
True
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from flwr.app import Message, MetricRecord, RecordDict

from hanse_common.config import RunSettings
from hanse_common.errors import BadSum, FederationError, PrivacyError
from hanse_common.instructions import Instructions, Kind, NDArray
from hanse_common.manifest import Manifest
from hanse_common.manifest_terms import sum_norm
from hanse_common.secagg import Aggregate
from hanse_common.vector import NOISE_ONLY, decode_evaluation, decode_training, unflatten
from hanse_server.strategies import to_record

CHANCE = 1e-6
"""How rarely a round is lost although all noise is there."""


class NoiseMonitor:
    """Compares the noise of all rounds so far with what the manifest says.

    Args:
        variance: Of the noise that one store adds to one integer coordinate.
        needed: Stores whose noise the promise rests on: those of the smallest admissible sum,
            colluders with them, as their noise is in the sum and hides nothing from them.
            What arrives beyond theirs is noise that nothing needs, so that a store which adds
            none breaks no promise as long as so many others do. All of a sum if unset.
    """

    def __init__(self, variance: float, *, needed: int | None = None) -> None:
        self._variance = variance
        self._needed = needed
        self._squares = 0.0
        self._enough = 0.0
        self._count = 0

    @property
    def share(self) -> float:
        """Measured variance over promised variance, all rounds that count; 1 before any."""
        return self._squares / self._count if self._count else 1.0

    @property
    def warning(self) -> str:
        """What to say where some stores add none, and the promise holds all the same."""
        if not self._count or _chance_of_less(self._squares, self._count) >= CHANCE:
            return ""
        return (
            f"the stores' noise has {self.share:.1%} of the variance that all of them should "
            "add; the promise needs less, and holds; have every store check its release of Hanse"
        )

    def take(self, total: npt.NDArray[Any], *, stores: int) -> None:
        """Take in the noise-only coordinates of a round's sum.

        Args:
            total: Integers, shape [coordinates].
            stores: How many stores the sum holds.

        Raises:
            BadSum [round-noise-missing]: This round alone has so little noise that its chance is
                below `CHANCE` if the stores that are needed add theirs. The round is lost and
                does not count.
            PrivacyError [noise-missing]: The same holds for all rounds that count, this one
                included: the model rests on less noise than was promised.
        """
        needed = min(stores, self._needed or stores)
        found = float(np.square(total.astype(np.float64)).sum()) / self._variance
        if _chance_of_less(found / needed, total.size) < CHANCE:
            raise BadSum(
                _missing(found / stores, total.size, stores),
                code="round-noise-missing",
                hint="the model is unchanged; have every store check its release of Hanse",
            )
        self._squares, self._count = self._squares + found / stores, self._count + total.size
        self._enough += found / needed
        if _chance_of_less(self._enough, self._count) < CHANCE:
            raise PrivacyError(
                _missing(self._squares, self._count, stores),
                code="noise-missing",
                hint="the model is unchanged; have every store check its release of Hanse, "
                "then resume",
            )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reading:
    """What was read out of a sum.

    Args:
        reply: What the strategy sees.
        cut: What the sum of updates was multiplied by, to be short enough; None if there is none.
        noise_share: Noise measured over noise promised, all rounds so far; None where it is not
            measured.
    """

    reply: Message
    cut: float | None = None
    noise_share: float | None = None


class SumReader:
    """Reads the sums of a federation's exchanges.

    Args:
        manifest: The federation's.

    Guarantees:
        What a strategy is given moves the model by no more than `sum_norm(manifest)` allows.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._longest = sum_norm(manifest)
        noise = {part.name: part.noise_variance for part in manifest.sections}
        terms = manifest.terms()
        self._monitor = (
            NoiseMonitor(noise[NOISE_ONLY], needed=terms.survivors(terms.minimum_cohort))
            if NOISE_ONLY in noise
            else None
        )

    @property
    def warning(self) -> str:
        """See `NoiseMonitor.warning`; empty where noise is not measured."""
        return "" if self._monitor is None else self._monitor.warning

    def read(
        self,
        first: Message,
        told: Instructions,
        aggregate: Aggregate,
        arrays: Mapping[str, NDArray],
    ) -> Reading:
        """Turn a sum into the one reply that the strategy sees.

        Args:
            first: A message that began the exchange, which is answered.
            told: The exchange.
            aggregate: The sum.
            arrays: The model that was sent.

        Raises:
            BadSum, PrivacyError: See `NoiseMonitor.take`.
        """
        settings, stores = _settings(told.settings), len(aggregate.survivors)
        if told.kind == "evaluate":
            figures = decode_evaluation(aggregate.total, self._manifest, settings.task)
            return Reading(reply=_reply(first, {}, figures))
        sums = decode_training(aggregate.total, self._manifest)
        if self._monitor is not None and sums.noise_only is not None:
            self._monitor.take(sums.noise_only, stores=stores)
        # The sum is released as it is; what is made of it costs no epsilon.
        norm = float(np.sqrt(np.square(sums.update).sum()))
        cut = min(1.0, self._longest / max(norm, self._longest))
        factor = cut * settings.update_factor(told.round)
        mean = unflatten(sums.update * (factor / stores), arrays)
        moved = {n: (a + mean[n]).astype(np.float32) for n, a in arrays.items()}
        return Reading(
            reply=_reply(first, {"arrays": to_record(moved)}, sums.statistics),
            cut=cut,
            noise_share=None if self._monitor is None else self._monitor.share,
        )


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


def _reply(first: Message, records: Mapping[str, Any], figures: Mapping[str, float]) -> Message:
    metrics = MetricRecord({"num-examples": 1, **figures})
    return Message(RecordDict({**records, "metrics": metrics}), reply_to=first)


@lru_cache(maxsize=4)
def _settings(text: str) -> RunSettings:
    return RunSettings.model_validate_json(text)


def _missing(squares: float, count: int, stores: int) -> str:
    missing = max(1, round((1 - squares / count) * stores))
    return (
        f"the stores' noise has {squares / count:.1%} of the variance that the manifest "
        f"promises: about {missing} of {stores} stores add none"
    )


def _chance_of_less(squares: float, count: int) -> float:
    """The chi-square distribution's lower tail."""
    from scipy.special import gammainc

    return float(gammainc(count / 2, squares / 2))
