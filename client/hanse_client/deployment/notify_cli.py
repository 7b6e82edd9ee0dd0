"""`hanse store notify` shows what the operator would be told of now, or tries the ways."""

from __future__ import annotations

from pathlib import Path

from hanse_common.alerting.command import TestOption
from hanse_common.formats import Format, FormatOption
from hanse_common.options import StoreFolderOption


def notify(
    folder: StoreFolderOption = Path(),
    test: TestOption = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show the events that hold now, or send a test event to whom store.toml names.

    `hanse store join` tells of events by itself, each once until it is over.
    """
    from hanse_client.deployment.alerts import notify_settings, store_events, store_ways
    from hanse_client.deployment.folder import StoreFolder
    from hanse_common.alerting.command import show, try_ways

    store = StoreFolder(folder)
    name, as_json = store.node().name, output is Format.JSON
    if test:
        try_ways(store_ways(store), source=name, as_json=as_json)
        return
    show(store_events(store, notify_settings(store)), source=name, as_json=as_json)
