"""Rolling evaluation: train until a week, evaluate on the next four, move on, repeat.

    rows = rolling(load_recipe("grocery"), windows=5, new_rounds=20, seeds=1)

Four models are compared in every window: *before training*; *trained once*, until
the first window and no further; *goes on*, with more rounds on the data until each window; and,
optionally, *trained again* from scratch on all data until each window. The model that goes on
pays for its rounds: the ledgers compose, and each window has its epsilon.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from statistics import fmean, pstdev

from rich.table import Table

from hanse_client.features.histories import Histories
from hanse_client.tasks.interest import InterestModel
from hanse_client.tasks.interest.metrics import Figures, evaluate_histories
from hanse_common.config import RunSettings
from hanse_simulations.experiment.arm_run import ArmRun
from hanse_simulations.experiment.arms import Arm
from hanse_simulations.experiment.continuing import spent_before, with_budget
from hanse_simulations.experiment.prepare import Prepared, prepare_run
from hanse_simulations.experiment.runner import Runner, runner
from hanse_simulations.report.wording import figure
from hanse_simulations.runs.arm_folder import ArmFolder

WEEKS = 4
METRICS = ("ndcg@10", "explore_ndcg@10", "rise_auc", "fall_auc")
LABELS = {
    "untrained": "before training",
    "once": "trained once",
    "continued": "goes on",
    "anew": "trained again",
}
Progress = Callable[[str], None]
_ARM = Arm(name="rolling", label="Trained until a week", trainer="federated")


@dataclass(frozen=True, kw_only=True, slots=True)
class RollingRow:
    """Metrics of one model in one window over all stores' customers; means over seeds."""

    window: str
    """First day of the four weeks of evaluation."""
    model: str
    rounds: int
    """Number of rounds that the model was trained for."""
    epsilon: float | None
    """Epsilon spent on it; None without privacy, and before training."""
    figures: dict[str, float]
    spread: dict[str, float]
    """Standard deviation over seeds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Judged:
    model: str
    rounds: int
    epsilon: float | None
    figures: dict[str, float]


def rolling(
    settings: RunSettings,
    *,
    windows: int = 5,
    new_rounds: int = 20,
    anew: bool = False,
    seeds: int = 1,
    progress: Progress = lambda _: None,
) -> list[RollingRow]:
    """Train, evaluate on the next four weeks, and move on to the next window.

    Args:
        settings: A recipe's settings; the last window ends with the data's own split.
        windows: Number of windows of four weeks.
        new_rounds: Rounds between one window and the next.
        anew: Whether to train from scratch for every window as well.
        seeds: Number of repetitions, each with other samples and other noise.
        progress: Called with a line before each training.

    Raises:
        HanseError: Data, privacy or a federation failed.
    """
    by_start: dict[datetime, list[_Judged]] = {}
    with tempfile.TemporaryDirectory() as scratch, runner(settings) as work:
        stores, settings, prepared = prepare_run(Path(scratch), settings)
        last = stores.split.test_until - timedelta(weeks=WEEKS)
        starts = [last - timedelta(weeks=WEEKS * back) for back in reversed(range(windows))]
        for seed in range(settings.seed, settings.seed + seeds):
            home = Path(scratch) / f"seed-{seed}"
            seeded = settings.with_changes({"seed": seed, "compare": False, "sweep": None})
            run = _Rolling(prepared, prepared.load(), work, home, progress)
            for start, judged in run.windows(seeded, starts, new_rounds, anew):
                by_start.setdefault(start, []).append(judged)
    return [row for start, judged in by_start.items() for row in _rows(start, judged)]


@dataclass(frozen=True, slots=True)
class _Rolling:
    """One seed's federation, moved through the windows."""

    prepared: Prepared
    histories: Sequence[Histories]
    work: Runner
    home: Path
    progress: Progress

    def windows(
        self, settings: RunSettings, starts: Sequence[datetime], new_rounds: int, anew: bool
    ) -> Iterator[tuple[datetime, _Judged]]:
        first = self._train("first", _until(settings, starts[0]))
        latest, behind = first, settings.federation.rounds
        for number, start in enumerate(starts):
            at = _until(settings, start)
            if number:
                terms = at.with_changes(
                    {
                        "continues": latest.folder.path,
                        "federation.rounds": new_rounds,
                        "federation.evaluate_every": new_rounds,
                    }
                )
                # Ledgers compose: the target becomes the epsilon of all rounds so far.
                terms = with_budget(terms, spent_before(latest.folder), None)
                latest, behind = self._train(f"goes-on-{number}", terms), behind + new_rounds
            yield start, self._before(at)
            yield start, self._once(first, at)
            yield start, self._own("continued", latest, behind)
            if anew:
                # In the first window training from scratch is the first model.
                again = self._train(f"anew-{number}", at) if number else first
                yield start, self._own("anew", again, at.federation.rounds)

    def _train(self, name: str, settings: RunSettings) -> ArmRun:
        until = settings.data.split and settings.data.split.train_until.date()
        self.progress(f"seed {settings.seed}: {name}, data until {until}")
        return self.work.train(_ARM, ArmFolder(self.home / name), settings, self.prepared)

    def _before(self, settings: RunSettings) -> _Judged:
        model = InterestModel.from_pretrained(self.prepared.base_model)
        figures = self._evaluate(model, settings)
        return _Judged(model="untrained", rounds=0, epsilon=None, figures=figures)

    def _once(self, run: ArmRun, settings: RunSettings) -> _Judged:
        figures = self._evaluate(run.model(), settings)
        return _Judged(model="once", rounds=run.rounds, epsilon=_spent(run), figures=figures)

    def _own(self, model: str, run: ArmRun, rounds: int) -> _Judged:
        """Metrics that an arm's stores logged for the window that follows its training."""
        figures = _chosen(Figures.pooled(list(run.figures("validate").values())))
        return _Judged(model=model, rounds=rounds, epsilon=_spent(run), figures=figures)

    def _evaluate(self, model: InterestModel, settings: RunSettings) -> dict[str, float]:
        model.train(False)
        parts = [evaluate_histories(h, model, settings, "validate") for h in self.histories]
        return _chosen(Figures.pooled(parts))


def _until(settings: RunSettings, start: datetime) -> RunSettings:
    """Settings that train until a moment, with the window after it as the validation weeks."""
    stop = start + timedelta(weeks=WEEKS)
    split = {
        "train_until": start,
        "validate_until": stop,
        "test_until": stop + timedelta(days=1),  # required to be later, but not evaluated
    }
    every = settings.federation.rounds
    return settings.with_changes({"data.split": split, "federation.evaluate_every": every})


def _spent(run: ArmRun) -> float | None:
    spent = run.epsilon()
    return None if spent is None else spent.max


def _chosen(figures: Figures) -> dict[str, float]:
    return {name: value for name, value in figures.metrics().items() if name in METRICS}


def _rows(start: datetime, judged: Sequence[_Judged]) -> list[RollingRow]:
    rows = []
    for model in dict.fromkeys(part.model for part in judged):
        own = [part for part in judged if part.model == model]
        values = {name: [part.figures[name] for part in own] for name in METRICS}
        rows.append(
            RollingRow(
                window=f"{start:%Y-%m-%d}",
                model=model,
                rounds=own[0].rounds,
                epsilon=own[0].epsilon,
                figures={name: fmean(each) for name, each in values.items()},
                spread={name: pstdev(each) for name, each in values.items()},
            )
        )
    return rows


def render(rows: Sequence[RollingRow]) -> Table:
    """Lay the windows out for people, and the mean of the windows after the first."""
    table = Table(title="The four weeks after training, window by window")
    for heading in ("from", "model"):
        table.add_column(heading)
    for heading in ("rounds", "ε", "NDCG@10", "explore", "rise AUC", "fall AUC"):
        table.add_column(heading, justify="right")
    before = ""
    for row in rows:
        cells = [f"{figure(row.figures[m])} ±{figure(row.spread[m])}" for m in METRICS]
        spent = "" if row.epsilon is None else f"{row.epsilon:.2f}"
        day = row.window if row.window != before else ""
        table.add_row(day, LABELS[row.model], str(row.rounds), spent, *cells)
        before = row.window
    later = [row for row in rows if row.window != rows[0].window]
    table.add_section()
    for model in dict.fromkeys(row.model for row in later):
        own = [row for row in later if row.model == model]
        means = [figure(fmean(row.figures[m] for row in own)) for m in METRICS]
        table.add_row("later windows, mean", LABELS[model], "", "", *means)
    return table
