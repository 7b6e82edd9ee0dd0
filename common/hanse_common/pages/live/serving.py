"""Serves a live page until it is interrupted."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection

from hanse_common.errors import ConfigError, MissingDependency
from hanse_common.monitoring.hosts import is_loopback
from hanse_common.pages.live.parts import LivePage

_GRACE = 1
"""Seconds that open requests have when the server ends."""
_MOST_CONNECTIONS = 128


def serve(
    page: LivePage,
    *,
    host: str,
    port: int,
    public_hosts: Collection[str] = (),
    announce: Callable[[str], None],
) -> None:
    """Serve a page until SIGINT or SIGTERM.

    Args:
        page: The page.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        public_hosts: Names under which a reverse proxy publishes the page.
        announce: Called with the address, once connections are accepted.

    Raises:
        ConfigError: The address is not loopback and no name is given, or it is unavailable.
        MissingDependency: starlette or uvicorn is not installed.

    Guarantees:
        Without `public_hosts` it listens on loopback only.
    """
    try:
        import uvicorn

        from hanse_common.pages.live.application import application
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"the page needs the package {error.name!r}, which is not installed",
            hint="pip install 'hanse[server]' at a coordinator, 'hanse[client]' at a store",
        ) from None
    from hanse_common.pages.live.feed import Feed

    if not is_loopback(host) and not public_hosts:
        raise ConfigError(
            f"the page has no login, and other machines would reach it at {host}",
            hint="leave --host out; or put a reverse proxy with your own login before it, and "
            "name the host that people type with --public-host",
        )
    with _listening(host, port) as listening:
        # The feed has to know that the server ends, or open streams would hold it up.
        ending: list[uvicorn.Server] = []
        feed = Feed(page, ends=lambda: bool(ending and ending[0].should_exit))
        config = uvicorn.Config(
            application(page, feed, names=public_hosts),
            access_log=False,
            log_level="warning",
            lifespan="on",
            ws="none",
            server_header=False,
            proxy_headers=False,  # nothing depends on who asks, and the header could be anybody's
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_graceful_shutdown=_GRACE,
        )
        ending.append(uvicorn.Server(config))
        bound = listening.getsockname()[1]
        announce(f"http://{f'[{host}]' if ':' in host else host}:{bound}/")
        ending[0].run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen()  # before the address is printed, so that a reader can connect
    except (OSError, OverflowError) as error:
        listening.close()
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error}", hint="name another --port"
        ) from error
    return listening
