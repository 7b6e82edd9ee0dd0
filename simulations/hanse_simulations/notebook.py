"""Simulations for a notebook: one call, and results that a notebook shows.

run = simulate("smoke", epsilon=4)
run.report, run.results, run.figures["accuracy_by_round"]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from hanse_common.config import RunSettings
from hanse_common.run_file import load_recipe
from hanse_simulations.report import plots
from hanse_simulations.report.plots import Plot
from hanse_simulations.run import create_run
from hanse_simulations.run import simulate as run_simulation
from hanse_simulations.runs.folder import RunFolder
from hanse_simulations.runs.results import RunResult

_METRIC = "ndcg@10"


class Page(str):
    """A page of HTML that a notebook shows in a frame, since its styles are for a whole page."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        quoted = self.replace("&", "&amp;").replace('"', "&quot;")
        return f'<iframe srcdoc="{quoted}" width="100%" height="800" frameborder="0"></iframe>'


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot with its title, caption and SVG."""

    title: str
    caption: str
    svg: str

    def _repr_html_(self) -> str:
        # The report's colours, which the plots name by variable.
        return f"<h4>{self.title}</h4>{self.svg}<p>{self.caption}</p>"


@dataclass(frozen=True)
class Simulated:
    """A finished run."""

    folder: RunFolder

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.folder.path

    @property
    def settings(self) -> RunSettings:
        """The run's settings, with the noise solved."""
        return self.folder.read_settings()

    @cached_property
    def result(self) -> RunResult:
        """What `hanse simulate --format json` prints."""
        return self.folder.read_result()

    @property
    def report(self) -> Page:
        """The page `report.html`."""
        return Page(self.folder.report_file.read_text(encoding="utf-8"))

    @cached_property
    def results(self) -> pl.DataFrame:
        """All figures: one row for each arm, round, split, store and metric."""
        return self.folder.read_metrics()

    @property
    def model(self) -> Path:
        """The model's folder, for `AutoModel.from_pretrained`."""
        return self.folder.model_dir

    @cached_property
    def figures(self) -> Mapping[str, Figure]:
        """The report's plots by name; those that the run has no figures for are missing."""
        return {
            name: Figure(plot.title, plot.caption, plot.svg)
            for name, plot in self._plots()
            if plot is not None
        }

    def _plots(self) -> Iterator[tuple[str, Plot | None]]:
        yield "accuracy_by_round", plots.accuracy_by_round(self.results, self.result, _METRIC)
        yield "accuracy_by_store", plots.accuracy_by_store(self.results, self.result, _METRIC)
        yield "rise_and_fall", plots.rise_and_fall(self.result)


def simulate(
    recipe: str,
    *,
    epsilon: float | None = None,
    rounds: int | None = None,
    seed: int | None = None,
    compare: bool | None = None,
    name: str | None = None,
    settings: Mapping[str, object] | None = None,
    quiet: bool = False,
) -> Simulated:
    """Run a federation on this machine; progress is shown meanwhile, also in a notebook.

    Args:
        recipe: A recipe of the task `interest` by its name, or a TOML file by its path.
        epsilon: Target epsilon; the recipe's if left out.
        rounds: Rounds; the recipe's if left out.
        seed: The seed; the recipe's if left out.
        compare: Whether to train the arms to compare with as well.
        name: The run's name; that of the recipe with the time if left out.
        settings: Further settings by dotted keys, e.g. `{"data.stores": 4}`.
        quiet: Show no progress.

    Raises:
        HanseError: As `hanse simulate`.
    """
    given = {
        "privacy.target_epsilon": epsilon,
        "federation.rounds": rounds,
        "seed": seed,
        "compare": compare,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    chosen = load_recipe(recipe, {**changes, **(settings or {})})
    folder = create_run(chosen, name=name)
    run_simulation(folder, chosen, quiet=quiet)
    return Simulated(folder)


def open_run(name: str) -> Simulated:
    """Open a finished run by its name or path.

    Raises:
        RunNotFound: There is none.
    """
    return Simulated(RunFolder.open(name))
