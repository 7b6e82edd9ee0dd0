"""What `hanse server metrics` and `hanse store metrics` share: serve, or look once."""

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
    """Serve figures until interrupted, or print the checks and end.

    Raises:
        NotReady: `once`, and something is wrong.
        ConfigError: The address cannot be listened on; or JSON without `once`.
        MissingDependency: As `Endpoint`.
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
        for name, found in row["checks"].items():
            echo(f"{name}: {found}")
    if not health.ready:
        wrong = [name for name, found in health.checks.items() if found]
        raise NotReady(f"not ready: {', '.join(wrong)}", hint="each check says what is wrong")
