"""The environment variables of Flower's programs: no telemetry, and a separate home folder.

>>> environment(Path("/srv/store/flower"), inherited={"PATH": "/bin"})["FLWR_HOME"]
'/srv/store/flower'
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from hanse_common import variables
from hanse_common.addresses import bare_host, is_ipv6

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
"""Switches off telemetry, the update check, and the installation of an app's dependencies."""

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_POLL_SECONDS = "0.2"
"""Interval at which Flower's SuperExec looks for tasks."""


def direct_loopback(inherited: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables by which connections within this machine go through no proxy.

    Flower's programs find one another at 127.0.0.1, and its clients follow `HTTPS_PROXY`: the
    proxy would be asked for its own loopback address.

    Args:
        inherited: The variables to start from; hosts that they list stay listed, but for
            those, such as networks of IPv6, on which httpx fails.

    >>> direct_loopback({"NO_PROXY": "intranet.example"})["no_proxy"]
    'intranet.example,127.0.0.1,localhost,::1'
    """
    listed = inherited.get("no_proxy") or inherited.get("NO_PROXY") or ""
    hosts = [host for entry in listed.split(",") if (host := _readable(entry.strip()))]
    hosts += [host for host in _LOOPBACK if host not in hosts]
    # Programs disagree on which of the two names counts.
    return dict.fromkeys(("NO_PROXY", "no_proxy"), ",".join(hosts))


@contextmanager
def connecting_to_loopback() -> Iterator[None]:
    """Have a client of Flower that is made meanwhile connect to this machine without a proxy.

    It has no setting for that but the environment, which is put back: what this process starts
    later may need its proxy.

    >>> before = dict(os.environ)
    >>> with connecting_to_loopback():
    ...     "127.0.0.1" in os.environ["NO_PROXY"]
    True
    >>> dict(os.environ) == before
    True
    """
    with variables.environment(direct_loopback()):
        yield


def _readable(entry: str) -> str:
    """An entry of `NO_PROXY` as httpx 0.28 reads it; empty if it would fail on it.

    >>> _readable("[::1]"), _readable("example.org:80"), _readable("fd00::/8")
    ('::1', 'example.org:80', '')
    """
    host = bare_host(entry)
    name, colon, port = host.rpartition(":")
    plain = not colon or (":" not in name and port.isdigit()) or is_ipv6(host)
    return host if plain and host.isascii() else ""


def environment(home: Path, *, inherited: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of one of Flower's programs and of the processes that it starts.

    Args:
        home: Flower's home folder; Flower's own default is in the user's home.
        inherited: The variables to start from.
    """
    # Flower's programs find one another by `PATH`. With this Python's folder first, they are found
    # also where no virtual environment is active.
    programs = str(Path(sys.executable).parent)
    return {
        **inherited,
        **QUIET,
        **direct_loopback(inherited),
        "FLWR_HOME": str(home),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": _POLL_SECONDS,
        "PATH": os.pathsep.join([programs, inherited.get("PATH", os.defpath)]),
    }
