"""`hanse store metrics`: the node's metrics and health, for the store's own monitoring."""

from __future__ import annotations

from pathlib import Path

from hanse_common.formats import Format, FormatOption
from hanse_common.monitoring.serving import run
from hanse_common.options import CheckOption, HostOption, PortOption, StoreFolderOption

PORT = 9465


def metrics(
    folder: StoreFolderOption = Path(),
    port: PortOption = PORT,
    host: HostOption = "127.0.0.1",
    check: CheckOption = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Answer /metrics (Prometheus), /healthz and /readyz from the files of the node's folder."""
    from hanse_client.deployment.metrics import read_health, read_metrics

    run(
        read=lambda: read_metrics(folder),
        check=lambda: read_health(folder),
        host=host,
        port=port,
        once=check,
        as_json=output is Format.JSON,
    )
