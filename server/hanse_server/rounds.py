"""The coordinator's round loop: it sends the model, collects updates, and saves checkpoints.

Flower's own `Strategy.start` cannot resume, so the loop is ours and the strategies are
Flower's. A run's folder holds `initial.safetensors` (the initial model), a checkpoint per
round, `rounds.jsonl` (one line per stage, for people and displays) and, at the end,
`global.safetensors`.

A failed round costs only itself: the model stays as it was, and the next round starts from it.
A run ends before its last round only if too few stores answer in several rounds in a row, or
if so many stores have spent the manifest's budget that no further sum is possible.

A run is repeatable bit for bit: stores are listed by name, replies are added up in that
order, and a strategy's random draws depend on the seed, the round and the stage only. A
resumed run therefore equals one that was never stopped.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAvg

from hanse_common.config import RunSettings
from hanse_common.errors import (
    BudgetSpent,
    FederationError,
    HanseError,
    RoundFailed,
    RunDirectoryError,
)
from hanse_common.paths import GLOBAL_FILE, INITIAL_FILE
from hanse_common.phases import Phase
from hanse_common.vector import released_array
from hanse_server.checkpoint import (
    RunCheckpoint,
    check_resumable,
    latest_checkpoint,
    latest_round,
    read_arrays,
    save_checkpoint,
    significant_settings,
    write_arrays,
)
from hanse_server.flower_internals import AppExitException
from hanse_server.iterate_average import IterateAverage
from hanse_server.secure_grid import SecureGrid
from hanse_server.stage_log import ExchangeResult, StageLog
from hanse_server.store_grid import StoreGrid, describe_refusals
from hanse_server.strategies import make_strategy, restore_state, strategy_state, to_record

NDArray = npt.NDArray[Any]
_Split = Literal["validate", "test"]


_WEIGHT = 1
"""The number of examples that every store must report; its real size is confidential."""

_TRAIN, _VALIDATE, _TEST = 0, 1, 2  # part of the seeds: other numbers would be other runs


def run_rounds(
    grid: StoreGrid | SecureGrid,
    run_dir: Path,
    settings: RunSettings,
    *,
    resume: bool = False,
    timeout: float | None = None,
) -> dict[str, NDArray]:
    """Run a federation from its initial model, or from its last checkpoint, to the end.

    Args:
        grid: The grid that reaches the stores.
        run_dir: The run's folder, with `initial.safetensors` in it.
        settings: The run's settings; the stores get them as JSON.
        resume: Whether to go on from the last checkpoint.
        timeout: Seconds to wait for the replies of a stage; without limit if unset.

    Returns:
        The final global arrays by name, as in `global.safetensors`.

    Raises:
        ConfigError: The strategy or one of its parameters is unknown.
        RunDirectoryError: The folder cannot be written, lacks a model, or holds a run.
        RunDirectoryError [run-not-resumable]: There is nothing to go on from, or a setting changed.
        FederationError: Too few stores replied, or their updates do not fit together; the
            model and the last checkpoint stay as they were.
        RoundFailed: Too few stores took part in several secure aggregations in a row, or in
            the last ones; the run can be resumed from the round before them.
        BudgetSpent: The stores' budget for the manifest is spent. The run has ended early, and
            `global.safetensors` holds the model so far.
        PrivacyError [noise-missing]: The stores add less noise than the manifest promises; the
            model and the last checkpoint stay as they were.
    """
    # Everything that can be refused is, before a store trains and pays for it.
    strategy = make_strategy(settings)
    _check_writable(run_dir)
    grid.gather(latest_round(run_dir) + 1, "train", everyone=True)
    _check_enough_stores(grid, strategy)
    start = _starting_point(run_dir, settings, resume)
    restore_state(strategy, start.strategy)
    log = StageLog(run_dir, start.round if resume else -1)
    stages = _Stages(grid, strategy, settings, log, timeout, run_dir)
    arrays = dict(start.arrays)
    rounds, every = settings.federation.rounds, settings.federation.evaluate_every

    average, schedule = IterateAverage(settings, start.strategy), settings.schedule
    for number in range(start.round, rounds + 1):
        if number > start.round:
            # 1. The strategy picks stores, which train on the global model; 2. it aggregates
            # their updates; 3. once the checkpoint is saved, a crash loses nothing of them.
            arrays = stages.train(number, arrays)
            arrays = average.take(number, arrays)
            if not stages.too_few:  # without a checkpoint, a resumed run makes the round again
                state = {**strategy_state(strategy), **average.state}
                save_checkpoint(run_dir, _checkpoint(number, arrays, state, settings))
        grid.publish(number, schedule.known(arrays, after=number))
        # 4. At intervals, and at both ends, every store evaluates the new model locally.
        if number % every == 0 or number == rounds:
            stages.evaluate(number, arrays, "validate")
    # 5. The test weeks are used once, when nothing can be tuned to them any more.
    write_arrays(run_dir / GLOBAL_FILE, arrays)
    stages.evaluate(rounds, arrays, "test")
    stages.finish(rounds)
    return arrays


def _checkpoint(
    number: int,
    arrays: Mapping[str, NDArray],
    state: Mapping[str, NDArray],
    settings: RunSettings,
) -> RunCheckpoint:
    return RunCheckpoint(
        round=number,
        arrays=arrays,
        strategy=state,
        settings=significant_settings(settings),
    )


def _check_writable(run_dir: Path) -> None:
    # Now, and not at the first checkpoint, by when stores have trained and paid for a round.
    try:
        with tempfile.TemporaryFile(dir=run_dir):
            pass
    except OSError as error:
        raise RunDirectoryError(
            f"cannot write to {run_dir}: {error.strerror}", hint="name another run directory"
        ) from error


def _check_enough_stores(grid: StoreGrid | SecureGrid, strategy: FedAvg) -> None:
    """Refuse a lack of stores at once; Flower's sampling would wait for them without end."""
    needed = strategy_minimum(strategy)
    if len(grid.stores) < needed:
        absent = describe_refusals(grid.absent)
        raise FederationError(
            f"{type(strategy).__name__} needs at least {needed} stores and "
            f"{len(grid.stores)} answered" + (f"; {absent}" if absent else ""),
            hint="add stores, or lower min_train_nodes, min_evaluate_nodes and "
            "min_available_nodes in federation.strategy_options",
        )


def _starting_point(run_dir: Path, settings: RunSettings, resume: bool) -> RunCheckpoint:
    """Return the last checkpoint, or one of round 0 made from the initial model."""
    last = latest_checkpoint(run_dir)
    if resume:
        return check_resumable(last, settings)
    if last is not None:
        raise RunDirectoryError(
            f"{run_dir} already holds a run that reached round {last.round}",
            hint="go on with --resume, or name another run directory",
        )
    arrays = read_arrays(run_dir / INITIAL_FILE)
    start = RunCheckpoint(
        round=0, arrays=arrays, strategy={}, settings=significant_settings(settings)
    )
    save_checkpoint(run_dir, start)
    return start


class _Stages:
    """The exchanges with the stores within a round."""

    def __init__(
        self,
        grid: StoreGrid | SecureGrid,
        strategy: FedAvg,
        settings: RunSettings,
        log: StageLog,
        timeout: float | None,
        run_dir: Path,
    ) -> None:
        self._grid = grid
        self._strategy = strategy
        self._settings = settings
        self._json = settings.model_dump_json()
        self._log = log
        self._timeout = timeout
        self._run_dir = run_dir
        self.too_few = 0
        """Consecutive rounds that were lost because too few stores answered."""

    def train(self, number: int, arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Let the sampled stores train, and return the next global arrays.

        If the round is lost, the arrays are returned unchanged.

        Raises:
            FederationError: Too few replies, or the strategy could not aggregate them.
            RoundFailed: The same under secure aggregation, too often in a row, or at the end.
            BudgetSpent: Too few stores can still pay for a round.
        """
        started = time.monotonic()
        self._seed(number, _TRAIN)
        phase = self._settings.schedule.at(number)
        # A sum of statistics is released once: who is missing then is missing in the model.
        self._grid.gather(number, "train", everyone=phase.release == "statistics")
        known = self._settings.schedule.known(arrays, after=number - 1)
        if phase.release == "statistics":
            return self._release(phase, number, arrays, known, started)
        sent = to_record(known)
        messages = self._strategy.configure_train(number, sent, self._config(), self._grid)
        result = self._exchange(messages, lambda reply: _mismatch(reply, known))
        if isinstance(result.error, BudgetSpent):
            raise self._end_early(number - 1, arrays, result)
        trained = len(result.survivors)
        if result.error is None and trained < self._strategy.min_train_nodes:
            few = FederationError(
                f"round {number}: {trained} stores trained and "
                f"{self._settings.federation.strategy} needs {self._strategy.min_train_nodes}: "
                f"{describe_refusals(result.refusals)}",
                hint="repair the stores, then go on with --resume",
            )
            result = result.lost_to(few)
        if result.error is not None:
            self._log.append(number, "train", result, started=started)
            self._miss(number, result.error)
            return dict(arrays)
        self.too_few = 0
        try:
            record, metrics = self._strategy.aggregate_train(number, result.replies)
        except (AppExitException, ValueError) as error:
            raise FederationError(f"round {number}: cannot aggregate: {error}") from error
        if record is None:
            raise FederationError(
                f"round {number}: {self._settings.federation.strategy} made no model of "
                f"{trained} updates; {describe_refusals(result.refusals)}",
                hint="it may need more stores for its parameters",
            )
        # FedAdam's step size is a float64 scalar, which would turn the model into float64.
        updated = {
            name: record[name].numpy().astype(array.dtype, copy=False)
            for name, array in known.items()
        }
        self._log.append(number, "train", result, started=started, sums=_sums(metrics))
        return {**arrays, **updated}

    def _release(
        self,
        phase: Phase,
        number: int,
        arrays: Mapping[str, NDArray],
        known: Mapping[str, NDArray],
        started: float,
    ) -> dict[str, NDArray]:
        """Ask every store for its sum of statistics, and return the arrays with the total.

        If the round is lost, so is the sum: the run goes on with the model's public prior. One
        more sum would cost as much as the first, and no terms grant it.
        """
        asked = FedAvg(
            min_train_nodes=self._strategy.min_train_nodes,
            min_evaluate_nodes=self._strategy.min_evaluate_nodes,
            min_available_nodes=self._strategy.min_available_nodes,
        )
        messages = asked.configure_train(number, to_record(known), self._config(), self._grid)
        shape = {phase.array: arrays[phase.array]}
        result = self._exchange(messages, lambda reply: _mismatch(reply, shape))
        if result.error is None and not result.replies:
            result = result.lost_to(
                FederationError(f"round {number}: {describe_refusals(result.refusals)}")
            )
        self._log.append(number, "train", result, started=started)
        if result.error is not None:
            if not isinstance(result.error, BudgetSpent):
                self._miss(number, result.error)
            return dict(arrays)
        self.too_few = 0
        sums = [
            cast(ArrayRecord, reply.content["arrays"])[phase.array].numpy()
            for reply in result.replies
        ]
        # One reply is the sum of all stores already. Without masks there is one from each, and the
        # variances of their noise add up.
        total = np.sum([array[:-1].astype(np.float64) for array in sums], axis=0)
        deviation = float(np.sqrt(np.sum([float(array[-1]) ** 2 for array in sums])))
        return {**arrays, phase.array: released_array(total, deviation)}

    def evaluate(self, number: int, arrays: Mapping[str, NDArray], split: _Split) -> None:
        """Let the stores evaluate the model; their metrics stay there, or leave in a noisy sum.

        Does nothing if an earlier process of this run has done it, or if the stores would
        refuse because the terms have no evaluation sums.

        Raises:
            FederationError: Every store failed.
        """
        if not self._grid.evaluates or self._log.holds(number, "evaluate", split):
            return
        started = time.monotonic()
        self._grid.gather(number, "evaluate")
        self._seed(number, _VALIDATE if split == "validate" else _TEST)
        messages = self._strategy.configure_evaluate(
            number,
            to_record(self._settings.schedule.known(arrays, after=number)),
            self._config(split=split),
            self._grid,
        )
        result = self._exchange(messages, _wrong_weight)
        if result.error is None and result.refusals and not result.replies:
            raise FederationError(
                f"round {number}: no store could evaluate: {describe_refusals(result.refusals)}",
                hint="repair the stores, then go on with --resume",
            )
        # One reply is the sum of all stores. Without masks there is one from each, and their
        # metrics stay apart.
        summed = len(result.replies) == 1
        sums = _sums(result.replies[0].content.get("metrics")) if summed else {}
        self._log.append(number, "evaluate", result, split=split, started=started, sums=sums)

    def finish(self, number: int) -> None:
        """Record that the run is finished."""
        if not self._log.holds(number, "done", None):
            self._log.append(number, "done")

    def _end_early(
        self, number: int, arrays: Mapping[str, NDArray], result: ExchangeResult
    ) -> BudgetSpent:
        """Record that no round can follow, and return the error for those who wait for the run."""
        # The model before the log's line: who reads that the run ended finds the model there.
        write_arrays(self._run_dir / GLOBAL_FILE, arrays)
        words = f"ended early after round {number}: the stores' budget for this manifest is spent"
        ended = ExchangeResult(refusals=result.refusals, error=result.error, note=words)
        self._log.append(number, "done", ended)
        return BudgetSpent(
            f"{words}; {describe_refusals(result.refusals)}",
            hint=f"{GLOBAL_FILE} holds what was trained; to go on from it, sign new terms with "
            "`--continue-from` this run",
        )

    def _miss(self, number: int, error: HanseError) -> None:
        """Count a lost round if too few stores answered it; raise if there were too many."""
        # A bad sum, for instance, cost this round and says nothing about missing stores.
        if not isinstance(error, RoundFailed | FederationError):
            self.too_few = 0
            return
        self.too_few += 1
        if self.too_few >= self._grid.patience or number == self._settings.federation.rounds:
            raise error

    def _exchange(
        self, messages: Iterable[Message], fault: Callable[[Message], str]
    ) -> ExchangeResult:
        """Send messages, wait for the replies, and drop those that have a fault."""
        result = self._grid.exchange(messages, timeout=self._timeout)
        faults = {
            self._grid.stores[reply.metadata.src_node_id]: reason
            for reply in result.replies
            if (reason := fault(reply))
        }
        names = self._grid.stores
        return replace(
            result,
            replies=tuple(
                reply for reply in result.replies if names[reply.metadata.src_node_id] not in faults
            ),
            refusals={**result.refusals, **faults},
            survivors=tuple(name for name in result.survivors if name not in faults),
        )

    def _config(self, **extra: str) -> ConfigRecord:
        return ConfigRecord({"settings": self._json, **extra})

    def _seed(self, number: int, stage: int) -> None:
        """Seed the global generators, from which Flower's sampling and strategies draw."""
        # Per stage, not once per run: a resumed run draws what an uninterrupted one would.
        random.seed(f"{self._settings.seed}/{number}/{stage}")
        np.random.seed([self._settings.seed, number, stage])


def _sums(metrics: object) -> dict[str, float]:
    """Sums over the stores' customers, including the noise of the stores."""
    if not isinstance(metrics, MetricRecord):
        return {}
    return {
        name: float(value)
        for name, value in metrics.items()
        if name != "num-examples" and isinstance(value, int | float)
    }


def strategy_minimum(strategy: FedAvg) -> int:
    """Return how many stores a strategy needs before it sends anything."""
    return max(strategy.min_available_nodes, strategy.min_train_nodes, strategy.min_evaluate_nodes)


def _mismatch(reply: Message, sent: Mapping[str, NDArray]) -> str:
    """The fault of an update, empty if it has none; its arrays get the order of the sent ones.

    The order matters because Flower's FedAvgM and Bulyan pair arrays by position. A single NaN
    from one store would spread to the model of all.
    """
    record = reply.content.get("arrays")
    if not isinstance(record, ArrayRecord) or set(record) != set(sent):
        return "[federation] the reply does not hold the arrays that were sent"
    for name, array in sent.items():
        returned = record[name].numpy()
        if returned.shape != array.shape or returned.dtype != array.dtype:
            return (
                f"[federation] {name} came back as {returned.dtype}{list(returned.shape)} "
                f"instead of {array.dtype}{list(array.shape)}"
            )
        if not np.isfinite(returned).all():
            return f"[federation] {name} holds values that are not finite"
    reply.content["arrays"] = ArrayRecord({name: record[name] for name in sent})
    return _wrong_weight(reply)


def _wrong_weight(reply: Message) -> str:
    metrics = cast(MetricRecord, reply.content.get("metrics", MetricRecord()))
    # Flower weighs by this number: a store could otherwise claim any weight in the mean.
    if metrics.get("num-examples") != _WEIGHT:
        return f"[federation] num-examples must be {_WEIGHT}: a store's size stays with it"
    return ""
