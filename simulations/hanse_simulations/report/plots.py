"""The drawings of a report: accuracy by round and by store, ε by round, rise and fall.

Each function takes a run's metrics (the table of `RunFolder.read_metrics`) and returns a `Plot`,
or None where the run has nothing to draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from hanse_simulations.experiment.arms import ALL_STORES, METRICS, arm
from hanse_simulations.report.svg import (
    arm_colour,
    arm_variable,
    card,
    drawing,
    ink,
    muted,
    to_svg,
)
from hanse_simulations.report.wording import counted, epsilon, figure
from hanse_simulations.runs.results import RunResult

MOST_STORE_ROWS: Final = 30
"""With more stores than this, a scatter over store size replaces one row per store."""

_DASHES: Final = {
    "global_popularity": (0, (1, 1.6)),
    "markov": (0, (5, 1.6, 1, 1.6)),
    "personal_frequency": (0, (5, 2)),
    "mean_reversion": (0, (1, 1.6)),
    "long_run_rate": (0, (5, 1.6, 1, 1.6)),
    "logistic_regression": (0, (5, 2)),
}
_MARKERS: Final = {"alone": "s", "federated": "D", "federated_private": "o"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """One entry of a legend, drawn by the page."""

    label: str
    colour: str
    """A CSS variable."""
    dashes: str = ""
    """`stroke-dasharray`; empty for a solid line."""
    marker: str = ""
    """circle, square, diamond, bar, or nothing."""
    line: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """A drawing with its title, caption and legend."""

    title: str
    caption: str
    svg: str
    legend: tuple[Key, ...] = field(default=())


def accuracy_by_round(figures: pl.DataFrame, result: RunResult, metric: str) -> Plot | None:
    """Draw every model's accuracy round by round, simple rules as dashed lines."""
    overall = figures.filter(
        (pl.col("metric") == metric)
        & (pl.col("store") == ALL_STORES)
        & pl.col("value").is_not_null()
    )
    split = _split_by_round(overall, result)
    if split is None:
        return None
    curves = overall.filter((pl.col("split") == split) & pl.col("round").is_not_null())
    levels = overall.filter((pl.col("split") == split) & pl.col("round").is_null())
    title = f"{METRICS[metric].label} by round"
    keys = []
    with drawing(2.8) as sheet:
        axes = sheet.add_subplot()
        for name in _in_order(levels["arm"].unique().to_list(), result.baselines):
            value = levels.filter(pl.col("arm") == name)["value"][0]
            axes.axhline(value, color=arm_colour(name), linestyle=_dash(name), linewidth=1.4)
            keys.append(_key(name))
        for name in _in_order(curves["arm"].unique().to_list(), result.all_arms()):
            line = curves.filter(pl.col("arm") == name).sort("round")
            axes.plot(
                line["round"].to_list(),
                line["value"].to_list(),
                color=arm_colour(name),
                marker=_MARKERS.get(name, "o"),
                markeredgecolor=card(),
                markeredgewidth=0.6,
            )
            keys.append(_key(name))
        axes.set_xlabel("round")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(_tick))
        axes.grid(axis="x", visible=False)
        weeks = {"validate": "validation weeks", "test": "test weeks"}.get(split, split)
        last = curves.sort("round").group_by("arm", maintain_order=True).last()
        finals = ", ".join(
            f"{arm(a).label} {figure(v)}" for a, v in last.select("arm", "value").rows()
        )
        rules = " Dashed: simple rules, which do not learn." if levels.height else ""
        svg = to_svg(sheet, f"{_slug(metric)}-by-round", title, f"After the last round: {finals}.")
    caption = f"All customers together, {weeks}.{rules}"
    return Plot(title=title, caption=caption, svg=svg, legend=tuple(keys))


def accuracy_by_store(figures: pl.DataFrame, result: RunResult, metric: str) -> Plot | None:
    """Draw every store's accuracy, arms side by side, the largest store first."""
    stores = last_by_store(figures, metric)
    names = [name for name in _MARKERS if name in stores["arm"].unique().to_list()]
    if not names:
        return None
    best = result.best_baseline(metric)
    if best is not None and stores.filter(pl.col("arm") == best[0]).height:
        names.insert(0, best[0])
    sizes = stores.group_by("store").agg(pl.col("weight").max()).sort("weight", "store")
    many = sizes.height > MOST_STORE_ROWS
    title = f"{METRICS[metric].label} by store"
    with drawing(3.0 if many else 0.8 + 0.22 * sizes.height) as sheet:
        axes = sheet.add_subplot()
        if many:
            _scatter_stores(axes, stores, names, metric)
        else:
            _store_rows(axes, stores, names, sizes, metric)
        means = stores.group_by("arm").agg(pl.col("value").mean())
        text = ", ".join(f"{arm(a).label} {figure(v)}" for a, v in means.sort("arm").rows())
        described = f"{counted(sizes.height, 'store')}; mean over stores: {text}."
        svg = to_svg(sheet, f"{_slug(metric)}-by-store", title, described)
    where = "One dot a store and arm" if many else "In brackets: the store's customers"
    keys = tuple(_key(name, line=False) for name in names)
    return Plot(title=title, caption=f"Test weeks. {where}.", svg=svg, legend=keys)


def epsilon_by_round(
    spent: dict[str, list[tuple[int, float]]], target: float | None
) -> Plot | None:
    """Draw each store's epsilon after each round, and the target.

    Args:
        spent: For each store, (round, ε) in order of rounds.
        target: The ε that the run was planned for.
    """
    ends = {store: line[-1][1] for store, line in spent.items() if line}
    if not ends:
        return None
    colour = arm_colour("federated_private")
    with drawing(2.8) as sheet:
        axes = sheet.add_subplot()
        for store in ends:
            rounds, values = zip(*spent[store], strict=True)
            axes.plot(
                rounds, values, color=colour, alpha=0.55 if len(ends) > 1 else 1.0, marker="o"
            )
        if target is not None:
            axes.axhline(target, color=ink(), linestyle=(0, (5, 2)), linewidth=1.2)
            axes.annotate(
                f"target {target:g}",
                (0, target),
                xycoords=("axes fraction", "data"),
                xytext=(3, -3),
                textcoords="offset points",
                va="top",
                color=ink(),
            )
        axes.set_ylim(bottom=0, top=1.08 * max([*ends.values(), target or 0.0]))
        axes.set_xlabel("round")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.grid(axis="x", visible=False)
        low, high = epsilon(min(ends.values())), epsilon(max(ends.values()))
        span = high if low == high else f"between {low} and {high}"
        reached = f"{counted(len(ends), 'store')}; after the last round ε is {span}."
        svg = to_svg(sheet, "epsilon-by-round", "ε by round", reached)
    caption = f"What a customer's participation has cost so far, one line a store. {reached}"
    return Plot(title="ε by round", caption=caption, svg=svg)


def rise_and_fall(result: RunResult) -> Plot | None:
    """Draw rise and fall AUC of every arm, with their spread over stores."""
    metrics = ("rise_auc", "fall_auc")
    arms = {
        name: values
        for name, values in result.all_arms().items()
        if any(values.get(metric) is not None for metric in metrics)
    }
    if not arms:
        return None
    names = list(reversed(arms))
    with drawing(0.9 + 0.26 * len(names)) as sheet:
        panels = sheet.subplots(1, 2, sharey=True, sharex=True)
        for axes, metric in zip(panels, metrics, strict=True):
            axes.axvline(0.5, color=muted(), linewidth=1.0, linestyle=(0, (2, 2)))
            for row, name in enumerate(names):
                value = arms[name].get(metric)
                if value is None:
                    continue
                spread = result.spread.get(name, {}).get(metric)
                axes.errorbar(
                    value,
                    row,
                    xerr=None if spread is None else spread.std,
                    color=arm_colour(name),
                    fmt=_MARKERS.get(name, "|"),
                    markersize=5.5 if name in _MARKERS else 9,
                    markeredgewidth=1.8 if name not in _MARKERS else 0,
                    elinewidth=1.2,
                )
            axes.set_title(METRICS[metric].label)
            axes.set_yticks(range(len(names)), [arm(name).label for name in names], color=ink())
            axes.set_ylim(-0.6, len(names) - 0.4)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=3, steps=[1, 2, 5, 10]))
            axes.xaxis.set_major_formatter(FuncFormatter(_tick))
            axes.grid(axis="y", visible=False)
        text = "; ".join(
            f"{arm(name).label} {' and '.join(figure(values.get(metric)) for metric in metrics)}"
            for name, values in arms.items()
        )
        svg = to_svg(sheet, "rise-and-fall", "Rise and fall AUC", f"Rise and fall: {text}.")
    caption = (
        "Telling which categories a customer will turn to, or from, in the next four weeks."
        " Whiskers: standard deviation over stores; dotted: chance."
    )
    return Plot(title="Rise and fall", caption=caption, svg=svg)


def last_by_store(figures: pl.DataFrame, metric: str) -> pl.DataFrame:
    """Return each store's final test metric.

    Returns:
        One row per arm and store: arm, store, value, weight (customers).
    """
    return (
        figures.filter(
            (pl.col("metric") == metric)
            & (pl.col("split") == "test")
            & (pl.col("store") != ALL_STORES)
            & pl.col("value").is_not_null()
        )
        # Baselines have no round; of an arm with several, the last one counts.
        .sort("round", nulls_last=False, maintain_order=True)
        .group_by("arm", "store", maintain_order=True)
        .agg(pl.col("value", "weight").last())
    )


def _store_rows(
    axes: Axes, stores: pl.DataFrame, names: Sequence[str], sizes: pl.DataFrame, metric: str
) -> None:
    rows = {store: row for row, store in enumerate(sizes["store"].to_list())}
    for name in names:
        points = stores.filter(pl.col("arm") == name)
        axes.plot(
            points["value"].to_list(),
            [rows[store] for store in points["store"].to_list()],
            linestyle="none",
            color=arm_colour(name),
            **_marker_style(name),
        )
    labels = [f"{_short(store)} ({weight:,.0f})" for store, weight in sizes.rows()]
    axes.set_yticks(range(len(labels)), labels, color=ink())
    axes.set_ylim(-0.7, len(labels) - 0.3)
    axes.set_xlabel(METRICS[metric].label)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(_tick))


def _scatter_stores(axes: Axes, stores: pl.DataFrame, names: Sequence[str], metric: str) -> None:
    for name in names:
        points = stores.filter(pl.col("arm") == name)
        axes.plot(
            points["weight"].to_list(),
            points["value"].to_list(),
            linestyle="none",
            color=arm_colour(name),
            alpha=0.7,
            **{**_marker_style(name), "markersize": 3.5},
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda _value, _position: ""))
    axes.set_xlabel("customers of the store")
    axes.set_ylabel(METRICS[metric].label)
    axes.yaxis.set_major_formatter(FuncFormatter(_tick))


def _split_by_round(overall: pl.DataFrame, result: RunResult) -> str | None:
    """The split with metrics of most rounds; of equal ones that with baselines, then validate."""
    counts = overall.filter(pl.col("round").is_not_null() & (pl.col("split") != "train"))
    if counts.is_empty():
        return None
    rounds: dict[str, int] = dict(counts.group_by("split").agg(pl.col("round").n_unique()).rows())
    with_rules = set(overall.filter(pl.col("arm").is_in(list(result.baselines)))["split"].to_list())
    return max(rounds, key=lambda split: (rounds[split], split in with_rules, split == "validate"))


def _marker_style(name: str) -> dict[str, Any]:
    if name not in _MARKERS:
        return {"marker": "|", "markersize": 10, "markeredgewidth": 1.8}
    return {
        "marker": _MARKERS[name],
        "markersize": 7 if name == "federated_private" else 6,
        "markeredgecolor": card(),
    }


def _key(name: str, *, line: bool = True) -> Key:
    shapes = {"o": "circle", "s": "square", "D": "diamond"}
    model = name in _MARKERS
    dash = "" if model or not line else " ".join(f"{part:g}" for part in _dash(name)[1])
    return Key(
        label=arm(name).label,
        colour=arm_variable(name),
        dashes=dash,
        marker=shapes[_MARKERS[name]] if model else "" if line else "bar",
        line=line,
    )


def _dash(name: str) -> tuple[int, tuple[float, ...]]:
    return _DASHES.get(name, (0, (3, 2)))


def _in_order(names: Sequence[str], order: Sequence[str] | dict[str, Any]) -> list[str]:
    places = {name: place for place, name in enumerate(order)}
    return sorted(names, key=lambda name: (places.get(name, len(places)), name))


def _tick(value: float, _position: object) -> str:
    return figure(value, digits=2)


def _short(text: str, most: int = 22) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _slug(metric: str) -> str:
    return metric.replace("@", "-at-").replace("_", "-")
