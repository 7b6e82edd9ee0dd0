"""Measure latency and throughput of a store's service, in float and in int8.

Each is `hanse model serve` in a process of its own. Several clients at once send requests for
one customer each over HTTP, as a shop's own programs would.

    rows = serve(Path("runs/one"), Path("runs/one/stores/region-01"))
    rich.print(render(rows))
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from rich.table import Table
from transformers.utils.logging import disable_progress_bar

from hanse_client.inference.choices import Candidates, When
from hanse_client.inference.load import open_model, open_store, run_settings
from hanse_client.inference.predict import ask_all, known, moment_of, ranked
from hanse_client.inference.quantization import to_int8
from hanse_client.tasks.scoring import TOP
from hanse_common.errors import FederationError

_START = "from hanse_client.model_cli import app; app()"
_WARM_UP = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeRow:
    """Figures of the service with one kind of arithmetic."""

    arithmetic: str
    p50_ms: float
    p99_ms: float
    requests_per_second: float
    agreement: float
    """Fraction of the float model's best ten that this one ranks too, mean over customers."""


def serve(model: Path, store: Path, *, requests: int = 1_000, clients: int = 8) -> list[ServeRow]:
    """Measure a model's service in float, then in int8.

    Args:
        model: The model's folder, or its run's.
        store: A node's folder or a `store.toml`.
        requests: Number of requests, each for one customer.
        clients: Number of concurrent clients, each waiting for its reply.

    Raises:
        FederationError: The service did not start, or refused a request.
    """
    disable_progress_bar()
    trained = open_model(model)
    opened = open_store(store, trained, run_settings(trained, store, None))
    moment = moment_of(opened, When.LATEST, None)
    customers = known(opened, moment)
    best = [
        ranked(
            ask_all(one, opened.histories, customers, moment), top=TOP, candidates=Candidates.ALL
        )
        for one in (trained.model, to_int8(trained.model))
    ]
    overlaps = [len(set(a.tolist()) & set(b.tolist())) / len(a) for a, b in zip(*best, strict=True)]
    names = [str(opened.histories.customers[index]) for index in customers]
    users = [names[number % len(names)] for number in range(requests)]
    rows = []
    for arithmetic, agreement in (("float", 1.0), ("int8", float(np.mean(overlaps)))):
        with _service(model, store, *(["--int8"] if arithmetic == "int8" else [])) as address:
            _ask(address, users[:_WARM_UP])
            started = time.perf_counter()
            with ThreadPoolExecutor(clients) as pool:
                shares = [users[client::clients] for client in range(clients)]
                times = [t for part in pool.map(lambda s: _ask(address, s), shares) for t in part]
            took = time.perf_counter() - started
        p50, p99 = np.percentile(times, [50, 99]) * 1_000
        rows.append(
            ServeRow(
                arithmetic=arithmetic,
                p50_ms=round(float(p50), 2),
                p99_ms=round(float(p99), 2),
                requests_per_second=round(requests / took, 1),
                agreement=round(agreement, 4),
            )
        )
    return rows


@contextmanager
def _service(model: Path, store: Path, *more: str) -> Iterator[str]:
    arguments = ["serve", str(model), "--store", str(store), "--port", "0", *more]
    process = subprocess.Popen(
        [sys.executable, "-c", _START, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a pipe that is not read would fill up and block
        text=True,
    )
    try:
        # Port 0 lets the system choose; the service prints its address once it listens.
        address = process.stdout.readline().strip() if process.stdout else ""
        if not address:
            raise FederationError(
                "the service did not start",
                hint="run `hanse model serve` with the same arguments to see why",
            )
        yield address
    finally:
        process.terminate()
        process.wait()
        if process.stdout:
            process.stdout.close()


def _ask(address: str, users: Sequence[str]) -> list[float]:
    """Seconds of each request, over one connection."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc)
    times = []
    try:
        for user in users:
            body = json.dumps({"users": [user], "top": TOP})
            started = time.perf_counter()
            connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            times.append(time.perf_counter() - started)
            if answer.status != http.HTTPStatus.OK:
                raise FederationError(f"the service answered {answer.status}")
    finally:
        connection.close()
    return times


def render(rows: Sequence[ServeRow]) -> Table:
    """Lay the rows out as a table for people."""
    table = Table(title="Serving one customer a request")
    table.add_column("arithmetic")
    for heading in ("p50", "p99", "requests/s", f"same top {TOP}"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row.arithmetic,
            f"{row.p50_ms:.1f} ms",
            f"{row.p99_ms:.1f} ms",
            f"{row.requests_per_second:,.0f}",
            f"{row.agreement:.1%}",
        )
    return table
