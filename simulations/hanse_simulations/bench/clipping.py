"""Cost of per-customer clipping: book-keeping, a plain step and Opacus' three methods.

A step is forward, backward and the clipped sum. Each method runs in fresh processes of its own,
one at a time and in turns, on one thread, with the same allocator settings: freed memory is
kept except for the largest pieces, since figures would otherwise depend on when the allocator
last returned some. Times are CPU-seconds, medians over all steps; memory is the process' peak
above its level before the first step. Where the output is a softmax over a catalogue,
book-keeping and the plain step are also run with that softmax in chunks.

    rows = clipping("tied", batch=64)
    rich.print(render(rows))
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from hanse_common.errors import ConfigError, PrivacyError

# Imported here too, so that a missing package is named before any process starts.
from hanse_simulations.bench import _clipping_run

MODELS = ("tied", "untied", "minilm", "minilm-lora")
_CATALOGUES = ("tied", "untied")
_CHUNKED = ("bookkeeping-chunked", "plain-chunked")
METHODS = (
    "bookkeeping",
    "bookkeeping-chunked",
    "plain",
    "plain-chunked",
    "opacus-hooks",
    "opacus-functorch",
    "opacus-ghost",
)
EXACT = 1e-3
"""Largest relative error at which a method of Opacus counts as working."""

_STEPS, _SECONDS = 4, 6.0
# glibc keeps freed blocks below 32 MB. If it kept all sizes, the peak would move by 128 MB from
# process to process; with its defaults, times depend on what it returned (docs/lab-notes.md).
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_TOP_PAD_": str(2**26),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ClippingRow:
    """One method on one model; only the note is set where it does not support the model."""

    model: str
    batch: int
    method: str
    seconds: float | None = None
    """CPU-seconds of a step."""
    peak_mb: float | None = None
    """Peak memory above the level before the first step, in MiB."""
    time_over_plain: float | None = None
    memory_over_plain: float | None = None
    speedup_over_opacus: float | None = None
    """Speed relative to the fastest method of Opacus that works on this model."""
    max_relative_error: float | None = None
    """Largest error of the clipped sum, relative to the largest gradient of the same layer."""
    note: str | None = None


def clipping(
    model: str,
    batch: int = 64,
    *,
    repeats: int = 2,
    methods: Sequence[str] | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> list[ClippingRow]:
    """Measure every clipping method on a model.

    Args:
        model: One of `MODELS`.
        batch: Customers in a step.
        repeats: Number of processes per method.
        methods: Methods to measure, all if None; `plain` always runs.
        progress: Called with a line before each measurement.

    Returns:
        A row per method, our own first.

    Raises:
        ConfigError: There is no such model or method, or too few customers or repeats.
        PrivacyError: A measuring process failed.
    """
    if model not in MODELS:
        raise ConfigError(f"model={model!r}: choose from {', '.join(MODELS)}")
    if batch < 1 or repeats < 1:
        raise ConfigError(f"batch={batch}, repeats={repeats}: take at least 1 of each")
    unknown = set(methods or ()) - set(METHODS)
    if unknown:
        raise ConfigError(f"method={min(unknown)!r}: choose from {', '.join(METHODS)}")
    chosen = [
        method
        for method in METHODS
        if (model in _CATALOGUES or method not in _CHUNKED)
        and (methods is None or method in methods or method == "plain")
    ]
    measured: dict[str, list[dict[str, Any]]] = {method: [] for method in chosen}
    # In turns, so that a machine that slows down does so for all methods.
    for repeat in range(repeats):
        for method in chosen:
            if any("note" in figures for figures in measured[method]):
                continue
            progress(f"{model}, {batch} customers, {method}, {repeat + 1} of {repeats}")
            measured[method].append(_measure(model, method, batch))
    return _rows(model, batch, {method: _merged(runs) for method, runs in measured.items()})


def _measure(model: str, method: str, batch: int) -> dict[str, Any]:
    arguments = [model, method, str(batch), str(_STEPS), str(_SECONDS)]
    done = subprocess.run(
        [sys.executable, "-m", _clipping_run.__name__, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | _ENVIRONMENT,
    )
    if done.returncode == 0:
        figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return figures
    if done.returncode < 0:
        return {"note": f"killed by signal {-done.returncode}; out of memory?"}
    last = (done.stderr.strip().splitlines() or ["no output"])[-1]
    raise PrivacyError(f"clipping {model!r} by {method!r} failed: {last}")


def _merged(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    note = next((run["note"] for run in runs if "note" in run), None)
    if note is not None:
        return {"note": note}
    errors = [run["max_relative_error"] for run in runs if run["max_relative_error"] is not None]
    return {
        "seconds": statistics.median(taken for run in runs for taken in run["seconds"]),
        "peak_mb": statistics.median(run["peak_mb"] for run in runs),
        "max_relative_error": max(errors, default=None),
    }


def _rows(model: str, batch: int, measured: dict[str, dict[str, Any]]) -> list[ClippingRow]:
    plain = measured["plain"]
    opacus = min(
        (
            figures["seconds"]
            for method, figures in measured.items()
            if method.startswith("opacus") and figures.get("max_relative_error", 1.0) <= EXACT
        ),
        default=None,
    )

    def row(method: str, figures: dict[str, Any]) -> ClippingRow:
        if "note" in figures:
            return ClippingRow(model=model, batch=batch, method=method, note=figures["note"])
        seconds, peak = figures["seconds"], figures["peak_mb"]
        return ClippingRow(
            model=model,
            batch=batch,
            method=method,
            seconds=round(seconds, 4),
            peak_mb=round(peak, 1),
            time_over_plain=round(seconds / plain["seconds"], 3),
            memory_over_plain=round(peak / plain["peak_mb"], 3),
            speedup_over_opacus=None if opacus is None else round(opacus / seconds, 2),
            max_relative_error=figures["max_relative_error"],
        )

    return [row(method, figures) for method, figures in measured.items()]


def render(rows: Sequence[ClippingRow]) -> Table:
    """Lay the rows out as a table for people."""
    table = Table(title="One clipped step: CPU-seconds, memory, and how exact the sum is")
    for heading in ("model", "batch", "method"):
        table.add_column(heading)
    for heading in ("seconds", "/ plain", "peak", "/ plain", "Opacus /", "error"):
        table.add_column(heading, justify="right")
    for row in rows:
        if row.seconds is None:
            cells = ["-"] * 5 + [row.note or "-"]
        else:
            cells = [
                f"{row.seconds:.3f}",
                f"{row.time_over_plain:.2f}x",
                f"{row.peak_mb:.0f} MB",
                f"{row.memory_over_plain:.2f}x",
                "-" if row.speedup_over_opacus is None else f"{row.speedup_over_opacus:.2f}x",
                "-" if row.max_relative_error is None else f"{row.max_relative_error:.1e}",
            ]
        table.add_row(row.model, str(row.batch), row.method, *cells)
    return table
