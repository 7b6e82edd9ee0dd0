"""The diagnosis of a store's data as a self-contained HTML page."""

from __future__ import annotations

from typing import Any

from hanse_common.pages import page_environment


def render(counts: dict[str, Any], refused: str | None) -> str:
    """Return the page of a check.

    Args:
        counts: From `StoreTables.summary`, with the name of the `store`.
        refused: Why training would refuse the store, if it would.

    Raises:
        MissingDependency: jinja2 is not installed.
    """
    tables = {
        name: table
        for name, table in (
            ("events", counts if "rows_read" in counts else None),
            *((name, counts.get(name)) for name in ("catalogue", "reviews", "offers", "campaigns")),
        )
        if table is not None
    }
    environment = page_environment("hanse_client", "ingest")
    return environment.get_template("check_page.html.j2").render(
        store=counts["store"],
        counts=counts,
        tables=tables,
        diagnosis=counts.get("diagnosis"),
        refused=refused,
    )
