"""A whole secure run's logs: lines of JSON with known fields, and nothing of any customer."""

from __future__ import annotations

import io
import json
import logging
import math
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from hanse_client.ingest.sources import read_source
from hanse_client.ingest.store_config import load_store
from hanse_common import logs
from hanse_common.errors import BudgetSpent, DataError, WeakKey
from hanse_server.rounds import run_rounds
from hanse_server.stage_log import read_stages

ALWAYS = {"time", "level", "logger", "event"}
ADA = "ADA-LOVELACE-77"


@pytest.fixture
def stream():
    stream = io.StringIO()
    logs.set_up(stream=stream)
    yield stream
    logs.take_down()


def lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_no_customer_is_in_the_logs_of_a_whole_secure_run(found_federation, stream, store_cache):
    changes = {
        "privacy.mode": "distributed",
        "training.local_steps": 1,
        "privacy.evaluation_noise_multiplier": 40.0,
        "federation.evaluate_every": 1,
    }
    federation = found_federation(changes)
    logs.set_up(level="DEBUG", stream=stream)
    failing = federation.names[1]
    told = []

    @contextmanager
    def around(store, message):
        """As when a row of this store cannot be used, and the error quotes it."""
        with pytest.MonkeyPatch.context() as patch:
            if store == failing and message.metadata.message_type == "train" and not told:
                told.append(store)
                patch.setattr("hanse_client.training.train.training_data", _quoting)
            yield

    federation.faults.around = around
    run_rounds(federation.grid(), federation.folder.path, federation.settings)

    found = lines(stream)
    assert {line["event"] for line in found} >= {"answered", "charged", "stage done"}
    failed = [line for line in found if line.get("error_code") == "unable"]
    assert {line["store"] for line in failed} == {failing}
    # Once at the store, once at the coordinator.
    assert {line["logger"] for line in failed} == {
        "hanse_client.app",
        "hanse_server.stage_log",
    }
    for line in found:
        assert ALWAYS <= set(line) <= ALWAYS | set(logs.FIELDS), line

    text = stream.getvalue()
    assert ADA not in text
    assert "31337" not in text
    numbers = [value for line in found for value in line.values() if not isinstance(value, str)]
    for node in federation.nodes():
        histories = node.histories
        for pseudonym in histories.customers:
            assert str(pseudonym) not in text
        known = [len(histories), len(histories.active()), len(histories.visit_days)]
        entries = [json.loads(one) for one in (node.folder / "log.jsonl").read_text().splitlines()]
        known += [entry["loss"] for entry in entries if "loss" in entry]
        for path in (node.folder / "evaluations").glob("*.npz"):
            with np.load(path) as arrays:
                known += [
                    float(v)
                    for a in arrays.values()
                    if a.ndim == 0 and a.dtype != bool
                    for v in [a]
                ]
        for value in known:
            assert not any(math.isclose(value, number) for number in numbers if number > 5), value
    sums = [
        value for stage in read_stages(federation.folder.path) for value in stage["sums"].values()
    ]
    assert sums
    assert not set(sums) & set(numbers)
    raw = sorted(store_cache.glob("synthetic-*/synthetic-*/store.toml"))
    assert raw
    for store in raw:
        events = read_source(load_store(store).events)
        for column in ("user_id", "item_id", "basket_id"):
            for value in events[column].unique():
                assert value not in text


def _quoting(*_, **__):
    raise DataError(f"customer {ADA} bought twice", hint="31337 rows")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (DataError(f"customer {ADA}"), "[data] A store's data cannot be read or used."),
        (BudgetSpent(f"{ADA} spent 31337"), "[budget-spent] A release would cost more"),
        (ValueError(ADA), "[internal] ValueError"),
        (WeakKey("public key 00"), "[weak-key] public key 00"),
    ],
)
def test_an_exception_is_logged_as_it_would_leave_the_store(error, said, stream):
    log = logging.getLogger("hanse_client.anything")
    try:
        raise error
    except Exception as caught:
        log.exception("failed")
        log.error("failed: %s", caught)
        log.error(caught)
        log.error("failed: %(why)s", {"why": caught})
    assert len(lines(stream)) == 4
    for line in lines(stream):
        assert said in line["event"]
    assert ADA not in stream.getvalue()
    assert "Traceback" not in stream.getvalue()


def test_of_other_packages_lines_only_the_template_is_kept(stream):
    logging.getLogger("uvicorn.error").error("%s asked for %d", ADA, 31337)
    logging.getLogger("some.library").info("below warnings")
    flower = logging.getLogger("flwr")
    flower.setLevel(logging.INFO)
    flower.info("below warnings")
    warnings.warn(f"{ADA} is odd", RuntimeWarning, stacklevel=1)
    events = [line["event"] for line in lines(stream)]
    assert events == ["%s asked for %d", "a Python warning"]


def test_extras_that_are_not_on_the_list_are_dropped_and_so_is_what_is_no_plain_value(stream):
    log = logging.getLogger("hanse_server.anything")
    log.info("done", extra={"round": 2, "customers": 24, "store": [ADA], "stage": "train"})
    (line,) = lines(stream)
    assert {key: line[key] for key in set(line) - {"time"}} == {
        "level": "info",
        "logger": "hanse_server.anything",
        "event": "done",
        "round": 2,
        "stage": "train",
    }


def test_setting_up_twice_writes_each_line_once(stream):
    logs.set_up(store="luebeck", stream=stream)
    logging.getLogger("hanse_client").info("up")
    (line,) = lines(stream)
    assert line["store"] == "luebeck"
    assert line["time"].endswith("Z")


LOGGING = """
import logging, multiprocessing, sys
from hanse_common import logs

logs.set_up(store="luebeck")
logging.getLogger("hanse_client").info("to a full disk")
child = multiprocessing.get_context("forkserver").Process(target=int)
child.start()
child.join()
sys.exit(child.exitcode)
"""


def test_logs_that_a_full_disk_does_not_take_keep_no_process_from_being_started():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", LOGGING], stderr=full, timeout=60)
    assert done.returncode == 0
    done = subprocess.run([sys.executable, "-c", LOGGING], stderr=subprocess.PIPE, timeout=60)
    assert json.loads(done.stderr)["event"] == "to a full disk"
