"""`hanse store watch` serves a page for the store's operator."""

from __future__ import annotations

from pathlib import Path

from hanse_common.formats import say
from hanse_common.options import HostOption, PortOption, PublicHostsOption, StoreFolderOption
from hanse_common.printing import echo

PORT = 9467


def watch(
    folder: StoreFolderOption = Path(),
    port: PortOption = PORT,
    host: HostOption = "127.0.0.1",
    public_host: PublicHostsOption = None,
) -> None:
    """Serve a page: what leaves the store, what it costs, the budget, and what to do next.

    It answers on this machine only, and changes nothing.
    """
    from hanse_client.deployment.watch.page import store_page
    from hanse_common.pages.live.serving import serve

    page = store_page(folder)
    say("open this address in a browser; Ctrl-C ends the page, and nothing else")
    serve(page, host=host, port=port, public_hosts=public_host or (), announce=echo)
