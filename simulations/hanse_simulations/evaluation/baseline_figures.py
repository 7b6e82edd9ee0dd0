"""Metrics of a run's baselines, computed once for the rows, the tables and the gaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hanse_client.features.histories import Histories
from hanse_client.tasks.interest import InterestModel
from hanse_client.tasks.interest.metrics import Figures, evaluate_histories
from hanse_client.training.train import load_arrays
from hanse_common.config import RunSettings
from hanse_common.paths import GLOBAL_FILE
from hanse_server.checkpoint import read_arrays
from hanse_simulations.evaluation.baselines import BASKET_RULES, OUTLOOK_RULES, Rules, judge_rules
from hanse_simulations.evaluation.boosted_trees import NAME as TREES
from hanse_simulations.evaluation.boosted_trees import Trees, judge_trees
from hanse_simulations.experiment.arms import ARMS, metrics_of
from hanse_simulations.experiment.figures import metric_rows
from hanse_simulations.experiment.prepare import Prepared
from hanse_simulations.experiment.sweep import SweepFigures, joined
from hanse_simulations.runs.results import MetricRow, SweepRow

UNTRAINED, BEFORE = "untrained", "before"
ByStore = dict[str, Figures]


@dataclass(frozen=True, kw_only=True, slots=True)
class BaselineFigures:
    """Metrics of simple rules, boosted trees and the model before training."""

    validate: dict[str, ByStore]
    """By rule and store; without the trees, which take longest."""
    test: dict[str, ByStore]
    tree_seeds: list[ByStore]
    """Test figures of the trees, fitted again with each seed of the sweep."""

    @classmethod
    def judge(
        cls, prepared: Prepared, histories: Sequence[Histories], settings: RunSettings
    ) -> BaselineFigures:
        """Fit every baseline and evaluate it on every store's customers."""
        model = InterestModel.from_pretrained(prepared.base_model)
        rules = Rules.fit(histories, settings, model.config)
        splits: dict[str, dict[str, ByStore]] = {"validate": {}, "test": {}}
        before = None
        if settings.continues is not None:
            before = InterestModel.from_pretrained(prepared.base_model)
            load_arrays(before, read_arrays(settings.continues / GLOBAL_FILE))
        for split, by_rule in splits.items():
            for name, store in zip(prepared.names, histories, strict=True):
                judged = judge_rules(rules, store, settings, model.config, split)
                judged[UNTRAINED] = evaluate_histories(store, model, settings, split)
                if before is not None:
                    judged[BEFORE] = evaluate_histories(store, before, settings, split)
                for rule, figures in judged.items():
                    by_rule.setdefault(rule, {})[name] = figures
        seeds = settings.sweep.seeds if settings.sweep else 1
        trees = []
        for seed in range(settings.seed, settings.seed + seeds):
            fitted = Trees.fit(histories, settings, model.config, seed=seed)
            per_store = (judge_trees(fitted, h, settings, model.config, "test") for h in histories)
            trees.append(dict(zip(prepared.names, per_store, strict=True)))
        test = {**splits["test"], TREES: trees[0]}
        return cls(validate=splits["validate"], test=test, tree_seeds=trees)

    def metric_rows(self, customers: Mapping[str, int]) -> list[MetricRow]:
        """One row per rule, split, store and metric that applies to the rule."""
        return [
            row
            for split, by_rule in (("validate", self.validate), ("test", self.test))
            for rule, by_store in by_rule.items()
            for row in metric_rows(
                rule, by_store, customers, split=split, number=None, wanted=_wanted_of(rule)
            )
        ]

    @property
    def wanted(self) -> dict[str, tuple[str, ...]]:
        """The metrics that apply, by baseline."""
        return {rule: _wanted_of(rule) for rule in self.test}

    def comparison(self) -> list[SweepRow]:
        """The baselines' rows of the comparison table: rules have no seeds, the trees several."""
        rows = []
        for rule, by_store in self.test.items():
            seeds = self.tree_seeds if rule == TREES else [by_store]
            figures = [SweepFigures.of(part) for part in seeds]
            rows.append(joined(ARMS[rule], figures, wanted=_wanted_of(rule)))
        order = list(ARMS)
        return sorted(rows, key=lambda row: order.index(row.arm))


def _wanted_of(rule: str) -> tuple[str, ...]:
    """The metrics that apply to a baseline."""
    basket = tuple(metric.name for metric in metrics_of("basket"))
    outlook = tuple(metric.name for metric in metrics_of("outlook"))
    if rule in BASKET_RULES:
        return basket
    return outlook if rule in OUTLOOK_RULES else (*basket, *outlook)
