"""An explanation as plain values, and as one page that needs nothing but itself."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np

from hanse_client.features.histories import EPOCH
from hanse_client.inference.attribution import STEPS, Attribution
from hanse_client.inference.load import OpenStore, Trained
from hanse_client.inference.predict import said
from hanse_common.pages import page_environment

SILENT = (
    "The transformer has no say in this model: it was not trained, as is usual under privacy. "
    "The score comes from the simple rules that training amends, which count visits."
)
HEARD = "The transformer has a say in this model; what it read in item texts is a row by itself."
_MOST_VISITS = 12
_MOST_CLASSES = 4


def explanation(
    found: Attribution,
    store: OpenStore,
    trained: Trained,
    *,
    customer: int,
    category: int,
    moment: float,
) -> dict[str, Any]:
    """Plain values; visits and features by what they carry, the most first."""
    histories = store.histories
    order = np.argsort(-np.abs(found.by_visit), kind="stable")
    classes = trained.config.classes
    visits = []
    for row in order:
        visit = found.visits[row]
        pairs = slice(*histories.pair_offsets[visit : visit + 2])
        when = EPOCH + timedelta(days=float(histories.visit_days[visit]))
        visits.append(
            {
                "time": when.isoformat(timespec="minutes"),
                "classes": [classes[index] for index in histories.pair_classes[pairs]],
                "carries": float(found.by_visit[row]),
            }
        )
    features = sorted(found.by_feature.items(), key=lambda item: -abs(item[1]))
    return {
        "store": store.name,
        "user_id": str(histories.customers[customer]),
        "category": classes[category],
        "predicted_from": said(moment),
        "model_sha256": trained.digest,
        "share": found.share,
        "score": found.score,
        "baseline": found.baseline,
        "difference": found.difference,
        "left_over": found.left_over,
        "method": "integrated gradients from an empty history (Captum)",
        "steps": STEPS,
        "transformer_is_heard": found.listens,
        "says": HEARD if found.listens else SILENT,
        "visits": visits,
        "features": [{"name": name, "carries": value} for name, value in features],
    }


def render(found: dict[str, Any]) -> str:
    """Return the page.

    Raises:
        MissingDependency: There is no jinja2 on this machine.
    """
    category = found["category"]
    shown, rest = found["visits"][:_MOST_VISITS], found["visits"][_MOST_VISITS:]
    rows = [{"name": _named(visit, category), "carries": visit["carries"]} for visit in shown]
    if rest:
        total = sum(visit["carries"] for visit in rest)
        rows.append({"name": f"{len(rest)} more visits", "carries": total})
    template = page_environment("hanse_client", "inference").get_template("explain_page.html.j2")
    return template.render(found=found, visits=_barred(rows), features=_barred(found["features"]))


def _named(visit: dict[str, Any], category: str) -> str:
    """A visit by its time and some of its classes, the one in question first."""
    names = sorted(visit["classes"], key=lambda name: name != category)
    more = len(names) - _MOST_CLASSES
    listed = ", ".join(names[:_MOST_CLASSES]) or "nothing that the model ranks"
    return f"{visit['time'].replace('T', ' ')}: {listed}" + (f" and {more} more" * (more > 0))


def _barred(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    longest = max((abs(row["carries"]) for row in rows), default=0.0) or 1.0
    return [{**row, "width": 100 * abs(row["carries"]) / longest} for row in rows]
