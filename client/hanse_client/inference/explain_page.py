"""An attribution as plain values, and as a self-contained HTML page."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np

from hanse_client.features.histories import EPOCH
from hanse_client.inference.attribution import STEPS, Attribution
from hanse_client.inference.load import OpenStore, Trained
from hanse_client.inference.predict import isoformat
from hanse_common.pages import page_environment

_WITHOUT_TRANSFORMER = (
    "This model does not use its transformer, which was not trained, as is usual under privacy. "
    "The score comes from the simple rules that training amends, which count visits."
)
_WITH_TRANSFORMER = (
    "This model uses its transformer; what it read in item texts is a row by itself."
)
_MOST_VISITS = 12
_MOST_CLASSES = 4


def explanation(
    attribution: Attribution,
    store: OpenStore,
    trained: Trained,
    *,
    customer: int,
    category: int,
    moment: float,
) -> dict[str, Any]:
    """The attribution as plain values; visits and features with the largest amounts come first."""
    histories = store.histories
    order = np.argsort(-np.abs(attribution.by_visit), kind="stable")
    classes = trained.config.classes
    visits = []
    for row in order:
        visit = attribution.visits[row]
        pairs = slice(*histories.pair_offsets[visit : visit + 2])
        when = EPOCH + timedelta(days=float(histories.visit_days[visit]))
        visits.append(
            {
                "time": when.isoformat(timespec="minutes"),
                "classes": [classes[index] for index in histories.pair_classes[pairs]],
                "carries": float(attribution.by_visit[row]),
            }
        )
    features = sorted(attribution.by_feature.items(), key=lambda item: -abs(item[1]))
    return {
        "store": store.name,
        "user_id": str(histories.customers[customer]),
        "category": classes[category],
        "predicted_from": isoformat(moment),
        "model_sha256": trained.digest,
        "share": attribution.share,
        "score": attribution.score,
        "baseline": attribution.baseline,
        "difference": attribution.difference,
        "left_over": attribution.left_over,
        "method": "integrated gradients from an empty history (Captum)",
        "steps": STEPS,
        "transformer_is_heard": attribution.uses_transformer,
        "says": _WITH_TRANSFORMER if attribution.uses_transformer else _WITHOUT_TRANSFORMER,
        "visits": visits,
        "features": [{"name": name, "carries": value} for name, value in features],
    }


def render(values: dict[str, Any]) -> str:
    """Return the HTML page of the values that `explanation` returns.

    Raises:
        MissingDependency: jinja2 is not installed.
    """
    category = values["category"]
    shown, rest = values["visits"][:_MOST_VISITS], values["visits"][_MOST_VISITS:]
    rows = [{"name": _named(visit, category), "carries": visit["carries"]} for visit in shown]
    if rest:
        total = sum(visit["carries"] for visit in rest)
        rows.append({"name": f"{len(rest)} more visits", "carries": total})
    template = page_environment("hanse_client", "inference").get_template("explain_page.html.j2")
    return template.render(
        explanation=values,
        visits=_with_bars(rows),
        features=_with_bars(values["features"]),
    )


def _named(visit: dict[str, Any], category: str) -> str:
    """A visit's time and its first few classes, the explained category first."""
    names = sorted(visit["classes"], key=lambda name: name != category)
    more = len(names) - _MOST_CLASSES
    listed = ", ".join(names[:_MOST_CLASSES]) or "nothing that the model ranks"
    return f"{visit['time'].replace('T', ' ')}: {listed}" + (f" and {more} more" * (more > 0))


def _with_bars(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    longest = max((abs(row["carries"]) for row in rows), default=0.0) or 1.0
    return [{**row, "width": 100 * abs(row["carries"]) / longest} for row in rows]
