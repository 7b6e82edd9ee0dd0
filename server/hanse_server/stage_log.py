"""What came of an exchange, and the three files of a run that say where it is.

`ExchangeResult` is what a grid returns: everything about one exchange, in one value.
`rounds.jsonl` has one line for each exchange of a run, for people, displays and resumption.
`progress.json` says where a run is within a round: it is replaced at every step, and the run
itself never reads it. `failure.json` says why the last process of a run ended, if it failed.
Nothing in them comes from a store's data but sums that have left the stores with their noise.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from hanse_common.decoding import json_file, json_lines
from hanse_common.durable import write_durably
from hanse_common.errors import HanseError
from hanse_common.monitoring.codes import code_in
from hanse_common.paths import FAILURE_FILE, PROGRESS_FILE, ROUNDS_FILE
from hanse_common.roundlog.records import SUMMED

if TYPE_CHECKING:
    from flwr.app import Message

    from hanse_common.secagg import Aggregate

_log = logging.getLogger(__name__)
_STAGE = re.compile(r"^at stage '\w+': ")

Stage = Literal["train", "evaluate", "done"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StageOutcome:
    """Whom one stage of an attempt asked, and who did not answer.

    Args:
        attempt: At the exchange, from 1.
        message_type: The stage's.
        asked: Stores that were sent a message.
        silent: Those of them that had not answered when the stage ended.
        timed_out: Whether the stage lasted until its deadline.
        seconds: How long it lasted.
    """

    attempt: int
    message_type: str
    asked: tuple[str, ...]
    silent: tuple[str, ...]
    timed_out: bool
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ExchangeResult:
    """Everything that came of one exchange with the stores.

    Args:
        replies: What a strategy aggregates: one reply from each store or, under secure
            aggregation, one with the mean of the sum. Replies that say an error are left out.
        refusals: Why a store has no part in it: where a node has no name yet, by its number.
            A store that was lost after its vector came is named too, and is in the sum.
        roster: Stores that took part in the last attempt.
        survivors: Stores behind the replies; none if there is an error.
        attempts: How often the exchange was made.
        stages: The stages of all attempts, in order; empty without secure aggregation.
        noise_share: Noise measured over noise promised, all rounds of this process together;
            None where it is not measured.
        cut: What the sum was multiplied by, to be no longer than honest stores make it; None
            where there is no sum of updates.
        note: What a search for the store that breaks sums has come to, if one goes on.
        aggregate: The sum itself, as the protocol gave it; None without secure aggregation.
        error: What the exchange was lost to. The model stays as it was, and the run goes on.
    """

    replies: tuple[Message, ...] = ()
    refusals: Mapping[str, str] = field(default_factory=dict)
    roster: tuple[str, ...] = ()
    survivors: tuple[str, ...] = ()
    attempts: int = 1
    stages: tuple[StageOutcome, ...] = ()
    noise_share: float | None = None
    cut: float | None = None
    note: str = ""
    aggregate: Aggregate | None = None
    error: HanseError | None = None

    @property
    def deadlines(self) -> int:
        """How many stages lasted until their deadline."""
        return sum(stage.timed_out for stage in self.stages)

    @property
    def outcome(self) -> str:
        """`summed`, or the code of the error that the exchange was lost to."""
        return SUMMED if self.error is None else self.error.code

    def lost_to(self, error: HanseError) -> Self:
        """The same exchange, of which nothing is used."""
        return replace(self, replies=(), survivors=(), cut=None, noise_share=None, error=error)

    def replies_or_raise(self) -> tuple[Message, ...]:
        """The replies; raises the error that the exchange was lost to, if it was."""
        if self.error is not None:
            raise self.error
        return self.replies


class StageLog:
    """Appends stages, and knows which ones an earlier process of the run has finished.

    Args:
        run_dir: The run's folder.
        last_round: The round of the checkpoint that the run goes on from, -1 if it starts.
            Lines of later rounds, and a half-written one, are dropped: those stages will be
            run again. So is the line of an early end, which may not be the end any more.
    """

    def __init__(self, run_dir: Path, last_round: int) -> None:
        self._path = run_dir / ROUNDS_FILE
        kept = [
            line
            for line in read_stages(run_dir)
            if line["round"] <= last_round and not ended_early(line)
        ]
        write_durably(self._path, "".join(map(_as_line, kept)))
        self._seen = {(line["round"], line["stage"], line["split"]) for line in kept}

    def holds(self, number: int, stage: Stage, split: str | None) -> bool:
        """Tell whether a stage is done."""
        return (number, stage, split) in self._seen

    def append(
        self,
        number: int,
        stage: Stage,
        result: ExchangeResult | None = None,
        *,
        split: str | None = None,
        started: float | None = None,
        sums: Mapping[str, float] | None = None,
    ) -> None:
        """Note a finished stage.

        Args:
            number: The round.
            stage: What was done.
            result: What came of the exchange, if there was one.
            split: Which weeks an evaluation looked at.
            started: When the stage began, by `time.monotonic`.
            sums: What the stores' masked vectors add up to beside the update.
        """
        found = result or ExchangeResult()
        note = found.note or (found.error.message if found.error is not None else "")
        line: dict[str, Any] = {
            "round": number,
            "stage": stage,
            "split": split,
            "replies": len(found.survivors),
            "refusals": dict(found.refusals),
            "sums": dict(sums or {}),
            "attempts": found.attempts,
            "noise_share": found.noise_share,
            "outcome": found.outcome,
            "cut": found.cut,
            "deadlines": found.deadlines,
            "note": note,
            "seconds": round(time.monotonic() - started, 6) if started is not None else 0.0,
            "time": round(time.time(), 6),
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_as_line(line))
        self._seen.add((number, stage, split))
        about = {"round": number, "stage": stage, "split": split}
        for store, reason in line["refusals"].items():
            lost = about | {"store": store, "error_code": code_of(reason)}
            _log.info("went on without a store", extra=lost)
        done = about | {
            "stores": line["replies"],
            "attempt": found.attempts,
            "seconds": line["seconds"],
        }
        if found.error is None:
            _log.info("stage done", extra=done)
        else:
            lost = done | {"error_code": found.outcome}
            _log.warning("stage lost: %s", note or found.outcome, extra=lost)


class Progress:
    """Writes down where a run is.

    Args:
        run_dir: The run's folder.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._table: dict[str, Any] = {}
        (run_dir / FAILURE_FILE).unlink(missing_ok=True)

    def stage(
        self, number: int, kind: str, attempt: int, stage: str, asked: Collection[str]
    ) -> None:
        """Note that stores were asked for a stage's message; refusals stay for the attempt."""
        exchange = {"round": number, "kind": kind, "attempt": attempt}
        same = exchange.items() <= self._table.items()
        self._table = {
            **exchange,
            "stage": stage,
            "waiting": sorted(asked),
            "answered": [],
            "refusals": self._table["refusals"] if same else {},
        }
        self._write()

    def answered(self, store: str, refusal: str | None = None) -> None:
        """Note a store's answer, or why it gave none."""
        if store in self._table.get("waiting", ()):
            self._table["waiting"].remove(store)
        if refusal is None:
            self._table.setdefault("answered", []).append(store)
        else:
            self._table.setdefault("refusals", {})[store] = refusal
        self._write()

    def failed(self, error: HanseError) -> None:
        """Note why the run ends."""
        table = {"code": error.code, "message": error.message, "hint": error.hint}
        with suppress(OSError):  # the folder may be what is wrong
            write_durably(self._run_dir / FAILURE_FILE, json.dumps(table) + "\n")

    def _write(self) -> None:
        self._table["time"] = round(time.time(), 3)
        write_durably(self._run_dir / PROGRESS_FILE, json.dumps(self._table) + "\n", sync=False)


def read_stages(run_dir: Path) -> list[dict[str, Any]]:
    """Read the stages that a run has finished, in order; a half-written line is left out."""
    path = run_dir / ROUNDS_FILE
    if not path.is_file():
        return []
    return [line for line in json_lines(path) if "stage" in line]


def read_progress(run_dir: Path) -> dict[str, Any]:
    """Read where a run is; empty if it has not asked anybody yet."""
    return json_file(run_dir / PROGRESS_FILE)


def read_failure(run_dir: Path) -> dict[str, Any]:
    """Read why the last process of a run failed; empty if it did not."""
    return json_file(run_dir / FAILURE_FILE)


def ended_early(stage: Mapping[str, Any]) -> bool:
    """Whether a line says that a run ended before its last round."""
    return bool(stage["stage"] == "done" and stage["outcome"] != SUMMED)


def code_of(reason: str) -> str:
    """The error code in a reason, whatever stage it names.

    >>> code_of("at stage 'hello': [budget-spent] a release would cost more")
    'budget-spent'
    """
    return code_in(_STAGE.sub("", reason))


def _as_line(stage: Mapping[str, Any]) -> str:
    return json.dumps(stage, sort_keys=True) + "\n"
