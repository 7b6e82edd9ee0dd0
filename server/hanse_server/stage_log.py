"""The result of an exchange, and the three files that record a run's progress.

`ExchangeResult` is the value that a grid returns, with everything about one exchange.
`rounds.jsonl` has one line for each exchange of a run, for people, displays and resumption.
`progress.json` holds the state within a round: it is replaced at every step, and the run
itself never reads it. `failure.json` holds the error of a run's last process, if it failed.
The only figures in them that derive from stores' data are sums that include their noise.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections import Counter
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
_STAGE = re.compile(r"^at stage '(\w+)': ")
PROTOCOL_STAGES = ("hello", "share", "mask", "confirm", "unmask")
"""The stages of an attempt, in order."""

Stage = Literal["train", "evaluate", "done"]

CONNECT = "connect"
"""The stage in which a round waits for stores that are away; no message is sent in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageOutcome:
    """The stores that one stage of an attempt asked, and those that did not answer.

    Args:
        attempt: The number of the attempt at the exchange, from 1.
        message_type: The stage's message type.
        asked: Stores that were sent a message.
        silent: Stores that had not answered when the stage ended.
        timed_out: Whether the stage lasted until its deadline.
        seconds: Duration of the stage.
    """

    attempt: int
    message_type: str
    asked: tuple[str, ...]
    silent: tuple[str, ...]
    timed_out: bool
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ExchangeResult:
    """Everything about one exchange with the stores.

    Args:
        replies: The replies for the strategy: one from each store or, under secure aggregation,
            one with the mean of the sum. Error replies are left out.
        refusals: The reason for each store that took no part, by name, or by node while it has
            none. A store that was lost after its vector arrived is listed, and is in the sum.
        roster: Stores that took part in the last attempt.
        survivors: Stores whose updates are in the replies; none if there is an error.
        attempts: The number of attempts.
        stages: The stages of all attempts, in order; empty without secure aggregation.
        releases: The release of Hanse of each store that said hello.
        noise_share: Measured over promised variance of the noise, all rounds of this process
            together; None where it is not measured.
        cut: The factor that shortened the sum of updates to the public norm, at most 1; None
            where there is no such sum.
        note: The state of the search for a store that breaks sums; empty if there is none.
        aggregate: The sum itself, as the protocol returned it; None without secure aggregation.
        error: The error that the exchange was lost to. The model is unchanged, and the run
            goes on.
    """

    replies: tuple[Message, ...] = ()
    refusals: Mapping[str, str] = field(default_factory=dict)
    roster: tuple[str, ...] = ()
    survivors: tuple[str, ...] = ()
    attempts: int = 1
    stages: tuple[StageOutcome, ...] = ()
    releases: Mapping[str, str] = field(default_factory=dict)
    noise_share: float | None = None
    cut: float | None = None
    note: str = ""
    aggregate: Aggregate | None = None
    error: HanseError | None = None

    @property
    def deadlines(self) -> int:
        """The number of stages that lasted until their deadline."""
        return sum(stage.timed_out for stage in self.stages)

    @property
    def outcome(self) -> str:
        """`summed`, or the code of the error that the exchange was lost to."""
        return SUMMED if self.error is None else self.error.code

    def lost_to(self, error: HanseError) -> Self:
        """The same exchange as a failed one, whose replies are not used."""
        return replace(self, replies=(), survivors=(), cut=None, noise_share=None, error=error)

    def replies_or_raise(self) -> tuple[Message, ...]:
        """The replies; raises `error` if the exchange was lost."""
        if self.error is not None:
            raise self.error
        return self.replies


class StageLog:
    """Appends finished stages to `rounds.jsonl`, and knows those of earlier processes.

    Args:
        run_dir: The run's folder.
        last_round: The round of the checkpoint that the run goes on from; -1 if it starts.
            Lines of later rounds, and a half-written line, are dropped, because these stages
            will run again. The line of an early end is dropped too, as the run goes on.
    """

    def __init__(self, run_dir: Path, last_round: int) -> None:
        self._path = run_dir / ROUNDS_FILE
        lines = [
            line
            for line in read_stages(run_dir)
            if line["round"] <= last_round and not ended_early(line)
        ]
        # Rewritten first: to append after a half-written line would damage two of them.
        write_durably(self._path, "".join(map(_as_line, lines)))
        self._seen = {(line["round"], line["stage"], line["split"]) for line in lines}

    def holds(self, number: int, stage: Stage, split: str | None) -> bool:
        """Whether a stage is finished."""
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
        """Append a finished stage.

        Args:
            number: The training round.
            stage: The kind of the stage.
            result: The result of the exchange, if there was one.
            split: The weeks that an evaluation used.
            started: Time at which the stage began, by `time.monotonic`.
            sums: Sums over the stores other than the update, such as counts and losses.
        """
        exchange = result or ExchangeResult()
        note = exchange.note or (exchange.error.message if exchange.error is not None else "")
        line: dict[str, Any] = {
            "round": number,
            "stage": stage,
            "split": split,
            "replies": len(exchange.survivors),
            "refusals": dict(exchange.refusals),
            "sums": dict(sums or {}),
            "attempts": exchange.attempts,
            "noise_share": exchange.noise_share,
            "outcome": exchange.outcome,
            "cut": exchange.cut,
            "deadlines": exchange.deadlines,
            # How many stores have each, and not which: a line holds nothing of one store.
            "releases": dict(sorted(Counter(exchange.releases.values()).items())),
            "note": note,
            "seconds": round(time.monotonic() - started, 6) if started is not None else 0.0,
            "time": round(time.time(), 6),
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_as_line(line))
        self._seen.add((number, stage, split))
        about = {"round": number, "stage": stage, "split": split}
        for store, reason in line["refusals"].items():
            # The code only: a reason's words are the store's, and are in `rounds.jsonl`.
            lost = about | {"store": store, "error_code": code_of(reason)}
            _log.info("went on without a store", extra=lost)
        done = about | {
            "stores": line["replies"],
            "attempt": exchange.attempts,
            "seconds": line["seconds"],
        }
        if exchange.error is None:
            _log.info("stage done", extra=done)
        else:
            lost = done | {"error_code": exchange.outcome}
            _log.warning("stage lost: %s", note or exchange.outcome, extra=lost)


class Progress:
    """Writes `progress.json` and `failure.json`.

    Args:
        run_dir: The run's folder.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._table: dict[str, Any] = {}
        (run_dir / FAILURE_FILE).unlink(missing_ok=True)

    def stage(
        self, number: int, kind: str, attempt: int, stage: str, stores: Collection[str]
    ) -> None:
        """Record that stores were asked; the refusals of earlier stages of an attempt stay."""
        exchange = {"round": number, "kind": kind, "attempt": attempt}
        same = exchange.items() <= self._table.items()
        self._table = {
            **exchange,
            "stage": stage,
            "waiting": sorted(stores),
            "answered": [],
            "refusals": self._table["refusals"] if same else {},
        }
        self._write()

    def absent(self, number: int, kind: str, stores: Collection[str]) -> None:
        """Record that a round waits for stores that are away."""
        self.stage(number, kind, 0, CONNECT, stores)

    def answered(self, store: str, refusal: str | None = None) -> None:
        """Record a store's answer, or the reason why it gave none."""
        if store in self._table.get("waiting", ()):
            self._table["waiting"].remove(store)
        if refusal is None:
            self._table.setdefault("answered", []).append(store)
        else:
            self._table.setdefault("refusals", {})[store] = refusal
        self._write()

    def failed(self, error: HanseError) -> None:
        """Record the error that ends the run."""
        table = {"code": error.code, "message": error.message, "hint": error.hint}
        with suppress(OSError):  # the folder itself may be the cause; the error must not be lost
            write_durably(self._run_dir / FAILURE_FILE, json.dumps(table) + "\n")

    def _write(self) -> None:
        # Without fsync: it is for displays only, and written for every answer of every store.
        self._table["time"] = round(time.time(), 3)
        write_durably(self._run_dir / PROGRESS_FILE, json.dumps(self._table) + "\n", sync=False)


def read_stages(run_dir: Path) -> list[dict[str, Any]]:
    """Read the finished stages of a run, in order; a half-written line is skipped."""
    path = run_dir / ROUNDS_FILE
    if not path.is_file():
        return []
    return [line for line in json_lines(path) if "stage" in line]


def read_progress(run_dir: Path) -> dict[str, Any]:
    """Read the state within a round; empty if no store has been asked yet."""
    return json_file(run_dir / PROGRESS_FILE)


def read_failure(run_dir: Path) -> dict[str, Any]:
    """Read the error of a run's last process; empty if it did not fail."""
    return json_file(run_dir / FAILURE_FILE)


def ended_early(stage: Mapping[str, Any]) -> bool:
    """Whether a line of `rounds.jsonl` records an end before the last round."""
    return bool(stage["stage"] == "done" and stage["outcome"] != SUMMED)


def lost_at(reason: str) -> tuple[str, str]:
    """The stage of the protocol and the error code in a reason for which a store was lost.

    Returns:
        Two known words; the stage is empty if the reason names none of `PROTOCOL_STAGES`.

    >>> lost_at("at stage 'hello': [budget-spent] a release would cost more")
    ('hello', 'budget-spent')
    """
    stage, rest = split_reason(reason)
    # Known words only: the reason is the store's text.
    return stage if stage in PROTOCOL_STAGES else "", code_in(rest)


def split_reason(reason: str) -> tuple[str, str]:
    """The stage at the beginning of a reason, empty if there is none, and the rest."""
    stage = _STAGE.match(reason)
    return (stage[1], reason[stage.end() :]) if stage else ("", reason)


def code_of(reason: str) -> str:
    """The error code in a reason; see `lost_at`."""
    return lost_at(reason)[1]


def _as_line(stage: Mapping[str, Any]) -> str:
    return json.dumps(stage, sort_keys=True) + "\n"
