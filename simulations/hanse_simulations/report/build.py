"""Write `report.html`, one page with a run's metrics, privacy and reservations.

    write_report(RunFolder.open("grocery-2026-03-01-1405"))

**Guarantees**: the page refers to no other file or address, runs no script, and shows every name
that comes from a store as text, whatever it contains.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

from hanse_common.errors import HanseError
from hanse_common.pages import page_environment
from hanse_simulations.experiment.arms import ALL_STORES, METRICS, TASKS, Metric, Task, arm
from hanse_simulations.monitoring.tail import JsonLines
from hanse_simulations.report.differences import READING, difference_tables
from hanse_simulations.report.groups import group_tables
from hanse_simulations.report.interest_map import interest_plane
from hanse_simulations.report.outlook_metrics import COLUMNS, outlook_curves, outlook_lines
from hanse_simulations.report.overview import (
    before_private_data,
    epsilon_by_phase,
    phase_costs,
    who_gains,
)
from hanse_simulations.report.plots import (
    Plot,
    accuracy_by_round,
    accuracy_by_store,
    epsilon_by_round,
    last_by_store,
    rise_and_fall,
)
from hanse_simulations.report.small import joining_by_size
from hanse_simulations.report.svg import arm_variable
from hanse_simulations.report.sweep import accuracy_by_epsilon, comparison_tables
from hanse_simulations.report.tables import arms_of_task, best_arms, masking, promise, shown_metrics
from hanse_simulations.report.wording import ABSENT, counted, delta, duration, epsilon, figure
from hanse_simulations.runs.arm_folder import ArmFolder
from hanse_simulations.runs.files import write_text
from hanse_simulations.runs.folder import RunFolder, flatten
from hanse_simulations.runs.results import RunResult, Spread

_LEADING = ("ndcg@10", "rise_auc", "fall_auc")
_RELATIONS = {
    "add-or-remove-one": "two data sets are neighbours if one has all of one customer's"
    " history and the other has none of it",
}
_MODES = {
    "distributed": "each store adds its share of the noise, and the masked sum has all of it;"
    " a single update would be protected by its mask alone",
    "local": "each store adds enough noise to protect its customers by itself,"
    " whoever sees its updates and whatever the other stores do",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One metric of the comparison."""

    text: str
    spread: str = ""
    best: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportRow:
    """One arm of the comparison."""

    label: str
    about: str
    colour: str
    kind: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonTable:
    """The table of one task."""

    title: str
    metrics: tuple[Metric, ...]
    rows: tuple[ReportRow, ...]

    @property
    def explores(self) -> bool:
        """Whether any column counts only what is new to the customer."""
        return any("explore" in metric.name for metric in self.metrics)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """A label, a value, and a remark."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreTable:
    """Every store's own metrics; the columns are grouped by metric."""

    groups: tuple[tuple[str, tuple[str, ...]], ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def write_report(folder: RunFolder) -> Path:
    """Write a run's report, replacing an older one.

    Args:
        folder: The folder of a finished run.

    Returns:
        The path of the report.

    Raises:
        RunNotFound: The run has not finished.
        RunDirectoryError: Its files are damaged, or the report cannot be written.
    """
    result = folder.read_result()
    settings = dict(flatten(folder.read_settings_table()))
    figures = folder.read_metrics()
    target = settings.get("privacy.target_epsilon") if result.epsilon else None
    environment = page_environment("hanse_simulations", "report")
    page = environment.get_template("template.html.j2").render(
        run=folder.name,
        result=result,
        headline=headline(result),
        facts=_key_figures(result, target),
        comparisons=[_comparison(result, task) for task in TASKS if arms_of_task(result, task)],
        comparison=comparison_tables(result),
        overview=_overview(folder, result),
        differences=difference_tables(result.intervals),
        differences_reading=READING,
        groups=group_tables(result),
        outlook_columns=tuple(COLUMNS.values()),
        outlook_metrics=outlook_lines(result),
        plots=_plots(folder, figures, result, target),
        promise=promise(result.epsilon),
        protection=_protection(result, target),
        stores=_store_table(figures, result),
        settings=settings,
        command=result.command or _command(result, settings),
        seed=settings.get("seed", ABSENT),
        version=version("hanse"),
    )
    write_text(folder.report_file, page)
    return folder.report_file


def headline(result: RunResult) -> str:
    """Summarise a run in one sentence, compared with the strongest baselines."""
    who = f"{counted(result.stores, 'store')} with {counted(result.customers, 'customer')}"
    parts = [f"{who} trained one model in {counted(result.rounds, 'round')}"]
    reached = [
        f"{METRICS[metric].label} {figure(value)}{_against(result, metric, value)}"
        for metric in _LEADING
        if (value := result.metrics.get(metric)) is not None
    ]
    if reached:
        parts.append("on the test weeks it reaches " + _enumerate(reached))
    if result.epsilon is None:
        end = ", without differential privacy."
    else:
        end = f", at ε ≤ {epsilon(result.epsilon.max)} for every customer of a store."
    return "; ".join(parts) + end


def spent_by_round(folder: ArmFolder, figures: pl.DataFrame) -> dict[str, list[tuple[int, float]]]:
    """Epsilon of each store after each round, from the metrics or else from its log."""
    rows = figures.filter(
        (pl.col("metric") == "epsilon")
        & (pl.col("arm") == "federated_private")
        & (pl.col("store") != ALL_STORES)
        & pl.col("round").is_not_null()
        & pl.col("value").is_not_null()
    ).sort("round")
    spent: dict[str, list[tuple[int, float]]] = {}
    for store, number, value in rows.select("store", "round", "value").rows():
        spent.setdefault(store, []).append((number, value))
    if spent:
        return spent
    for store, log in folder.store_logs().items():
        by_round = {
            entry["round"]: float(entry["epsilon"])
            for entry in JsonLines(log).new()
            if isinstance(entry.get("epsilon"), int | float) and isinstance(entry.get("round"), int)
        }
        if by_round:
            spent[store] = sorted(by_round.items())
    return spent


def _overview(folder: RunFolder, result: RunResult) -> list[Plot]:
    """The drawings of the first screen, without those that the run has nothing for."""
    try:
        costs = phase_costs(folder.read_settings()) if result.epsilon else []
    except HanseError:  # settings of another version, or a plan that no longer holds
        costs = []
    plots = (
        who_gains(result),
        accuracy_by_epsilon(result.sweep, result.intervals),
        joining_by_size(result.sizes),
        epsilon_by_phase(costs),
        before_private_data(result),
    )
    return [plot for plot in plots if plot is not None]


def _plots(
    folder: RunFolder, figures: pl.DataFrame, result: RunResult, target: float | None
) -> list[Plot]:
    spent = spent_by_round(folder, figures) if result.epsilon else {}
    drawings = folder.read_drawings()
    plots = (
        accuracy_by_round(figures, result, "ndcg@10"),
        accuracy_by_store(figures, result, "ndcg@10"),
        rise_and_fall(result),
        epsilon_by_round(spent, target),
        outlook_curves(drawings.curves, result),
        interest_plane(drawings.interest_map),
    )
    return [plot for plot in plots if plot is not None]


def _key_figures(result: RunResult, target: float | None) -> list[Fact]:
    facts = []
    for name in _LEADING:
        value = result.metrics.get(name)
        if value is None:
            continue
        best = result.best_baseline(name)
        note = f"best baseline {figure(best[1])}" if best else METRICS[name].about
        facts.append(Fact(label=METRICS[name].label, value=figure(value), note=note))
    if result.epsilon is not None:
        note = f"δ = {delta(result.epsilon.delta)}" + (f", target {target:g}" if target else "")
        facts.append(Fact(label="ε at most", value=epsilon(result.epsilon.max), note=note))
    facts.append(
        Fact(
            label="Stores",
            value=f"{result.stores:,}",
            note=counted(result.customers, "customer"),
        )
    )
    memory = f", {result.peak_memory_mb:,.0f} MB" if result.peak_memory_mb else ""
    note = counted(result.rounds, "round") + memory
    facts.append(Fact(label="Time", value=duration(result.seconds), note=note))
    return facts


def _comparison(result: RunResult, task: Task) -> ComparisonTable:
    arms = arms_of_task(result, task)
    metrics = shown_metrics(arms, task)
    figures = {row.name: values for row, values in arms}
    best = {metric.name: best_arms(figures, metric.name) for metric in metrics}
    rows = tuple(
        ReportRow(
            label=row.label,
            about=row.about,
            colour=arm_variable(row.name),
            kind=row.kind,
            cells=tuple(
                Cell(
                    text=figure(values.get(metric.name)),
                    spread=_spread(result.spread.get(row.name, {}).get(metric.name)),
                    best=row.name in best[metric.name],
                )
                for metric in metrics
            ),
        )
        for row, values in arms
    )
    return ComparisonTable(title=TASKS[task], metrics=tuple(metrics), rows=rows)


def _protection(result: RunResult, target: float | None) -> list[Fact]:
    spent = result.epsilon
    if spent is None:
        return []
    lowest = min(spent.per_store.values(), default=spent.max)
    span = f"{epsilon(lowest)} to {epsilon(spent.max)} from store to store"
    facts = [
        Fact(
            label="ε",
            value=f"≤ {epsilon(spent.max)}",
            note="the same at every store" if epsilon(lowest) == epsilon(spent.max) else span,
        ),
        Fact(label="δ", value=delta(spent.delta), note="per store"),
        Fact(
            label="Unit",
            value=spent.unit,
            note="everything one customer did at one store, over all rounds of this run;"
            " who shops at several stores of a federation spends at each",
        ),
        Fact(label="Neighbours", value=spent.relation, note=_RELATIONS.get(spent.relation, "")),
        Fact(label="Mode", value=spent.mode, note=_MODES.get(spent.mode, "")),
        Fact(
            label="Secure aggregation",
            value="on" if result.secure_aggregation else "off",
            note=masking(result).partition("; ")[2],
        ),
    ]
    if target is not None:
        facts.insert(1, Fact(label="Target ε", value=f"{target:g}", note="what was planned for"))
    terms = (
        ("Sampling rate", spent.sample_rate, "chance of each customer to be in a step"),
        ("Noise multiplier", spent.noise_multiplier, "noise, in units of the clipping norm"),
        ("Steps", spent.steps, "noisy steps over all rounds"),
    )
    facts += [
        Fact(label=label, value=f"{value:g}", note=note)
        for label, value, note in terms
        if value is not None
    ]
    return facts


def _store_table(figures: pl.DataFrame, result: RunResult) -> StoreTable | None:
    """One row per store, the largest first: the main arm, the store alone and the best rule."""
    groups: list[tuple[str, tuple[str, ...]]] = []
    columns: list[dict[str, str]] = []
    sizes: dict[str, float] = {}
    for metric in _LEADING:
        last = last_by_store(figures, metric)
        for store, weight in last.select("store", "weight").rows():
            sizes[store] = max(weight, sizes.get(store, 0.0))
        present = set(last["arm"].to_list())
        best = result.best_baseline(metric)
        wanted = [result.main_arm, "alone", *([best[0]] if best else [])]
        names = [name for name in wanted if name in present]
        if names:
            groups.append((METRICS[metric].label, tuple(arm(name).label for name in names)))
        for name in names:
            rows = last.filter(pl.col("arm") == name).select("store", "value").rows()
            columns.append({store: figure(value) for store, value in rows})
    if result.epsilon is not None and result.epsilon.per_store:
        groups.append(("Privacy", ("ε",)))
        columns.append({s: epsilon(value) for s, value in result.epsilon.per_store.items()})
    if not sizes:
        return None
    return StoreTable(
        groups=tuple(groups),
        rows=tuple(
            (store, (f"{size:,.0f}", *(column.get(store, ABSENT) for column in columns)))
            for store, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
        ),
    )


def _against(result: RunResult, metric: str, value: float) -> str:
    best = result.best_baseline(metric)
    if best is None:
        return ""
    # Rounded first, so that the difference is that of the figures as printed.
    rule, gap = arm(best[0]).label.lower(), round(value, 3) - round(best[1], 3)
    if abs(gap) < 0.0005:
        return f" (level with {rule})"
    return f" ({figure(abs(gap))} {'above' if gap > 0 else 'below'} {rule})"


def _command(result: RunResult, settings: dict[str, Any]) -> str:
    seed = f" --seed {settings['seed']}" if "seed" in settings else ""
    return f"hanse simulate {result.recipe}{seed}"


def _spread(spread: Spread | None) -> str:
    return "" if spread is None or spread.std is None else f"±{figure(spread.std)}"


def _enumerate(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
