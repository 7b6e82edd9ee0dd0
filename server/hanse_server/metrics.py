"""A coordinator's metrics and health, read from its folder.

All of them are public within the federation or the coordinator's own: rounds, times, lost
stores. Sums over the stores' vectors (losses, counts) are left out, because they derive from
customers and the manifest alone decides what may be released of them.

>>> from tempfile import TemporaryDirectory
>>> with TemporaryDirectory() as folder:
...     [figure.name for figure in read_metrics(Path(folder))]
['hanse_runs']
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse_common.decoding import json_file
from hanse_common.durable import PARTIAL
from hanse_common.errors import ConfigError
from hanse_common.identity import Certificate
from hanse_common.locks import is_locked
from hanse_common.monitoring.codes import OTHER, known_codes
from hanse_common.monitoring.expiry import day
from hanse_common.monitoring.health import Health, listens
from hanse_common.paths import (
    CERTIFICATES_FOLDER,
    FAILURE_FILE,
    FEDERATION_FILE,
    RUNS_FOLDER,
    RUNTIME_FOLDER,
    SETTINGS_FILE,
    TLS_CERTIFICATE_FILE,
    TLS_FOLDER,
    TLS_ROOT_FILE,
    UP_PID_FILE,
)
from hanse_common.roundlog.records import SUMMED
from hanse_common.settings_files import read_toml
from hanse_server.stage_log import ended_early, lost_at, read_stages

if TYPE_CHECKING:
    from prometheus_client import Metric

_BUCKETS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
"""Upper bounds of the histogram of stage durations, in seconds."""


def read_metrics(folder: Path) -> Iterator[Metric]:
    """Read the metrics of a coordinator's folder: its last run, and the ends of certificates.

    Args:
        folder: The folder with `runs/` and `certificates/`; missing files give no metric.

    Raises:
        HanseError: A file cannot be read.
    """
    from prometheus_client.core import GaugeMetricFamily

    settings = (folder / RUNS_FOLDER).glob(f"*/{SETTINGS_FILE}")
    runs = sorted((path.parent for path in settings), key=_begun)
    yield GaugeMetricFamily("hanse_runs", "Runs in the folder.", value=len(runs))
    if runs:
        yield from _run_metrics(runs[-1])
    ends = GaugeMetricFamily(
        "hanse_certificate_end_timestamp_seconds",
        "When a store's certificate ends.",
        labels=["store"],
    )
    for path in sorted((folder / CERTIFICATES_FOLDER).glob("*")):
        if path.is_file() and path.suffix != PARTIAL:
            certificate = Certificate.load(path)
            ends.add_metric([certificate.store_id], certificate.valid_until)
    if ends.samples:
        yield ends
    yield from _tls_metrics(folder)


def tls_files(folder: Path) -> dict[str, Path]:
    """The PEM files of the TLS certificates whose end would shut stores out, by name."""
    # As a plain table: a malformed setting must not end the metrics.
    fleet = _federation(folder).get("fleet")
    fleet = fleet if isinstance(fleet, dict) else {}
    own = {"certificate": TLS_CERTIFICATE_FILE, "ca": TLS_ROOT_FILE}
    paths = {key: str(fleet.get(key, f"{TLS_FOLDER}/{name}")) for key, name in own.items()}
    return {"server": folder / paths["certificate"], "root": folder / paths["ca"]}


def read_health(folder: Path) -> Health:
    """Check whether `hanse server up` runs, and whether its port accepts connections."""
    # As a plain table: a malformed setting must not end the health check.
    table = _federation(folder)
    fleet = table.get("fleet")
    fleet = fleet if isinstance(fleet, dict) else {}
    port = fleet.get("listen") or str(fleet.get("address", "")).rpartition(":")[2]
    checks = {"federation": "" if table else f"{folder} holds no federation.toml"}
    # The lock, not the process id: a lock ends with its process, and ids are used again.
    is_up = is_locked(folder / RUNTIME_FOLDER / UP_PID_FILE)
    checks["up"] = "" if is_up else "`hanse server up` does not run"
    if str(port).isascii() and str(port).isdigit():
        open_ = listens(str(fleet.get("bind", "0.0.0.0")), int(port))
        checks["fleet"] = "" if open_ else f"nothing accepts connections on port {port}"
        checks["certificate"] = _certificate(folder)
    return Health(checks=checks)


def _tls_metrics(folder: Path) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    ends = GaugeMetricFamily(
        "hanse_tls_certificate_end_timestamp_seconds",
        "When the TLS certificate that stores see ends, and when its root does.",
        labels=["certificate"],
    )
    for name, path in tls_files(folder).items():
        end = tls_end(path)
        if end is not None:
            ends.add_metric([name], end)
    if ends.samples:
        yield ends


def tls_end(path: Path) -> float | None:
    """When a PEM file's first certificate ends, in Unix seconds; None if it cannot be read."""
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()
    except (OSError, ValueError):
        return None


def _begun(run: Path) -> float:
    return (run / SETTINGS_FILE).stat().st_mtime


def _run_metrics(run: Path) -> Iterator[Metric]:
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    stages = read_stages(run)
    settings = json_file(run / SETTINGS_FILE)
    trained = [stage for stage in stages if stage["stage"] == "train"]
    gave_model = [stage for stage in trained if stage["outcome"] == SUMMED]
    failed = (run / FAILURE_FILE).exists()

    def gauge(name: str, text: str, value: float, **labels: str) -> Metric:
        family = GaugeMetricFamily(name, text, labels=["run", *labels])
        family.add_metric([run.name, *labels.values()], value)
        return family

    planned = settings.get("federation", {}).get("rounds", 0)
    yield gauge("hanse_run_rounds", "Rounds that the run is to have.", planned)
    yield gauge("hanse_run_rounds_done", "Rounds that moved the model.", len(gave_model))
    finished = any(stage["stage"] == "done" and not ended_early(stage) for stage in stages)
    yield gauge("hanse_run_finished", "1 once nothing is left to do.", finished)
    code = _failure(run) if failed else ""
    yield gauge("hanse_run_failed", "1 if its last process failed, and why.", failed, code=code)
    if not stages:
        return
    yield gauge(
        "hanse_run_last_stage_timestamp_seconds", "When a stage last ended.", stages[-1]["time"]
    )
    shares = [share for stage in trained if (share := stage.get("noise_share")) is not None]
    if shares:
        yield gauge(
            "hanse_noise_share",
            "Variance of the stores' noise as measured, over what the manifest promises.",
            shares[-1],
        )

    seconds = HistogramMetricFamily(
        "hanse_stage_seconds", "How long stages took.", labels=["run", "stage"]
    )
    attempts = CounterMetricFamily(
        "hanse_attempts", "Attempts at exchanges.", labels=["run", "stage"]
    )
    replies = GaugeMetricFamily(
        "hanse_stage_stores", "Stores in the last exchange.", labels=["run", "stage"]
    )
    for name, same in _by_name(stages).items():
        times = [float(stage["seconds"]) for stage in same]
        seconds.add_metric([run.name, name], buckets=_buckets(times), sum_value=sum(times))
        attempts.add_metric([run.name, name], sum(stage.get("attempts", 1) for stage in same))
        replies.add_metric([run.name, name], same[-1]["replies"])
    lost = CounterMetricFamily(
        "hanse_stores_lost",
        "Stores that an exchange went on without.",
        labels=["run", "stage", "at", "code", "store"],
    )
    for labels, count in sorted(_lost(stages).items()):
        lost.add_metric([run.name, *labels], count)
    exchanges_lost = CounterMetricFamily(
        "hanse_exchanges_lost", "Exchanges that gave no sum.", labels=["run", "stage", "code"]
    )
    codes = Counter(
        (_name(stage), str(stage["outcome"]))
        for stage in stages
        if stage["stage"] != "done" and stage["outcome"] != SUMMED
    )
    for (name, code), count in sorted(codes.items()):
        exchanges_lost.add_metric([run.name, name, code], count)
    yield from (seconds, attempts, replies, lost, exchanges_lost)


def _by_name(stages: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    named: dict[str, list[Mapping[str, Any]]] = {}
    for stage in stages:
        if stage["stage"] != "done":
            named.setdefault(_name(stage), []).append(stage)
    return named


def _name(stage: Mapping[str, Any]) -> str:
    return " ".join(part for part in (stage["stage"], stage["split"]) if part)


def _buckets(times: Sequence[float]) -> list[tuple[str, float]]:
    # Cumulative, as Prometheus has it: each bucket also counts those below it.
    ends = [(str(end), float(sum(t <= end for t in times))) for end in _BUCKETS]
    return [*ends, ("+Inf", float(len(times)))]


def _lost(stages: Sequence[Mapping[str, Any]]) -> Counter[tuple[str, str, str, str]]:
    """The number of losses by stage, protocol stage, error code and store."""
    counts: Counter[tuple[str, str, str, str]] = Counter()
    for stage in stages:
        for store, reason in stage["refusals"].items():
            # Labels take known values only: each new value would be another time series.
            at, code = lost_at(reason)
            counts[_name(stage), at, code, store] += 1
    return counts


def _failure(run: Path) -> str:
    code = str(json_file(run / FAILURE_FILE).get("code"))
    return code if code in known_codes() else OTHER


def _federation(folder: Path) -> dict[str, Any]:
    try:
        return read_toml(folder / FEDERATION_FILE)
    except ConfigError:
        return {}


def _certificate(folder: Path) -> str:
    """The fault of the certificate that stores see; empty if there is none."""
    path = tls_files(folder)["server"]
    end = tls_end(path)
    if end is None:
        return f"{path} cannot be read"
    if end < time.time():
        return f"{path.name} ended on {day(end)}; `hanse server tls renew` issues the next one"
    return ""
