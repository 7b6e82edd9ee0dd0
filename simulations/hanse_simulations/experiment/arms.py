"""The table of arms that are compared, and the table of metrics.

An *arm* is one way to make the same predictions for the same customers: a baseline, each store
alone, all customers in one place, or a federation with or without privacy.

>>> ARMS["federated_private"].label
'Federated, private'
>>> arm("nearest_neighbour").label
'Nearest neighbour'
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from hanse_common.config import RunSettings

Trainer = Literal["baseline", "alone", "centralized", "federated"]
Task = Literal["basket", "outlook"]

ALL_STORES: Final = "(all)"
"""In the column `store` of the metrics: all customers of all stores together."""

NON_PRIVATE: Final[Mapping[str, Any]] = {"privacy": {"mode": "none"}, "continues": None}


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One row of a comparison."""

    name: str
    label: str
    about: str = ""
    trainer: Trainer = "baseline"
    """How it is trained: not at all, by each store alone, in one place that holds the customers
    of all stores, or by a federation."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Settings that differ from those of the experiment, by dotted keys."""
    salt: str | None = None
    """Text from which its stores' seeds are derived instead of its name, so that a renamed arm
    keeps the draws behind its published figures."""

    @property
    def kind(self) -> Literal["baseline", "model"]:
        """Whether a model is trained."""
        return "baseline" if self.trainer == "baseline" else "model"

    def settings(self, experiment: RunSettings) -> RunSettings:
        """The arm's own settings.

        Raises:
            ConfigError: They contradict each other.
        """
        return experiment.with_changes(self.overrides)


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One column of the comparison; higher is better for all of them."""

    name: str
    label: str
    task: Task
    about: str


_BASELINES: Final = {
    "global_popularity": (
        "Global popularity",
        "the same ranking for all customers: what sells most",
    ),
    "personal_frequency": (
        "Personal frequency",
        "what this customer bought, the recent counting more",
    ),
    "markov": ("Markov chain", "what tends to follow the customer's last basket"),
    "mean_reversion": (
        "Mean reversion",
        "interest returns to the customer's own average",
    ),
    "long_run_rate": ("Long-run rate", "the customer's rate over the whole history"),
    "nearest_texts": ("Nearest public texts", "items whose texts are like the last item's"),
    "prior_rate": ("Customer's prior rate", "the rate that the customer's own past suggests"),
    "most_frequent": ("Most frequent label", "the same answer for all customers"),
    "words": ("Logistic regression on words", "a linear model of the words of a review"),
    "stores_alone": (
        "Logistic regression, each store alone",
        "a linear model that each store fits to its own customers only",
    ),
    "logistic_regression": (
        "Logistic regression",
        "a linear model of a few simple features, centralized",
    ),
    "boosted_trees": (
        "Boosted trees, centralized",
        "gradient boosting on engineered features, all customers in one place, no privacy",
    ),
    "untrained": (
        "Model before training",
        "own decayed frequency, and a Poisson forecast at the customer's own decayed rate",
    ),
    "before": (
        "Model before these rounds",
        "the global model of the run that this one goes on from, without new rounds",
    ),
}

# In the order of the tables' rows.
ARMS: Final = {
    name: Arm(name=name, label=it, about=of) for name, (it, of) in _BASELINES.items()
} | {
    trained.name: trained
    for trained in (
        Arm(
            name="alone",
            label="Each store alone",
            about="the same model, trained by each store on its own customers only",
            trainer="alone",
            overrides=NON_PRIVATE,
        ),
        Arm(
            name="local",
            label="Federated, each store's own noise",
            about="one model across all stores; each adds all of the noise",
            trainer="federated",
        ),
        Arm(
            name="distributed",
            label="Federated, noise shared under masks",
            about="one model across all stores, which share the noise of masked sums",
            trainer="federated",
        ),
        Arm(
            name="federated",
            label="Federated, no privacy",
            about="one model across all stores, without noise: what privacy is paid from",
            trainer="federated",
            overrides=NON_PRIVATE,
        ),
        Arm(
            name="centralized_private",
            label="Centralized, private",
            about="the steps of the federation on all customers in one place that is trusted",
            trainer="centralized",
        ),
        Arm(
            name="centralized",
            label="Centralized, no privacy",
            about="the same model on all stores' customers in one place: the most to reach",
            trainer="centralized",
            overrides=NON_PRIVATE,
        ),
        Arm(
            name="federated_transformer",
            label="Federated, transformer too",
            about="one model across all stores, without noise, the transformer trained as well",
            trainer="federated",
            overrides=NON_PRIVATE,
        ),
        Arm(
            name="federated_private",
            label="Federated, private",
            about="one model across all stores, with differential privacy for every customer",
            trainer="federated",
        ),
        Arm(
            name="federated_private_half",
            label="Federated, private",
            about="the same at half of the epsilon",
            trainer="federated",
        ),
    )
}

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
            about="separates the categories whose interest will rise from the others; .5 is chance",
        ),
        Metric(
            name="fall_auc",
            label="Fall AUC",
            task="outlook",
            about="separates the categories whose interest will fall from the others; .5 is chance",
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
"""Name of a difference between two arms: the first minus the second."""

GAP: Final = "gap"
"""Name of the row with the difference between the first group and the last."""

TASKS: Final[dict[Task, str]] = {"basket": "Next basket", "outlook": "Outlook, next four weeks"}


def arm(name: str, trainer: Trainer = "federated") -> Arm:
    """Return the arm of that name; a name that is not in the table gets a plain label."""
    known = ARMS.get(name)
    if known is not None:
        return known
    return Arm(name=name, label=name.replace("_", " ").capitalize(), trainer=trainer)


def non_private_terms(settings: RunSettings) -> dict[str, Any]:
    """Settings by dotted keys in which an arm without privacy differs from the main arm.

    Without privacy the base of the model of categories is trained whole: several local steps a
    round, whose mean needs no momentum.
    """
    terms = dict(NON_PRIVATE)
    if settings.model.kind != "categories":
        return terms
    if settings.transformer_training is not None:
        terms["model.trainable"] = "all"
        terms["training"] = settings.transformer_training.model_dump()
    return terms | {
        "federation.strategy": "FedAvg",
        "federation.strategy_options": {},
        "federation.average_last": 0.0,
    }


def main_arm(settings: RunSettings) -> Arm:
    """The arm of a run whose model is saved; it has the run's settings without overrides."""
    private = settings.privacy.mode != "none"
    return replace(ARMS["federated_private" if private else "federated"], overrides={})


def metrics_of(task: Task) -> tuple[Metric, ...]:
    """Return the metrics of one task, in the order of the table's columns."""
    return tuple(metric for metric in METRICS.values() if metric.task == task)
