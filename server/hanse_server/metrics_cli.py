"""`hanse server metrics` serves the coordinator's health and metrics for monitoring."""

from __future__ import annotations

from pathlib import Path

from hanse_common.formats import Format, FormatOption
from hanse_common.monitoring.serving import run
from hanse_common.options import CheckOption, FederationFolderOption, HostOption, PortOption

PORT = 9464  # the usual port of OpenTelemetry's Prometheus exporter


def metrics(
    folder: FederationFolderOption = Path(),
    port: PortOption = PORT,
    host: HostOption = "127.0.0.1",
    check: CheckOption = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Serve /metrics (Prometheus), /healthz and /readyz from the files in the folder."""
    from hanse_server.metrics import read_health, read_metrics

    run(
        read=lambda: read_metrics(folder),
        check=lambda: read_health(folder),
        host=host,
        port=port,
        once=check,
        as_json=output is Format.JSON,
    )
