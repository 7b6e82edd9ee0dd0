"""Printing of the results of `hanse store` as tables or JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hanse_common.formats import Format
from hanse_common.printing import console, echo
from hanse_common.wording import json_text, printable

if TYPE_CHECKING:
    from hanse_client.deployment.doctor import Finding
    from hanse_client.deployment.dry_run import Preview


def print_facts(facts: Mapping[str, Any], output: Format) -> None:
    """Print names and values."""
    if output is Format.JSON:
        table = {key.replace(" ", "_"): value for key, value in facts.items()}
        echo(json_text(table))
        return
    _print_rows([(key, _plain(value)) for key, value in facts.items()])


def print_findings(findings: Sequence[Finding], output: Format) -> None:
    """Print the findings of `doctor`: a line for each check, and below it how to repair it."""
    if output is Format.JSON:
        echo(json_text([asdict(finding) for finding in findings]))
        return
    rows: list[tuple[str, ...]] = []
    for finding in findings:
        rows.append((finding.check, finding.state, finding.message))
        if finding.mend:
            rows.append(("", "", f"-> {finding.mend}"))
    _print_rows(rows)


def print_preview(preview: Preview, output: Format) -> None:
    """Print the messages, the masked vector's sections and the cost of a round."""
    if output is Format.JSON:
        echo(json_text(asdict(preview)))
        return
    _print_rows(
        [("stage", "bytes", "what leaves the store")],
        *[(part.stage, f"{part.size:,}", part.content) for part in preview.messages],
    )
    _print_rows(
        [("in the masked vector", "numbers", "largest norm", "own noise")],
        *[
            (part.name, f"{part.length:,}", f"{part.clip:g}", _plain(part.noise))
            for part in preview.sections
        ],
    )
    print_facts(preview.cost, output)


def _print_rows(first: Sequence[tuple[str, ...]], *more: tuple[str, ...]) -> None:
    from rich.table import Table
    from rich.text import Text

    rows = [*first, *more]
    table = Table(show_header=False, box=None, pad_edge=False)
    for _ in range(max(len(row) for row in rows)):
        table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console().print(table)


def _plain(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
