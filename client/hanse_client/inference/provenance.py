"""The protocol that is stored with a result table: model, moment, candidates, ranking."""

from __future__ import annotations

from typing import Any

from hanse_client.analytics.demand import COVERAGE, Demand
from hanse_client.inference.choices import Candidates, When
from hanse_client.inference.load import OpenStore, Trained
from hanse_client.inference.predict import isoformat


def protocol(
    trained: Trained,
    store: OpenStore,
    *,
    when: When,
    moment: float,
    customers: int,
) -> dict[str, Any]:
    """The entries that every table has."""
    config = trained.config
    return {
        "model_sha256": trained.digest,
        "store": store.name,
        "split": when.value,
        "predicted_from": isoformat(moment),
        "known": f"visits before {isoformat(moment)}",
        "level": config.level,
        "classes": len(config.classes),
        "customers": customers,
        "customers_without_history": len(store.histories) - customers,
        "personal_data": "user_id is a pseudonym; with the store's key it can be undone",
    }


def ranking_protocol(candidates: Candidates, top: int) -> dict[str, Any]:
    """Further entries of a ranking."""
    only = {
        Candidates.ALL: "all classes",
        Candidates.NEW: "classes that the customer never bought before",
    }
    return {
        "candidates": only[candidates],
        "ranking": "full, no sampled candidates; ties go to the lower class index",
        "top": top,
        "score": "share of the next visit's basket, a softmax over all classes",
    }


def outlook_protocol(trained: Trained) -> dict[str, Any]:
    """Further entries of an outlook."""
    config = trained.config
    return {
        "horizon_days": config.horizon_days,
        "reference_days": config.reference_days,
        "candidates": f"classes with at least {config.min_visits} visits in the reference days",
        "rise": "more than mu + sqrt(mu + 1) visits; mu is what the reference days expect",
        "fall": "fewer than mu - sqrt(mu + 1)",
    }


def within_protocol(trained: Trained) -> dict[str, Any]:
    """Further entries of a forecast by horizon."""
    return {
        "horizons_days": trained.config.horizons,
        "candidates": "classes that the customer bought before",
        "chance": "of at least one visit with the class; expected visits are taken as a Poisson",
    }


def demand_protocol(trained: Trained, demand: Demand) -> dict[str, Any]:
    """Further entries of a shop's demand."""
    config = trained.config
    return {
        "horizons_days": config.horizons,
        "reference_days": config.reference_days,
        "interval": f"{COVERAGE:.0%}, normal: variance = expected + (error * expected) ** 2",
        "error": dict(zip(map(str, config.horizons), demand.error.round(4).tolist(), strict=True)),
        "counted": "visits of customers known before; first visits of new customers are not",
        "rise": "more than mu + sqrt(mu + 1) visits; mu is usual",
        "fall": "fewer than mu - sqrt(mu + 1)",
    }
