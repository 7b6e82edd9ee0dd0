"""Results of a run: the content of `result.json` and one row of `metrics.csv`.

>>> result = RunResult(recipe="smoke", run="smoke-1", metrics={"ndcg@10": 0.35})
>>> result.main_arm, list(result.all_arms())
('federated', ['federated'])
"""

from __future__ import annotations

import math
from typing import Annotated, TypedDict

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError


class MetricRow(TypedDict):
    """One metric of one arm; `metrics.csv` and `metrics.json` are lists of these."""

    arm: str
    round: int | None
    """None for baselines, which have no rounds."""
    split: str
    """train, validate or test."""
    store: str
    """A store's name, or `arms.ALL_STORES`."""
    metric: str
    value: float | None
    """None where the metric is undefined, such as an AUC over one class."""
    weight: float
    """Number of customers behind the value."""


METRIC_COLUMNS = ("arm", "round", "split", "store", "metric", "value", "weight")


def _undefined_to_none(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Figure = Annotated[float | None, BeforeValidator(_undefined_to_none)]


class Record(BaseModel):
    """Base of the records stored with a run.

    Unknown keys are kept, unlike in settings: a run of a newer Hanse must stay readable.
    """

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=True)


class Spread(Record):
    """Spread of a metric over stores or seeds."""

    mean: Figure = None
    std: Figure = None
    min: Figure = None
    max: Figure = None


class EpsilonSpent(Record):
    """Epsilon that the private arm has spent, with the terms needed to interpret it."""

    max: float
    """The largest ε of any store."""
    delta: float
    mode: str = "local"
    unit: str = "customer"
    relation: str = "add-or-remove-one"
    sample_rate: float | None = None
    noise_multiplier: float | None = None
    steps: int | None = None
    per_store: dict[str, float] = Field(default_factory=dict)


class SweepRow(Record):
    """Test figures of one rule, or of one arm at one epsilon, over several seeds."""

    arm: str
    label: str
    epsilon: float | None = None
    seeds: int = 1
    figures: dict[str, Spread] = Field(default_factory=dict)
    """By metric: mean and spread over the seeds, of all customers together."""
    over_stores: dict[str, Spread] = Field(default_factory=dict)
    """By metric: mean and spread over the stores, averaged over the seeds."""


class GroupFigure(Record):
    """One figure of one group of customers, with a bootstrap interval over them."""

    grouping: str
    group: str
    """`gap` is the first group minus the last."""
    customers: int
    arm: str
    """An arm, or the difference between two arms: a name of `arms.EFFECTS`."""
    metric: str
    value: Figure = None
    low: Figure = None
    """2.5th percentile."""
    high: Figure = None
    """97.5th percentile."""


class PairedInterval(Record):
    """A test figure of an arm, or its difference to another arm, with a 95 % interval.

    The interval is of a bootstrap over customers, with the same draws for every arm.
    """

    arm: str
    epsilon: float | None = None
    """Target epsilon; None without privacy."""
    against: str | None = None
    """The arm that is subtracted; None for the arm's own figure."""
    metric: str
    seeds: int = 1
    """Trainings that the figure is the mean of."""
    customers: int = 0
    """Customers that are drawn from."""
    value: Figure = None
    low: Figure = None
    """2.5th percentile; None where there are too few customers."""
    high: Figure = None
    """97.5th percentile."""

    @property
    def is_none(self) -> bool:
        """Whether no difference can be seen: the interval contains 0, or there is none.

        >>> PairedInterval(arm="a", metric="m", value=0.01, low=-0.01, high=0.03).is_none
        True
        """
        return self.low is None or self.high is None or self.low <= 0 <= self.high


class SizeFigures(Record):
    """Comparisons of small federations of one size; see `experiment.small`."""

    stores: int
    customers: int
    """Customers of all stores of one federation together, about."""
    federations: int = 1
    """Federations with different customers that are evaluated together."""
    intervals: list[PairedInterval] = Field(default_factory=list)


class InterestMap(Record):
    """Customers on a plane; see `interest_map`."""

    pca: list[tuple[float, float]]
    tsne: list[tuple[float, float]]
    explained: float
    """Share of variance of the first two principal components."""
    departments: list[str]
    """The department that stands out, for each point."""
    customers: int
    """Number of customers of whom the points are a sample."""


class Curve(Record):
    """Points of a curve."""

    x: list[float]
    y: list[float]


class OutlookMetrics(Record):
    """Quality of the predicted chances of a rise or a fall; see `outlook_metrics`."""

    side: str
    cases: int
    share: float
    """Observed rate of the event."""
    threshold: float
    """Chosen in the validation weeks."""
    accuracy: float
    precision: float
    recall: float
    f1: float
    roc_auc: float
    average_precision: float
    calibration_error: float


class OutlookCurves(Record):
    """Curves behind `OutlookMetrics`, for the report's drawings."""

    side: str
    roc: Curve
    precision_recall: Curve
    reliability: Curve


class Drawings(Record):
    """Points of a report's drawings, which the result does not hold: `drawings.json`."""

    interest_map: InterestMap | None = None
    curves: list[OutlookCurves] = Field(default_factory=list)


class PartTime(Record):
    """Time of one part of a run."""

    seconds: float
    cpu_seconds: float
    """User and system time of the run's process and its workers."""


class RunResult(Record):
    """The outcome of a run, as `hanse simulate --format json` prints it.

    Figures are of the test customers of all stores together; `metrics` are those of the main arm.
    """

    recipe: str
    run: str
    run_dir: str = ""
    stores: int = 0
    customers: int = 0
    rounds: int = 0
    seconds: float = 0.0
    peak_memory_mb: float | None = None
    parts: dict[str, PartTime] = Field(default_factory=dict)
    """Where the time went, by part, in their order."""
    data_note: str = ""
    metrics: dict[str, Figure] = Field(default_factory=dict)
    baselines: dict[str, dict[str, Figure]] = Field(default_factory=dict)
    arms: dict[str, dict[str, Figure]] = Field(default_factory=dict)
    spread: dict[str, dict[str, Spread]] = Field(default_factory=dict)
    epsilon: EpsilonSpent | None = None
    secure_aggregation: bool = False
    """Whether the main arm's coordinator saw masked sums only."""
    sweep: list[SweepRow] = Field(default_factory=list)
    groups: list[GroupFigure] = Field(default_factory=list)
    """Test figures by group of customers, of the run's own seed."""
    group_notes: list[str] = Field(default_factory=list)
    intervals: list[PairedInterval] = Field(default_factory=list)
    """Of every arm's test figures, and of their differences to other arms."""
    sizes: list[SizeFigures] = Field(default_factory=list)
    """Of small federations made from this run's stores, where they were trained."""
    outlook_metrics: list[OutlookMetrics] = Field(default_factory=list)
    """Of the main arm's outlook, in the test weeks."""
    notes: list[str] = Field(default_factory=list)
    command: str | None = None
    """The command line that made this run, if it is known."""

    @property
    def main_arm(self) -> str:
        """The arm whose model is kept: the private federation, if there is one."""
        return "federated" if self.epsilon is None else "federated_private"

    def all_arms(self) -> dict[str, dict[str, float | None]]:
        """Return every arm's overall test figures, baselines first, the main arm last."""
        arms = {**self.baselines, **self.arms}
        main = {**arms.pop(self.main_arm, {}), **self.metrics}
        return {**arms, self.main_arm: main} if main else arms

    def best_baseline(self, metric: str) -> tuple[str, float] | None:
        """Return the strongest baseline for a metric, and its figure."""
        known = [
            (value, name)
            for name, figures in self.baselines.items()
            if (value := figures.get(metric)) is not None
        ]
        if not known:
            return None
        value, name = max(known)
        return name, value


def first_problem(error: Exception) -> str:
    """Describe in a few words what is wrong with a stored record."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"{where}: {first['msg']}" if where else first["msg"]
    return str(error).splitlines()[0] if str(error) else type(error).__name__
