"""Federations on one machine: recipes, real shops, engines, comparisons, reports and benchmarks.

>>> from hanse_simulations import Population
>>> Population((67, 617)).total
684
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hanse_common._lazy import lazy_exports

if TYPE_CHECKING:
    from hanse_simulations.datasets import Stores, make_stores
    from hanse_simulations.engines import WorkerPool, run_federation
    from hanse_simulations.experiment.arm_run import ArmRun
    from hanse_simulations.experiment.arms import ARMS, Arm
    from hanse_simulations.experiment.runner import Runner, runner
    from hanse_simulations.experiment.study import Study, StudyResult, run_study
    from hanse_simulations.own_federation import make_federation
    from hanse_simulations.planning.forecast import Forecast, Population, forecast
    from hanse_simulations.planning.solve import Solved, solve
    from hanse_simulations.privacy_audit.run import AttackResult, attack
    from hanse_simulations.run import create_run, simulate
    from hanse_simulations.runs.folder import RunFolder, compare, list_runs
    from hanse_simulations.runs.results import MetricRow, RunResult

__all__ = [
    "ARMS",
    "Arm",
    "ArmRun",
    "AttackResult",
    "Forecast",
    "MetricRow",
    "Population",
    "RunFolder",
    "RunResult",
    "Runner",
    "Solved",
    "Stores",
    "Study",
    "StudyResult",
    "WorkerPool",
    "attack",
    "compare",
    "create_run",
    "forecast",
    "list_runs",
    "make_federation",
    "make_stores",
    "run_federation",
    "run_study",
    "runner",
    "simulate",
    "solve",
]

_EXPORTS: Final = {
    "datasets": (
        "Stores",
        "make_stores",
    ),
    "engines": (
        "WorkerPool",
        "run_federation",
    ),
    "experiment.arm_run": ("ArmRun",),
    "experiment.arms": (
        "ARMS",
        "Arm",
    ),
    "experiment.runner": (
        "Runner",
        "runner",
    ),
    "experiment.study": (
        "Study",
        "StudyResult",
        "run_study",
    ),
    "own_federation": ("make_federation",),
    "planning.forecast": (
        "Forecast",
        "Population",
        "forecast",
    ),
    "planning.solve": (
        "Solved",
        "solve",
    ),
    "privacy_audit.run": (
        "AttackResult",
        "attack",
    ),
    "run": (
        "create_run",
        "simulate",
    ),
    "runs.folder": (
        "RunFolder",
        "compare",
        "list_runs",
    ),
    "runs.results": (
        "MetricRow",
        "RunResult",
    ),
}

__getattr__ = lazy_exports(__name__, _EXPORTS)
