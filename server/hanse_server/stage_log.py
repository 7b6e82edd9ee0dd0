"""`rounds.jsonl`: one line per stage of a run, for people, displays and resumption."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from hanse_common.decoding import json_lines
from hanse_common.durable import write_durably
from hanse_common.monitoring.codes import code_in
from hanse_common.paths import ROUNDS_FILE
from hanse_common.roundlog.records import SUMMED

_log = logging.getLogger(__name__)
_STAGE = re.compile(r"^at stage '\w+': ")

Stage = Literal["train", "evaluate", "done"]


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
        *,
        split: str | None = None,
        replies: int = 0,
        refusals: Mapping[str, str] | None = None,
        started: float | None = None,
        sums: Mapping[str, float] | None = None,
        attempts: int = 1,
        noise_share: float | None = None,
        outcome: str = SUMMED,
        cut: float | None = None,
        deadlines: int = 0,
        note: str = "",
    ) -> None:
        """Note a finished stage.

        Args:
            number: The round.
            stage: What was done.
            split: Which weeks an evaluation looked at.
            replies: How many stores took part.
            refusals: Why the others did not, by store name.
            started: When the stage began, by `time.monotonic`.
            sums: What the stores' masked vectors add up to beside the update.
            attempts: How often the exchange was made.
            noise_share: Noise measured over noise promised, all rounds of this process together.
            outcome: `summed`, or the code of the error that the stage was lost to.
            cut: What the sum was multiplied by, to be no longer than honest stores make it.
            deadlines: How many stages of the protocol lasted until their deadline.
            note: What a search for the store that breaks sums has come to; or how the run ended.
        """
        line: dict[str, Any] = {
            "round": number,
            "stage": stage,
            "split": split,
            "replies": replies,
            "refusals": dict(refusals or {}),
            "sums": dict(sums or {}),
            "attempts": attempts,
            "noise_share": noise_share,
            "outcome": outcome,
            "cut": cut,
            "deadlines": deadlines,
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
        done = about | {"stores": replies, "attempt": attempts, "seconds": line["seconds"]}
        if outcome == SUMMED:
            _log.info("stage done", extra=done)
        else:
            _log.warning("stage lost: %s", note or outcome, extra=done | {"error_code": outcome})


def read_stages(run_dir: Path) -> list[dict[str, Any]]:
    """Read the stages that a run has finished, in order; a half-written line is left out."""
    path = run_dir / ROUNDS_FILE
    if not path.is_file():
        return []
    return [line for line in json_lines(path) if "stage" in line]


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
