"""The report's ROC, precision-recall and calibration curves, and their table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from matplotlib.axes import Axes

from hanse_simulations.report.plots import Key, Plot
from hanse_simulations.report.svg import arm_colour, arm_variable, drawing, muted, to_svg
from hanse_simulations.report.wording import figure
from hanse_simulations.runs.results import Curve, OutlookCurves, RunResult

_COLOURS: Final = {"rise": "federated_private", "fall": "federated"}
_PANELS: Final = (
    ("roc", "ROC", "false positive rate", "true positive rate"),
    ("precision_recall", "Precision and recall", "recall", "precision"),
    ("reliability", "Calibration", "stated chance", "how often it happened"),
)
COLUMNS: Final = {
    "share": "Share",
    "threshold": "Threshold",
    "accuracy": "Accuracy",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "average_precision": "Average precision",
    "calibration_error": "Calibration error",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class InstrumentLine:
    """The metrics of one side, rise or fall."""

    side: str
    cells: tuple[str, ...]


def outlook_lines(result: RunResult) -> list[InstrumentLine]:
    """Lay out precision, recall and the other metrics; empty where there were too few cases."""
    return [
        InstrumentLine(
            side=f"{one.side.capitalize()} ({one.cases:,} interests)",
            cells=tuple(figure(getattr(one, name)) for name in COLUMNS),
        )
        for one in result.outlook_metrics
    ]


def outlook_curves(curves: Sequence[OutlookCurves], result: RunResult) -> Plot | None:
    """Draw the three curves of both sides."""
    if not curves:
        return None
    with drawing(2.2) as sheet:
        panels = sheet.subplots(1, 3)
        for axes, (name, title, x, y) in zip(panels, _PANELS, strict=True):
            for one in curves:
                _draw(axes, getattr(one, name), one.side, dotted=name == "reliability")
            if name != "precision_recall":
                axes.plot([0, 1], [0, 1], color=muted(), linewidth=1.0, linestyle=(0, (2, 2)))
            axes.set_title(title)
            axes.set_xlabel(x)
            axes.set_ylabel(y)
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1)
            axes.set_xticks([0, 0.5, 1])
            axes.set_yticks([0, 0.5, 1])
        text = "; ".join(
            f"{one.side}: area under ROC {figure(one.roc_auc)}, average precision"
            f" {figure(one.average_precision)}, calibration error {figure(one.calibration_error)}"
            for one in result.outlook_metrics
        )
        svg = to_svg(sheet, "outlook-curves", "How good the stated chances are", f"{text}.")
    caption = (
        "Main arm, test weeks, all customers' interests together. Dotted: chance, and perfect"
        " calibration. Calibration: ten bins of equally many interests."
    )
    keys = tuple(
        Key(label=one.side.capitalize(), colour=arm_variable(_COLOURS[one.side])) for one in curves
    )
    return Plot(title="How good the stated chances are", caption=caption, svg=svg, legend=keys)


def _draw(axes: Axes, curve: Curve, side: str, *, dotted: bool) -> None:
    colour = arm_colour(_COLOURS[side])
    axes.plot(curve.x, curve.y, color=colour, marker="o" if dotted else "", markersize=3.5)
