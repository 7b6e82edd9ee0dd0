"""What a run compares, and in which figures: one small table of arms and one of metrics.

An *arm* is one way to answer the same questions about the same customers: a simple rule
(a baseline), each store by itself, or a federation with or without privacy.

>>> arm("federated_private").label
'Federated, private'
>>> arm("nearest_neighbour").label
'Nearest neighbour'
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["baseline", "model"]
Task = Literal["basket", "outlook"]

POOLED: Final = "(all)"
"""In the column `store` of the metrics: all customers of all stores together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One row of the comparison."""

    name: str
    label: str
    kind: Kind
    about: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One column of the comparison; higher is better for all of them."""

    name: str
    label: str
    task: Task
    about: str


def _by_name(*arms: Arm) -> dict[str, Arm]:
    return {arm.name: arm for arm in arms}


ARMS: Final = _by_name(
    Arm(
        name="global_popularity",
        label="Global popularity",
        kind="baseline",
        about="the same ranking for everybody: what sells most",
    ),
    Arm(
        name="personal_frequency",
        label="Personal frequency",
        kind="baseline",
        about="what this customer bought, the recent counting more",
    ),
    Arm(
        name="markov",
        label="Markov chain",
        kind="baseline",
        about="what tends to follow the customer's last basket",
    ),
    Arm(
        name="mean_reversion",
        label="Mean reversion",
        kind="baseline",
        about="interest returns to the customer's own average",
    ),
    Arm(
        name="long_run_rate",
        label="Long-run rate",
        kind="baseline",
        about="the customer's rate over the whole history",
    ),
    Arm(
        name="logistic_regression",
        label="Logistic regression",
        kind="baseline",
        about="a linear model of a few simple features",
    ),
    Arm(
        name="boosted_trees",
        label="Boosted trees, pooled",
        kind="baseline",
        about="gradient boosting on some twenty features, all customers in one place, no privacy",
    ),
    Arm(
        name="untrained",
        label="Model before training",
        kind="baseline",
        about="own decayed frequency, and a Poisson forecast at the customer's own decayed rate",
    ),
    Arm(
        name="before",
        label="Model before these rounds",
        kind="baseline",
        about="the global model of the run that this one goes on from, without new rounds",
    ),
    Arm(
        name="alone",
        label="Each store alone",
        kind="model",
        about="the same model, trained by each store on its own customers only",
    ),
    Arm(
        name="federated",
        label="Federated, no privacy",
        kind="model",
        about="one model across all stores, without noise: what privacy is paid from",
    ),
    Arm(
        name="centralised",
        label="All in one place, no privacy",
        kind="model",
        about="the same model on all stores' customers together: what a federation could reach",
    ),
    Arm(
        name="federated_transformer",
        label="Federated, transformer too",
        kind="model",
        about="one model across all stores, without noise, the transformer trained as well",
    ),
    Arm(
        name="federated_private",
        label="Federated, private",
        kind="model",
        about="one model across all stores, with differential privacy for every customer",
    ),
)

METRICS: Final = {
    metric.name: metric
    for metric in (
        Metric(
            name="ndcg@10",
            label="NDCG@10",
            task="basket",
            about="how high the next basket's contents stand in the first ten, full ranking",
        ),
        Metric(
            name="hr@10",
            label="HR@10",
            task="basket",
            about="share of visits with at least one right answer in the first ten",
        ),
        Metric(
            name="recall@10",
            label="Recall@10",
            task="basket",
            about="share of the next basket found in the first ten",
        ),
        Metric(
            name="explore_ndcg@10",
            label="NDCG@10 explore",
            task="basket",
            about="NDCG@10, only for what is new to the customer",
        ),
        Metric(
            name="explore_hr@10",
            label="HR@10 explore",
            task="basket",
            about="HR@10, only for what is new to the customer",
        ),
        Metric(
            name="explore_recall@10",
            label="Recall@10 explore",
            task="basket",
            about="Recall@10, only for what is new to the customer",
        ),
        Metric(
            name="rise_auc",
            label="Rise AUC",
            task="outlook",
            about="telling the categories whose interest will rise from the others; .5 is chance",
        ),
        Metric(
            name="fall_auc",
            label="Fall AUC",
            task="outlook",
            about="telling the categories whose interest will fall from the others; .5 is chance",
        ),
        Metric(
            name="outlook_auc",
            label="Macro AUC",
            task="outlook",
            about="the mean of the two",
        ),
    )
}

EFFECTS: Final = {
    "joining": ("federated", "alone"),
    "privacy": ("federated_private", "federated"),
    "joining with privacy": ("federated_private", "alone"),
}
"""Name of a difference between two arms: what comes with the first beside the second."""

GAP: Final = "gap"
"""Name of the group that stands for the first group less the last."""

TASKS: Final[dict[Task, str]] = {"basket": "Next basket", "outlook": "Outlook, next four weeks"}


def arm(name: str, kind: Kind = "model") -> Arm:
    """Return the arm of that name; one that this table does not know gets a plain label."""
    known = ARMS.get(name)
    if known is not None:
        return known
    return Arm(name=name, label=name.replace("_", " ").capitalize(), kind=kind, about="")


def metrics_of(task: Task) -> tuple[Metric, ...]:
    """Return the metrics of one task, in the order of the table's columns."""
    return tuple(metric for metric in METRICS.values() if metric.task == task)
