"""Small federations: from how many customers on joining pays, as a table and a chart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from rich import box
from rich.table import Table
from rich.text import Text

from hanse_simulations.experiment.arms import METRICS
from hanse_simulations.report.differences import SHOWN, difference
from hanse_simulations.report.plots import Key, Plot
from hanse_simulations.report.svg import (
    arm_colour,
    arm_variable,
    drawing,
    muted,
    standalone,
    to_svg,
)
from hanse_simulations.report.wording import ABSENT, counted, figure
from hanse_simulations.runs.files import write_text
from hanse_simulations.runs.results import PairedInterval, SizeFigures

_ARM: Final = "federated_private"
_REFERENCE: Final = "alone"
_PANELS: Final = ("rise_auc", "explore_ndcg@10")
# Of arms that are not in the drawing: one for each epsilon, the largest first.
_COLOURS: Final = ("federated_private", "federated", "alone", "personal_frequency", "markov")


def pays_from(rows: Sequence[SizeFigures], stores: int, epsilon: float, metric: str) -> int | None:
    """Return the number of customers from which on joining pays, among those measured.

    It pays where the interval of the difference to each store alone is above 0.

    Args:
        rows: All sizes that were measured.
        stores: The number of stores.
        epsilon: Target epsilon of the private federation.
        metric: The metric to compare.

    Returns:
        The smallest measured number at which it pays, and at all larger ones too; None if there
        is none.
    """
    found = None
    for row in sorted(rows, key=lambda row: -row.customers):
        if row.stores == stores:
            joining = _joining(row, epsilon, metric)
            if joining is None or joining.low is None or joining.low <= 0:
                break
            found = row.customers
    return found


def size_table(rows: Sequence[SizeFigures]) -> Table:
    """Lay out what joining changes, by size and ε, and from where on it pays."""
    table = Table(
        title="Joining under privacy, less each store alone without it: paired 95 % intervals",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for heading in ("Stores", "Customers", "ε"):
        table.add_column(heading, justify="right")
    for metric in SHOWN:
        table.add_column(METRICS[metric].label, justify="right")
    for row in rows:
        for epsilon in epsilons_of([row]):
            cells = [difference(_joining(row, epsilon, metric)) for metric in SHOWN]
            table.add_row(str(row.stores), f"{row.customers:,}", f"{epsilon:g}", *map(Text, cells))
    table.add_section()
    for stores in dict.fromkeys(row.stores for row in rows):
        for epsilon in epsilons_of(rows):
            least = (pays_from(rows, stores, epsilon, metric) for metric in SHOWN)
            cells = [ABSENT if number is None else f"from {number:,}" for number in least]
            table.add_row(str(stores), "pays", f"{epsilon:g}", *cells)
    return table


def joining_by_size(rows: Sequence[SizeFigures], *, legend: bool = False) -> Plot | None:
    """Draw what joining changes against the number of customers, a line for each ε.

    Args:
        rows: The sizes of a run's small federations.
        legend: Whether the drawing has its legend in itself.

    Returns:
        None where the run has none.
    """
    if not rows:
        return None
    counts, epsilons = list(dict.fromkeys(row.stores for row in rows)), epsilons_of(rows)
    sizes = sorted({row.customers for row in rows})
    title = "From which size on joining pays"
    with drawing(4.4) as sheet:
        panels = sheet.subplots(len(_PANELS), len(counts), sharex=True, sharey="row", squeeze=False)
        for line, metric in zip(panels, _PANELS, strict=True):
            for axes, stores in zip(line, counts, strict=True):
                axes.axhline(0.0, color=muted(), linewidth=1.0, linestyle=(0, (2, 2)))
                for place, epsilon in enumerate(epsilons):
                    known = [
                        (row.customers * 1.05**place, joining)
                        for row in rows
                        if row.stores == stores
                        and (joining := _joining(row, epsilon, metric)) is not None
                    ]
                    _line(axes, known, arm_colour(_COLOURS[place % len(_COLOURS)]))
                axes.set_xscale("log")
                axes.xaxis.set_major_locator(FixedLocator(sizes))
                axes.xaxis.set_minor_locator(NullLocator())
                axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
                axes.tick_params(axis="x", labelrotation=40)
                axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
                axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: figure(value)))
            line[0].set_ylabel(METRICS[metric].label)
        for axes, stores in zip(panels[0], counts, strict=True):
            axes.set_title(counted(stores, "store"))
        for axes in panels[-1]:
            axes.set_xlabel("customers")
        if legend:
            labels = [f"ε = {epsilon:g}" for epsilon in epsilons]
            sheet.legend(
                [Line2D([], [], color=arm_colour(c), marker="o") for c in _COLOURS[: len(labels)]],
                labels,
                loc="outside lower center",
                ncols=len(labels),
                frameon=False,
            )
        described = "; ".join(
            f"{counted(stores, 'store')} at ε {epsilon:g}: "
            + ("nowhere" if least is None else f"from {counted(least, 'customer')}")
            for stores in counts
            for epsilon in epsilons
            for least in [pays_from(rows, stores, epsilon, _PANELS[0])]
        )
        svg = to_svg(sheet, "joining-by-size", title, f"Joining pays in Rise AUC: {described}.")
    caption = (
        "The private federation, less each store alone without privacy, by customers of all"
        " stores together. Whiskers: 95 % interval over customers, paired; one that crosses 0"
        " shows no difference."
    )
    keys = tuple(
        Key(
            label=f"ε = {epsilon:g}",
            colour=arm_variable(_COLOURS[place % len(_COLOURS)]),
            marker="circle",
        )
        for place, epsilon in enumerate(epsilons)
    )
    return Plot(title=title, caption=caption, svg=svg, legend=keys)


def write_chart(rows: Sequence[SizeFigures], path: Path) -> None:
    """Write the drawing of `joining_by_size` as an SVG file that needs nothing else.

    Raises:
        RunDirectoryError: The file cannot be written.
    """
    plot = joining_by_size(rows, legend=True)
    if plot is not None:
        write_text(path, standalone(plot.svg))


def epsilons_of(rows: Sequence[SizeFigures]) -> list[float]:
    """The target epsilons that were trained, the largest first."""
    known = {one.epsilon for row in rows for one in row.intervals if one.epsilon is not None}
    return sorted(known, reverse=True)


def _joining(row: SizeFigures, epsilon: float, metric: str) -> PairedInterval | None:
    return next(
        (
            one
            for one in row.intervals
            if (one.arm, one.against) == (_ARM, _REFERENCE)
            and (one.epsilon, one.metric) == (epsilon, metric)
        ),
        None,
    )


def _line(axes: Axes, points: Sequence[tuple[float, PairedInterval]], colour: str) -> None:
    """Draw differences by size with their intervals, where they have one."""
    shown = [(size, one.value) for size, one in points if one.value is not None]
    axes.plot(
        [size for size, _ in shown],
        [value for _, value in shown],
        color=colour,
        marker="o",
        markersize=3.5,
        linewidth=1.2,
    )
    for size, one in points:
        if one.low is not None and one.high is not None:
            axes.plot([size, size], [one.low, one.high], color=colour, linewidth=1.0)
