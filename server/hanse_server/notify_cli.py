"""`hanse server notify` shows what the operator would be told of now, or tries the ways."""

from __future__ import annotations

from pathlib import Path

from hanse_common.alerting.command import TestOption
from hanse_common.formats import Format, FormatOption
from hanse_common.options import FederationFolderOption


def notify(
    folder: FederationFolderOption = Path(),
    test: TestOption = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show the events that hold now, or send a test event to whom federation.toml names.

    `hanse server up` tells of events by itself, each once until it is over.
    """
    from hanse_common.alerting.command import show, try_ways
    from hanse_common.alerting.delivery import ways
    from hanse_server.deployment.alerts import coordinator_events
    from hanse_server.deployment.folder import FederationFolder

    federation = FederationFolder(folder)
    name, as_json = federation.file.name, output is Format.JSON
    if test:
        configured = ways(federation.file.notify, source=name, folder=federation.path)
        try_ways(configured, source=name, as_json=as_json)
        return
    show(coordinator_events(federation), source=name, as_json=as_json)
