"""The state of a run of a deployed federation, from its folder and from the SuperLink."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hanse_common.errors import (
    FederationError,
    HanseError,
    RoundFailed,
    RunDirectoryError,
    RunNotFound,
    SuperLinkDown,
)
from hanse_common.locks import is_locked
from hanse_common.manifest import Manifest, SignedManifest
from hanse_common.monitoring.codes import known_codes
from hanse_common.paths import (
    FLOWER_RUNS_FILE,
    MANIFEST_FILE,
    SUPERLINK_LOG_FILE,
    UP_PID_FILE,
)
from hanse_server.app import read_settings
from hanse_server.checkpoint import latest_round
from hanse_server.deployment.control import Control, FlowerRun
from hanse_server.deployment.folder import FederationFolder
from hanse_server.deployment.run_record import RunRecord
from hanse_server.stage_log import Progress, code_of, ended_early, read_failure, read_stages

MOST_TRIES = 5
"""How often a run goes on by itself without a new checkpoint."""
GO_ON = (
    "nothing is lost: sign new terms with `hanse server manifest sign --continue-from {}`, and "
    "start a run with them"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunState:
    """The state of a run."""

    name: str
    folder: str
    state: str
    """`underway`, `finished`, `ended early` (the budget for its manifest is spent), `failed`,
    `recovering` (it failed, and `up` lets it go on by itself), `stopped` (by the operator), or
    `lost` (nothing looks after it: the federation is not up)."""
    round: int
    rounds: int
    failure: dict[str, Any]
    """Code, message and hint, if it failed or is recovering."""


def state_of(folder: FederationFolder, run_dir: Path) -> RunState:
    """The state of a run, from its folder and, if it answers, from the SuperLink."""
    stages = read_stages(run_dir)
    failure = read_failure(run_dir)
    process = _Process()
    done = [line for line in stages if line["stage"] == "done"]
    if any(map(ended_early, done)):
        state, failure = "ended early", _early_end(run_dir, done[-1])
    elif done:
        state = "finished"
    else:
        process = _ask(folder, run_dir)
        state = process.state(run_dir)
    number = latest_round(run_dir)
    if state in ("failed", "lost"):
        failure = failure or process.failure(folder)
        state, failure = _recovery(folder, run_dir, state, failure, number, stages)
    return RunState(
        name=run_dir.name,
        folder=str(run_dir),
        state=state,
        round=number,
        rounds=read_settings(run_dir).federation.rounds,
        failure=failure if state in ("failed", "recovering", "ended early") else {},
    )


def write_failure(run_dir: Path, error: HanseError) -> None:
    """Record an error that ends a run for good."""
    Progress(run_dir).failed(error)


def _recovery(
    folder: FederationFolder,
    run_dir: Path,
    state: str,
    failure: dict[str, Any],
    number: int,
    stages: list[dict[str, Any]],
) -> tuple[str, dict[str, Any]]:
    """Whether a run that failed or was lost goes on by itself, and why it ended."""
    code = str(failure.get("code"))
    record = RunRecord.read(run_dir)
    if not record.may_go_on or not is_locked(folder.state / UP_PID_FILE):
        return state, failure
    last = stages[-1]["refusals"] if stages else {}
    # Words without a code are of Flower or of the coordinator itself, about a silent store.
    answers = known_codes() - {FederationError.code}
    refused = sum(code_of(why) in answers for why in last.values())
    terms = SignedManifest.load(run_dir / MANIFEST_FILE).unchecked
    if not _is_passing(code, refused, terms):
        return "failed", failure
    if record.tries_from(number) >= MOST_TRIES:
        hint = (
            f"it went on by itself {MOST_TRIES} times in vain; repair, then `hanse server resume`"
        )
        return "failed", failure | {"hint": hint}
    hint = "it goes on by itself"
    if code == RoundFailed.code:
        hint += f" when {terms.minimum_cohort} of its stores are connected"
    return "recovering", failure | {"hint": hint + "; `hanse server stop` ends it"}


def all_runs(folder: FederationFolder) -> list[Path]:
    """Return the folders of all runs, in the order in which they were last started."""
    if not folder.runs.is_dir():
        return []
    # The file is the last that a new run's folder gets: without it, making the folder failed.
    runs = [path for path in folder.runs.iterdir() if (path / FLOWER_RUNS_FILE).is_file()]
    return sorted(runs, key=lambda path: (path / FLOWER_RUNS_FILE).stat().st_mtime)


def find(folder: FederationFolder, name: str | None) -> Path:
    """Return a run's folder; that of the last run if unnamed.

    Raises:
        RunNotFound: There is no such run.
    """
    runs = all_runs(folder)
    if name is None and runs:
        return runs[-1]
    for run_dir in runs:
        if run_dir.name == name:
            return run_dir
    known = ", ".join(path.name for path in runs)
    raise RunNotFound(
        f"there is no run {name!r}" if name else "there is no run yet",
        hint=f"there are {known}" if known else "`hanse server run` starts one",
    )


def as_row(state: RunState) -> dict[str, Any]:
    """The state of a run as plain JSON."""
    return asdict(state)


def _is_passing(code: str, refused: int, terms: Manifest) -> bool:
    """Whether the cause of a failure may be over without anybody's doing.

    Args:
        code: The failure's error code; that of any `FederationError` for a process that ended
            without one.
        refused: Stores that answered the last round with a refusal: they are there, and would
            refuse again.
        terms: The terms of the run.
    """
    if code == RoundFailed.code:
        return len(terms.stores) - refused >= terms.minimum_cohort
    return code in {FederationError.code, SuperLinkDown.code, RunDirectoryError.code}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Process:
    """What the SuperLink knows of a run's process, in one answer."""

    answered: bool = False
    run: FlowerRun | None = None

    def state(self, run_dir: Path) -> str:
        """The state of a run that has not written its last line."""
        if not self.answered:
            return "failed" if read_failure(run_dir) else "lost"
        if self.run is None:
            return "lost"
        if self.run.status != "finished":
            return "underway"
        # `rounds.jsonl` has no `done`, so even a run that Flower counts as completed has failed.
        if self.run.outcome != "stopped":
            return "failed"
        # `up` stops those that it finds at its start: their processes ended with the SuperLink.
        return "lost" if RunRecord.read(run_dir).may_go_on else "stopped"

    def failure(self, folder: FederationFolder) -> dict[str, Any]:
        """Code, message and hint for a process that ended without writing its error."""
        # What `up` stopped at its start has no details of its own.
        details = self.run.details if self.run and self.run.outcome != "stopped" else ""
        return {
            "code": FederationError.code,
            "message": details or "the run's process ended without an error message",
            "hint": f"see {folder.state / SUPERLINK_LOG_FILE}; go on with `hanse server resume`",
        }


def _ask(folder: FederationFolder, run_dir: Path) -> _Process:
    ids = RunRecord.read(run_dir).runs[-1:]
    try:
        with Control(folder) as control:
            runs = control.runs()
    except SuperLinkDown:
        return _Process()
    return _Process(answered=True, run=next((run for run in runs if run.run_id in ids), None))


def _early_end(run_dir: Path, line: dict[str, Any]) -> dict[str, Any]:
    return {
        "code": line["outcome"],
        "message": line["note"],
        "hint": GO_ON.format(run_dir.name),
    }
