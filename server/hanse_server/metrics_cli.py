"""`hanse server metrics`: the coordinator's health and figures, for its operator's monitoring."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hanse_common.formats import Format
from hanse_common.monitoring.serving import HELP_CHECK, HELP_HOST, run

PORT = 9464


def metrics(
    folder: Annotated[
        Path, typer.Option("--folder", metavar="FOLDER", help="The federation's folder.")
    ] = Path(),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to answer on.")] = PORT,
    host: Annotated[str, typer.Option(help=HELP_HOST)] = "127.0.0.1",
    check: Annotated[bool, typer.Option("--check", help=HELP_CHECK)] = False,
    output: Annotated[Format, typer.Option("--format", help="How --check prints.")] = Format.TABLE,
) -> None:
    """Answer /metrics (Prometheus), /healthz and /readyz from what lies in the folder."""
    from hanse_server.metrics import read_health, read_metrics

    run(
        read=lambda: read_metrics(folder),
        check=lambda: read_health(folder),
        host=host,
        port=port,
        once=check,
        as_json=output is Format.JSON,
    )
