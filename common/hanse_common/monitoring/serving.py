"""The shared body of `hanse server metrics` and `hanse store metrics`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hanse_common.errors import ConfigError, NotReady
from hanse_common.monitoring.endpoint import Endpoint, Read
from hanse_common.monitoring.health import Health
from hanse_common.printing import echo
from hanse_common.wording import json_text


def run(
    *, read: Read, check: Callable[[], Health], host: str, port: int, once: bool, as_json: bool
) -> None:
    """Serve metrics until interrupted, or print the health checks once.

    Args:
        read: Reads the metrics.
        check: Runs the health checks.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        once: Print the checks and return.
        as_json: Print the checks as JSON; goes with `once`.

    Raises:
        NotReady: `once` is set and a check fails.
        ConfigError: The address is unavailable, or `as_json` is set without `once`.
        MissingDependency: The Prometheus client is not installed.
    """
    if once:
        _print(check(), as_json)
        return
    if as_json:
        raise ConfigError("--format json goes with --check", hint="/readyz answers in JSON")
    with Endpoint(read=read, check=check, host=host, port=port) as endpoint:
        echo(f"{endpoint.url}/metrics", err=True)
        endpoint.serve()


def _print(health: Health, as_json: bool) -> None:
    row: dict[str, Any] = health.row()
    if as_json:
        echo(json_text(row))
    else:
        for name, result in row["checks"].items():
            echo(f"{name}: {result}")
    if not health.ready:
        failed = [name for name, problem in health.checks.items() if problem]
        raise NotReady(f"not ready: {', '.join(failed)}", hint="each check says what is wrong")
