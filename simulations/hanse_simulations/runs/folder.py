"""The folder of a run: its paths, and how its files are written and read.

    runs/grocery-2026-03-01-1405/
        settings.json  result.json  metrics.csv  metrics.json  model/  report.html
        rounds.jsonl                    the server: one line per stage of a round
        stores/<store>/log.jsonl        each store's own log, never sent
        arms/<arm>/                     the arms compared with: rounds.jsonl, stores/

The root is `runs/` in the working directory, or `$HANSE_RUNS`.

>>> import tempfile
>>> folder = RunFolder.create("smoke", name="first", root=Path(tempfile.mkdtemp()))
>>> folder.name, folder.store_log("Region 3").parent.name
('first', 'Region 3')
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import ValidationError

from hanse_common.config import RunSettings
from hanse_common.errors import ConfigError, RunDirectoryError, RunNotFound
from hanse_common.paths import (
    ARMS_FOLDER,
    DRAWINGS_FILE,
    METRICS_CSV_FILE,
    METRICS_JSON_FILE,
    MODEL_FOLDER,
    REPORT_FILE,
    RESULT_FILE,
    SETTINGS_FILE,
)
from hanse_common.spreadsheets import as_texts, from_texts
from hanse_common.wording import finite
from hanse_simulations.runs.arm_folder import ArmFolder
from hanse_simulations.runs.files import replacing, unwritable, write_json
from hanse_simulations.runs.results import (
    METRIC_COLUMNS,
    Drawings,
    MetricRow,
    RunResult,
    first_problem,
)

if TYPE_CHECKING:
    import polars as pl

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def runs_root() -> Path:
    """Return the folder that holds all runs."""
    return Path(os.environ.get("HANSE_RUNS") or "runs")


class RunFolder(ArmFolder):
    """The folder of one run; in itself the folder of its main arm."""

    @classmethod
    def create(
        cls,
        recipe: str,
        *,
        name: str | None = None,
        root: Path | None = None,
        now: datetime | None = None,
    ) -> Self:
        """Make the folder for a new run.

        Args:
            recipe: Recipe after which a run without a name is named, as in
                `grocery-2026-03-01-1405`.
            name: The name to use instead.
            root: The folder of all runs; `runs_root()` by default.
            now: The time to name the run after; the current local time by default.

        Raises:
            RunDirectoryError: The name is taken or malformed, or the folder cannot be written.
        """
        root = root or runs_root()
        if name is not None and not _NAME.fullmatch(name):
            raise RunDirectoryError(
                f"a run cannot be named {name!r}",
                hint="use letters, digits, '.', '_' and '-', beginning with a letter or digit",
            )
        for candidate in _candidates(recipe, name, now or datetime.now()):
            path = root / candidate
            try:
                root.mkdir(parents=True, exist_ok=True)
                path.mkdir()
                # A folder may exist and refuse files: found out now, not after hours of training.
                tempfile.TemporaryFile(dir=path).close()
            except FileExistsError:
                if root.is_dir():
                    continue
                raise unwritable(path, f"{root} is a file") from None
            except OSError as error:
                raise unwritable(path, error.strerror or str(error)) from error
            return cls(path)
        raise RunDirectoryError(
            f"there is already a run named {name!r} in {root}",
            hint="choose another name, or continue that run with --resume",
        )

    @classmethod
    def open(cls, name: str, *, root: Path | None = None) -> Self:
        """Return the folder of an existing run, by its name or its path.

        Raises:
            RunNotFound: There is no such run; the hint lists names that are close.
        """
        root = root or runs_root()
        path = Path(name) if os.sep in name else root / name
        if _is_run(path):
            return cls(path)
        names = [run.name for run in _folders(root)]
        close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        if close:
            hint = f"did you mean {' or '.join(close)}?"
        elif names:
            hint = "`hanse runs list` shows the runs there are"
        else:
            hint = f"there are no runs in {root} yet; `hanse simulate smoke` makes one"
        raise RunNotFound(f"there is no run named {name!r}", hint=hint)

    @property
    def name(self) -> str:
        """The run's name: its folder's."""
        return self.path.resolve().name

    @property
    def settings_file(self) -> Path:
        """The run's `RunSettings`."""
        return self.path / SETTINGS_FILE

    @property
    def result_file(self) -> Path:
        """The run's `RunResult`, written at its end."""
        return self.path / RESULT_FILE

    @property
    def drawings_file(self) -> Path:
        """Points of the report's drawings."""
        return self.path / DRAWINGS_FILE

    @property
    def metrics_csv(self) -> Path:
        """All metrics as a long table."""
        return self.path / METRICS_CSV_FILE

    @property
    def metrics_json(self) -> Path:
        """The same metrics as a list of objects."""
        return self.path / METRICS_JSON_FILE

    @property
    def model_dir(self) -> Path:
        """The trained model, for `from_pretrained`."""
        return self.path / MODEL_FOLDER

    @property
    def report_file(self) -> Path:
        """The report, one self-contained page."""
        return self.path / REPORT_FILE

    @property
    def arms_dir(self) -> Path:
        """One sub-folder per arm compared with."""
        return self.path / ARMS_FOLDER

    def arm(self, arm: str) -> ArmFolder:
        """Return the folder of an arm that the main one is compared with."""
        return ArmFolder(self.arms_dir / arm)

    def write_settings(self, settings: RunSettings) -> None:
        """Store the settings."""
        write_json(self.settings_file, settings.model_dump(mode="json"))

    def read_settings(self) -> RunSettings:
        """Read the settings back.

        Raises:
            ConfigError: They are not settings of this version of Hanse.
        """
        return RunSettings.parse(self.read_settings_table())

    def read_settings_table(self) -> dict[str, Any]:
        """Read the settings as plain values, whatever version wrote them; empty if unreadable."""
        try:
            table = json.loads(self.settings_file.read_bytes())
        except (OSError, ValueError):
            return {}
        return table if isinstance(table, dict) else {}

    def write_result(self, result: RunResult) -> None:
        """Store the outcome."""
        write_json(self.result_file, result.model_dump(mode="json"))

    def read_result(self) -> RunResult:
        """Read the outcome.

        Raises:
            RunNotFound: The run has not finished.
            RunDirectoryError: `result.json` is damaged.
        """
        try:
            return RunResult.model_validate_json(self.result_file.read_bytes())
        except FileNotFoundError as error:
            raise RunNotFound(
                f"run {self.name!r} has no result: it has not finished",
                hint="wait for it, or continue it with --resume",
            ) from error
        except (OSError, ValidationError) as error:
            raise RunDirectoryError(
                f"{self.result_file} cannot be read: {first_problem(error)}",
                hint="restore the file, or run it again",
            ) from error

    def write_drawings(self, drawings: Drawings) -> None:
        """Write the points of the report's drawings."""
        write_json(self.drawings_file, drawings.model_dump(mode="json"))

    def read_drawings(self) -> Drawings:
        """Read the points of the report's drawings; none of a run without them.

        Raises:
            RunDirectoryError: The file is damaged.
        """
        try:
            return Drawings.model_validate_json(self.drawings_file.read_bytes())
        except FileNotFoundError:
            return Drawings()
        except (OSError, ValidationError) as error:
            raise RunDirectoryError(
                f"{self.drawings_file} cannot be read: {first_problem(error)}",
                hint="delete it, and the report leaves its drawings out",
            ) from error

    def write_metrics(self, rows: Iterable[MetricRow]) -> None:
        """Write all metrics as CSV and as JSON; undefined values stay empty."""
        import polars as pl

        table = [{**row, "value": finite(row["value"])} for row in rows]
        frame = pl.DataFrame(table, schema=_metrics_schema(), strict=False)
        with replacing(self.metrics_csv) as file:
            as_texts(frame).write_csv(file)
        write_json(self.metrics_json, frame.to_dicts())

    def read_metrics(self) -> pl.DataFrame:
        """Read all metrics; an empty table if there are none.

        Returns:
            One row per value: arm, round (null for baselines), split, store, metric,
            value (null where undefined), weight (customers).

        Raises:
            RunDirectoryError: `metrics.csv` is damaged.
        """
        import polars as pl

        try:
            return from_texts(pl.read_csv(self.metrics_csv, schema=_metrics_schema()))
        except FileNotFoundError:
            return pl.DataFrame(schema=_metrics_schema())
        except (OSError, pl.exceptions.PolarsError) as error:
            raise RunDirectoryError(
                f"{self.metrics_csv} cannot be read: {first_problem(error)}",
                hint="restore the file, or run it again",
            ) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSummary:
    """One line of `hanse runs list`."""

    name: str
    recipe: str
    state: str
    """finished, unfinished, or damaged."""
    changed: datetime
    result: RunResult | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Several runs side by side."""

    results: tuple[RunResult, ...]
    settings: dict[str, dict[str, Any]]
    """Only the settings in which the runs differ: dotted name -> run -> value."""

    @property
    def like_for_like(self) -> bool:
        """Whether the runs used the same data, so that their figures may be compared."""
        return not any(key.startswith("data.") for key in self.settings)


def list_runs(root: Path | None = None) -> list[RunSummary]:
    """Return all runs, the latest first; a damaged one is listed, not raised."""
    runs = []
    for folder in _folders(root or runs_root()):
        result, state = None, "unfinished"
        if folder.result_file.exists():
            try:
                result, state = folder.read_result(), "finished"
            except (RunDirectoryError, RunNotFound):
                state = "damaged"
        recipe = result.recipe if result else str(folder.read_settings_table().get("recipe", ""))
        marker = folder.result_file if folder.result_file.exists() else folder.path
        changed = datetime.fromtimestamp(marker.stat().st_mtime)
        runs.append(
            RunSummary(name=folder.name, recipe=recipe, state=state, changed=changed, result=result)
        )
    return sorted(runs, key=lambda run: run.changed, reverse=True)


def compare(names: Sequence[str], root: Path | None = None) -> Comparison:
    """Put several finished runs side by side.

    Raises:
        ConfigError: There are fewer than two different runs.
        RunNotFound: One of them does not exist or has not finished.
        RunDirectoryError: One of them is damaged.
    """
    folders = [RunFolder.open(name, root=root) for name in dict.fromkeys(names)]
    if len(folders) < 2:
        raise ConfigError(
            f"a comparison needs two different runs, not {len(folders)}",
            hint="`hanse runs list` shows the runs there are",
        )
    results = tuple(
        folder.read_result().model_copy(update={"run": folder.name}) for folder in folders
    )
    tables = {folder.name: dict(flatten(folder.read_settings_table())) for folder in folders}
    keys = dict.fromkeys(key for table in tables.values() for key in table)
    columns = {key: {run: table.get(key) for run, table in tables.items()} for key in keys}
    differing = {key: values for key, values in columns.items() if _differ(values)}
    return Comparison(results=results, settings=differing)


def flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested settings under dotted names.

    >>> dict(flatten({"seed": 7, "privacy": {"mode": "local"}}))
    {'seed': 7, 'privacy.mode': 'local'}
    """
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _candidates(recipe: str, name: str | None, now: datetime) -> Iterator[str]:
    if name is not None:
        yield name
        return
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", recipe).strip("-.") or "run"
    first = f"{stem}-{now:%Y-%m-%d-%H%M}"
    yield first
    for count in range(2, 1000):
        yield f"{first}-{count}"


def _is_run(path: Path) -> bool:
    return (path / SETTINGS_FILE).is_file() or (path / RESULT_FILE).is_file()


def _folders(root: Path) -> list[RunFolder]:
    try:
        return [RunFolder(path) for path in sorted(root.iterdir()) if _is_run(path)]
    except OSError:
        return []


def _differ(values: Mapping[str, Any]) -> bool:
    return len({repr(value) for value in values.values()}) > 1


def _metrics_schema() -> dict[str, Any]:
    import polars as pl

    kinds = {"round": pl.Int64(), "value": pl.Float64(), "weight": pl.Float64()}
    return {column: kinds.get(column, pl.String()) for column in METRIC_COLUMNS}
