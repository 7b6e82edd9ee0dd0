"""Reads a sum: measures its noise, cuts it to the public norm, and computes the mean.

A few thousand coordinates of every masked vector carry only noise. Their sum shows how much
noise the stores added, and nothing about any customer. So the coordinator notices within a few
rounds if a store adds none, because of a fault or an old release. It does not notice malice: a
store can add noise to these coordinates and to no others (docs/privacy.md).

>>> monitor = NoiseMonitor()
>>> rng = np.random.default_rng(1)
>>> for _ in range(3):
...     monitor.take(rng.normal(0.0, (10 * 100.0) ** 0.5, 4096), stores=10, variance=100.0)
>>> 0.95 < monitor.share < 1.05
True
"""

from __future__ import annotations

import math
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
from hanse_common.manifest_noise import (
    planned_customers,
    rate_share,
    statistics_norm,
    sum_norm,
)
from hanse_common.manifest_terms import plan_of
from hanse_common.phases import trained
from hanse_common.secagg import Aggregate
from hanse_common.secagg.layout import Floats, Integers
from hanse_common.secagg.reach import largest_norm
from hanse_common.vector import (
    NOISE_ONLY,
    UPDATE,
    decode_evaluation,
    decode_statistics,
    decode_training,
    released_array,
    unflatten,
)
from hanse_server.strategies import to_record

_FALSE_ALARM = 1e-6
"""The chance that a round is lost although its noise is complete."""


class NoiseMonitor:
    """Compares the noise of all rounds so far with the manifest's.

    Args:
        needed: Number of stores whose noise the promise rests on: those of the smallest
            admissible sum, colluders included (theirs is in the sum, and hides nothing from
            them). Noise beyond that is surplus, so a store that adds none breaks no promise
            as long as this many others do. All stores of a sum if unset.
    """

    def __init__(self, *, needed: int | None = None) -> None:
        self._needed = needed
        self._squares = 0.0
        self._enough = 0.0
        self._count = 0

    @property
    def share(self) -> float:
        """Measured variance over promised variance, of all rounds that count; 1 before any."""
        return self._squares / self._count if self._count else 1.0

    @property
    def warning(self) -> str:
        """A warning that stores add no noise although the promise holds; empty if all do."""
        if not self._count or _chance_of_less(self._squares, self._count) >= _FALSE_ALARM:
            return ""
        return (
            f"the stores' noise has {self.share:.1%} of the variance that all of them should "
            "add; the promise needs less, and holds; have every store check its release of Hanse"
        )

    def take(self, total: npt.NDArray[Any], *, stores: int, variance: float) -> None:
        """Measure the noise-only coordinates of a round's sum.

        Args:
            total: Integers, shape [coordinates].
            stores: The number of stores in the sum.
            variance: Variance of the noise that one store adds to one coordinate, in integers.

        Raises:
            BadSum [round-noise-missing]: This round alone has so little noise that the chance
                of it is below 10⁻⁶ if the stores that are needed add theirs. The round is lost
                and does not count.
            PrivacyError [noise-missing]: The same holds for all rounds that count together,
                including this one: the model rests on less noise than was promised.
        """
        needed = min(stores, self._needed or stores)
        # In float64, where squares of 32-bit integers cannot overflow. Over the variance they
        # are chi-square distributed, with one degree of freedom per coordinate and store.
        squares = float(np.square(total.astype(np.float64)).sum()) / variance
        if _chance_of_less(squares / needed, total.size) < _FALSE_ALARM:
            raise BadSum(
                _missing(squares / stores, total.size, stores),
                code="round-noise-missing",
                hint="the model is unchanged; have every store check its release of Hanse",
            )
        self._squares, self._count = self._squares + squares / stores, self._count + total.size
        self._enough += squares / needed
        # Over all rounds: a small deficit in each shows in none of them alone.
        if _chance_of_less(self._enough, self._count) < _FALSE_ALARM:
            raise PrivacyError(
                _missing(self._squares, self._count, stores),
                code="noise-missing",
                hint="the model is unchanged; have every store check its release of Hanse, "
                "then resume",
            )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reading:
    """The result of reading a sum.

    Args:
        reply: The reply that the strategy gets.
        cut: The factor that shortened the sum of updates to the public norm, at most 1; None if
            there is no such sum.
        noise_share: Measured over promised variance of the noise, all rounds so far; None where
            it is not measured.
    """

    reply: Message
    cut: float | None = None
    noise_share: float | None = None


class SumReader:
    """Reads the sums of a federation's exchanges.

    Args:
        manifest: The federation's signed terms.

    Guarantees:
        The reply moves the model by no more than `sum_norm(manifest)` allows, and holds no
        sum of statistics beyond `statistics_norm`.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        terms = manifest.terms()
        # Only mode `distributed` has the section: there noise is added to the integers.
        self._variances = {
            kind: part.noise_variance
            for kind in manifest.kinds
            for part in manifest.sections_of(kind)
            if part.name == NOISE_ONLY
        }
        needed = terms.survivors(terms.minimum_cohort)
        self._monitor = NoiseMonitor(needed=needed) if self._variances else None

    @property
    def warning(self) -> str:
        """See `NoiseMonitor.warning`; empty where noise is not measured."""
        return "" if self._monitor is None else self._monitor.warning

    def read(
        self,
        first: Message,
        instructions: Instructions,
        aggregate: Aggregate,
        arrays: Mapping[str, NDArray],
    ) -> Reading:
        """Turn a sum into the one reply that the strategy sees.

        Args:
            first: A message that began the exchange; the reply answers it.
            instructions: The exchange's instructions.
            aggregate: The sum.
            arrays: The model that was sent, by name.

        Raises:
            BadSum [forged-vector]: The planned customers cannot have made a sum of statistics.
            BadSum, PrivacyError: See `NoiseMonitor.take`.
        """
        settings, stores = _settings(instructions.settings), len(aggregate.survivors)
        if instructions.kind == "evaluate":
            figures = decode_evaluation(
                aggregate.total, self._manifest, settings.task, settings.metrics
            )
            return Reading(reply=_reply(first, {}, figures))
        phase = self._manifest.schedule.at(instructions.round)
        if phase.release == "statistics":
            released = decode_statistics(aggregate.total, self._manifest, phase.name)
            self._measure(released.noise_only, phase.name, stores)
            self._check_reach(released.total, settings, phase.name, stores)
            array = released_array(released.total, self._deviation(phase.name, stores))
            return self._reading(_reply(first, {"arrays": to_record({phase.array: array})}, {}))
        sums = decode_training(aggregate.total, self._manifest)
        self._measure(sums.noise_only, phase.name, stores)
        cut = self._cut(sums.update)
        factor = cut * settings.update_factor(instructions.round)
        factor, old = factor * rate_share(self._manifest, settings), trained(arrays)
        mean = unflatten(sums.update * (factor / stores), old)
        moved = {n: (a + mean[n]).astype(np.float32) for n, a in old.items()}
        return self._reading(
            _reply(first, {"arrays": to_record({**arrays, **moved})}, sums.statistics), cut
        )

    def _measure(self, noise_only: Integers | None, kind: str, stores: int) -> None:
        """Measure the noise, before the sum is used: without it, it must not move the model."""
        if self._monitor is not None and noise_only is not None:
            self._monitor.take(noise_only, stores=stores, variance=self._variances[kind])

    def _cut(self, total: Floats) -> float:
        """The factor that cuts a sum of updates to its public norm, at most 1."""
        # The sum was released when it was unmasked; cutting it afterwards costs no epsilon.
        longest, norm = sum_norm(self._manifest), float(np.sqrt(np.square(total).sum()))
        return min(1.0, longest / max(norm, longest))

    def _check_reach(self, total: Floats, settings: RunSettings, kind: str, stores: int) -> None:
        """Check that all planned customers together can have made a sum of statistics.

        Raises:
            BadSum [forged-vector]: They cannot. It is not cut instead: models that take only
                ratios of a sum would follow a forged vector all the same.
        """
        section = next(s for s in self._manifest.terms(kind).layout.sections if s.name == UPDATE)
        most = statistics_norm(self._manifest, settings, kind)
        longest = largest_norm(section, stores, most=most) / section.scale
        norm = float(np.sqrt(np.square(total).sum()))
        if norm > longest:
            planned = len(self._manifest.stores) * planned_customers(settings)
            raise BadSum(
                f"the sum of {kind!r} has norm {norm:,.0f}, and with its noise {longest:,.0f} is "
                f"the most for a federation planned with {planned:,.0f} customers",
                code="forged-vector",
                hint="the model is unchanged; if there are more customers than the settings' "
                "expected_batch_size / sample_rate for each store, raise max_norm of the phase",
            )

    def _deviation(self, kind: str, stores: int) -> float:
        """The standard deviation of the noise in each number of a sum of statistics."""
        update = next(part for part in self._manifest.sections_of(kind) if part.name == UPDATE)
        plan = plan_of(self._manifest)
        one = math.sqrt(update.noise_variance) / update.scale
        if plan is not None and plan.mode == "local":
            one = plan.phase_noise[kind]
        return math.sqrt(stores) * one

    def _reading(self, reply: Message, cut: float | None = None) -> Reading:
        share = None if self._monitor is None else self._monitor.share
        return Reading(reply=reply, cut=cut, noise_share=share)


def kind_of(messages: Sequence[Message]) -> Kind | None:
    """The kind of the exchange that messages begin; None if they begin none.

    Raises:
        FederationError: The messages differ.
    """
    kinds = {message.metadata.message_type for message in messages}
    if len(kinds) != 1 or not kinds <= {"train", "evaluate"}:
        return None
    first = messages[0].content
    # Identity first: strategies share one record, and comparing models is slow.
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
    # At least one: the test has failed, even if the estimate rounds to none.
    missing = max(1, round((1 - squares / count) * stores))
    return (
        f"the stores' noise has {squares / count:.1%} of the variance that the manifest "
        f"promises: about {missing} of {stores} stores add none"
    )


def _chance_of_less(squares: float, count: int) -> float:
    """The lower tail of the chi-square distribution with `count` degrees of freedom."""
    # Imported late: SciPy takes long to load, and is needed only once a sum has arrived.
    from scipy.special import gammainc

    return float(gammainc(count / 2, squares / 2))
