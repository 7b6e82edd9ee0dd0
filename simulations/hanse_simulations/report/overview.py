"""The first screen of a report: who gains, accuracy by ε, ε by phase, the start.

Whiskers are 95 % intervals over customers, from the intervals and groups of the run's result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from hanse_common.config import RunSettings
from hanse_common.privacy.accounting import epsilon as epsilon_of
from hanse_common.privacy.plan import PrivacyPlan
from hanse_simulations.experiment.arms import EFFECTS, GAP, METRICS, arm
from hanse_simulations.report.differences import SHOWN
from hanse_simulations.report.plots import Plot
from hanse_simulations.report.svg import arm_colour, drawing, ink, muted, to_svg
from hanse_simulations.report.wording import counted, epsilon, figure
from hanse_simulations.runs.results import GroupFigure, PairedInterval, RunResult

_GROUPINGS: Final = ("store size", "activity")
"""Groupings on the first screen; bands of customers are in the tables below."""
_GAINING: Final = ("explore_ndcg@10", "rise_auc", "fall_auc", "ndcg@10")
_BEFORE: Final = ("untrained", "before")
_Span = GroupFigure | PairedInterval


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseCost:
    """What one phase of a run costs a customer."""

    name: str
    rounds: int
    share: float
    """Share of the squared parameter of Gaussian differential privacy."""
    noise_multiplier: float
    epsilon: float
    """Epsilon of this phase alone; those of several phases do not add up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """One row of a forest plot: a label, and a span in each panel."""

    label: str
    colour: str
    spans: Mapping[str, _Span]


def who_gains(result: RunResult) -> Plot | None:
    """Draw what joining changes, for everybody and by group, with intervals.

    The difference is that of the private federation to each store alone, or, in a run without
    privacy, that of the federation.
    """
    for effect in ("joining with privacy", "joining"):
        more, less = EFFECTS[effect]
        everybody = {
            row.metric: row
            for row in result.intervals
            if (row.arm, row.against) == (more, less) and row.metric in _GAINING
        }
        if everybody:
            break
    else:
        return None
    rows = [_Row(label="all customers", colour=more, spans=everybody)]
    groups: dict[str, dict[str, _Span]] = {}
    for group in result.groups:
        if group.arm == effect and group.grouping in _GROUPINGS and group.group != GAP:
            groups.setdefault(group.group, {})[group.metric] = group
    rows += [_Row(label=name, colour=more, spans=spans) for name, spans in groups.items()]
    metrics = [name for name in _GAINING if name in everybody]
    title = "Who gains by joining"
    described = "; ".join(f"{METRICS[name].label} {_span(everybody[name])}" for name in metrics)
    svg = _forest(rows, metrics, name="who-gains", title=title, described=described, zero=True)
    caption = (
        f"{arm(more).label}, less {arm(less).label.lower()} without privacy, on the same test"
        " customers. Whiskers: 95 % interval over customers, paired; one that crosses 0 shows no"
        " difference."
    )
    if result.sweep and groups:
        caption += " Groups: the run's own seed; all customers: staying alone is a mean of seeds."
    return Plot(title=title, caption=caption, svg=svg)


def before_private_data(result: RunResult) -> Plot | None:
    """Draw what the model knew before any private data, next to the rules and the main arm."""
    own = [row for row in result.intervals if row.against is None and row.metric in SHOWN]
    arms = {row.arm for row in own}
    before = next((name for name in _BEFORE[::-1] if name in arms), None)
    if before is None:
        return None
    names = [name for name in result.baselines if name in arms and name not in _BEFORE]
    names += [name for name in _BEFORE if name in arms]
    names += [name for name in ("alone", result.main_arm) if name in arms]
    spans: dict[str, dict[str, _Span]] = {}
    for row in own:
        spans.setdefault(row.arm, {})[row.metric] = row
    rows = [_Row(label=arm(name).label, colour=name, spans=spans[name]) for name in names]
    metrics = [name for name in SHOWN if any(name in row.spans for row in rows)]
    title = "What was known before any private data"
    described = "; ".join(
        f"{row.label} {' '.join(figure(one.value) for one in row.spans.values())}" for row in rows
    )
    svg = _forest(rows, metrics, name="before", title=title, described=described)
    caption = (
        "The untrained model has seen public data alone; rules and trees are fitted to all"
        " customers in one place. Whiskers: 95 % interval over customers of each figure by"
        " itself, which is wider than that of a difference."
    )
    return Plot(title=title, caption=caption, svg=svg)


def phase_costs(settings: RunSettings) -> list[PhaseCost]:
    """List what each phase of a run costs; empty without privacy.

    Args:
        settings: The run's settings.

    Raises:
        PrivacyError: The settings' noise does not reach their target epsilon.
    """
    plan = PrivacyPlan.from_settings(settings)
    if plan is None:
        return []
    shares = {phase.name: phase.share or 0.0 for phase in settings.phases}
    costs = []
    for phase in plan.schedule.all:
        charge = plan.charge(phase.name)
        if charge is None:
            continue
        alone = epsilon_of([charge.steps] * phase.rounds, target_delta=plan.target_delta)
        costs.append(
            PhaseCost(
                name=phase.name,
                rounds=phase.rounds,
                share=shares.get(phase.name, 1.0),
                noise_multiplier=plan.phase_noise.get(phase.name, plan.noise_multiplier),
                epsilon=alone,
            )
        )
    return costs


def epsilon_by_phase(costs: Sequence[PhaseCost]) -> Plot | None:
    """Draw each phase's share of the budget as a bar; None without privacy."""
    if not costs:
        return None
    title = "ε by phase"
    rows = list(reversed(costs))
    with drawing(1.4 + 0.42 * len(rows)) as sheet:
        axes = sheet.add_subplot()
        axes.barh(
            range(len(rows)),
            [100 * cost.share for cost in rows],
            height=0.5,
            color=arm_colour("federated_private"),
        )
        for place, cost in enumerate(rows):
            # In the middle of the axis, whatever the bar's length, below the bar.
            axes.text(0.5, place - 0.42, _terms(cost), va="center", color=ink(), fontsize=8.5)
        axes.set_yticks(range(len(rows)), [cost.name for cost in rows], color=ink())
        axes.set_ylim(-0.75, len(rows) - 0.4)
        axes.set_xlim(0, 100)
        axes.set_xlabel("share of the squared budget, %")
        axes.grid(axis="y", visible=False)
        described = "; ".join(f"{cost.name}: {_terms(cost)}, {cost.share:.0%}" for cost in costs)
        svg = to_svg(sheet, "epsilon-by-phase", title, f"{described}.")
    caption = (
        "What each phase of the run releases about a customer, as a share of μ² (Gaussian"
        " differential privacy); σ is the noise in units of the largest contribution, ε that of"
        " the phase alone. Evaluations and spare exchanges are paid from the same budget."
    )
    return Plot(title=title, caption=caption, svg=svg)


def _terms(cost: PhaseCost) -> str:
    rounds = counted(cost.rounds, "round")
    return f"{rounds}, σ {cost.noise_multiplier:.3g}, ε {epsilon(cost.epsilon)} alone"


def _forest(
    rows: Sequence[_Row],
    metrics: Sequence[str],
    *,
    name: str,
    title: str,
    described: str,
    zero: bool = False,
) -> str:
    """Draw spans by row and metric, two panels next to each other, as an SVG."""
    # Each line of panels has the rows with a span in one of its two metrics.
    pairs = [metrics[start : start + 2] for start in range(0, len(metrics), 2)]
    lines = [[row for row in rows if not row.spans.keys().isdisjoint(pair)] for pair in pairs]
    heights = [0.62 + 0.2 * len(line) for line in lines]
    with drawing(sum(heights)) as sheet:
        panels = sheet.subplots(
            len(pairs),
            min(len(metrics), 2),
            sharey="row",
            squeeze=False,
            height_ratios=heights,
        )
        for axes in panels.flat[len(metrics) :]:
            axes.set_visible(False)
        for place, metric in enumerate(metrics):
            axes = panels.flat[place]
            _spans(axes, lines[place // 2], metric, zero=zero)
            axes.set_title(METRICS[metric].label)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=3, steps=[1, 2, 5, 10]))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
            axes.grid(axis="y", visible=False)
        return to_svg(sheet, name, title, f"{described}.")


def _spans(axes: Axes, rows: Sequence[_Row], metric: str, *, zero: bool) -> None:
    """Draw the spans of one metric, the first row on top."""
    if zero:
        axes.axvline(0.0, color=muted(), linewidth=1.0, linestyle=(0, (2, 2)))
    for place, row in enumerate(reversed(rows)):
        span = row.spans.get(metric)
        if span is None or span.value is None:
            continue
        colour = arm_colour(row.colour)
        if span.low is not None and span.high is not None:
            axes.plot([span.low, span.high], [place, place], color=colour, linewidth=1.4)
        axes.plot([span.value], [place], marker="o", color=colour, markersize=5)
    axes.set_yticks(range(len(rows)), [row.label for row in reversed(rows)], color=ink())
    axes.set_ylim(-0.6, len(rows) - 0.4)


def _tick(value: float) -> str:
    return figure(value, digits=2 if round(value, 2) == round(value, 6) else 3)


def _span(one: _Span) -> str:
    return f"{figure(one.value)} [{figure(one.low)}, {figure(one.high)}]"
