"""A run that is killed and resumed ends with the model of one that was left alone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hanse_common.errors import Interrupted
from hanse_server.stage_log import read_stages
from kits.apps.federations import STORES, final_bytes, make_run, make_settings, run

SETTINGS = make_settings(
    rounds=6,
    strategy="FedAdam",
    strategy_options={"fraction_train": 0.7},
    compute={"workers": 2},
)
TESTS = Path(__file__).parents[1]

PROGRAM = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
sys.path.insert(0, sys.argv[1])
from kits.apps.federations import CLIENT_APP
from hanse_common.errors import HanseError
from hanse_server.app import read_settings
from hanse_simulations.engines import run_federation
folder = Path(sys.argv[2])
try:
    run_federation(
        folder / "run", folder / "federation", read_settings(folder / "run"),
        client_app=CLIENT_APP, resume=len(sys.argv) > 3,
    )
except HanseError as error:
    sys.exit(error.exit_status)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"), SETTINGS)


def start(folder, *options):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(TESTS), str(folder), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_round(run_dir, number, process):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if any(s["round"] >= number and s["stage"] == "train" for s in read_stages(run_dir)):
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    raise AssertionError(f"round {number} did not come")


def slow_down(federation_dir, seconds=0.05, stores=STORES):
    for name in stores:
        (federation_dir / name / "slow").write_text(str(seconds))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_killed_and_resumed(how, tmp_path, whole):
    run_dir, federation_dir = make_run(tmp_path, SETTINGS)
    slow_down(federation_dir)
    for number, options in ((2, ()), (4, ("--resume",))):
        process = start(tmp_path, *options)
        try:
            wait_for_round(run_dir, number, process)
            if how == signal.SIGINT:
                # As a terminal does: the workers get it too.
                os.killpg(process.pid, how)
            else:
                process.send_signal(how)
            _, complaint = process.communicate(timeout=30)
        finally:
            process.kill()
        assert process.returncode == (Interrupted.exit_status if how == signal.SIGINT else -how)
        assert "Traceback" not in complaint
        assert not (run_dir / "global.safetensors").exists()
    assert orphans(process.pid) == []

    process = start(tmp_path, "--resume")
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 0, complaint
    assert final_bytes(run_dir) == final_bytes(whole)
    columns = ("round", "stage", "split", "replies")
    assert [[stage[c] for c in columns] for stage in read_stages(run_dir)] == [
        [stage[c] for c in columns] for stage in read_stages(whole)
    ]


def orphans(session):
    """Processes of that session that live on two seconds after it ended."""
    deadline = time.monotonic() + 2
    while left := [pid for pid in _process_ids() if _session(pid) == session]:
        if time.monotonic() > deadline:
            return left
        time.sleep(0.05)
    return []


def _process_ids():
    if not sys.platform.startswith("linux"):
        return []
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _session(pid):
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


@pytest.mark.slow
def test_ctrl_c_ends_ray_and_the_other_engine_may_go_on(tmp_path):
    settings = make_settings(compute={"engine": "ray", "workers": 2})
    run_dir, federation_dir = make_run(tmp_path, settings)
    slow_down(federation_dir, 1.0, STORES[-1:])  # all others have answered when it is ended
    process = start(tmp_path)
    try:
        wait_for_round(run_dir, 1, process)
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == Interrupted.exit_status

    # No round is written down with the stores that were left when it ended.
    assert all(stage["replies"] == len(STORES) for stage in read_stages(run_dir))

    here = make_settings(compute={"workers": 2})
    run(tmp_path, here, resume=True)
    assert final_bytes(run_dir) == final_bytes(run(tmp_path / "whole", here))
