"""`hanse server watch` serves a page for the coordinator's operator."""

from __future__ import annotations

from pathlib import Path

from hanse_common.formats import say
from hanse_common.options import (
    FederationFolderOption,
    HostOption,
    PortOption,
    PublicHostsOption,
)
from hanse_common.printing import echo

PORT = 9466


def watch(
    folder: FederationFolderOption = Path(),
    port: PortOption = PORT,
    host: HostOption = "127.0.0.1",
    public_host: PublicHostsOption = None,
) -> None:
    """Serve a page: stores, the round under way, the last rounds, and what to do next.

    It answers on this machine only, and changes nothing.
    """
    from hanse_common.pages.live.serving import serve
    from hanse_server.deployment.watch.page import coordinator_page

    page = coordinator_page(folder)
    say("open this address in a browser; Ctrl-C ends the page, and nothing else")
    serve(page, host=host, port=port, public_hosts=public_host or (), announce=echo)
