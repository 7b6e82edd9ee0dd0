import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from hanse_server.stage_log import read_stages
from hanse_simulations.engines import WorkerPool, run_federation, store_names
from hanse_simulations.engines.in_process import InProcessGrid
from kits.apps.federations import CLIENT_APP, STORES, final_bytes, make_run, make_settings, run
from kits.errors import raises


@pytest.fixture
def federation(tmp_path):
    for name in STORES:
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def connect(federation):
    """Build a grid over a pool of so many workers."""
    pools = []

    def build(workers=2):
        pools.append(WorkerPool(workers, client_app=CLIENT_APP))
        environment = {"HANSE_FEDERATION": str(federation)}
        return InProcessGrid(pools[-1], STORES, environment=environment), pools[-1]

    yield build
    for pool in pools:
        pool.close()


def training(grid, nodes=None, number=1):
    content = RecordDict(
        {
            "arrays": ArrayRecord({"w": Array(np.zeros(3, np.float32))}),
            "config": ConfigRecord({"server-round": number}),
        }
    )
    return [Message(content, node, "train") for node in nodes or grid.get_node_ids()]


def test_messages_and_replies_survive_pickling(connect):
    grid, _ = connect()
    message = training(grid)[0]
    assert pickle.loads(pickle.dumps(message)).metadata.dst_node_id == message.metadata.dst_node_id
    [reply] = grid.send_and_receive([message])
    again = pickle.loads(pickle.dumps(reply))
    assert again.content["arrays"]["w"].numpy().tobytes() == (
        reply.content["arrays"]["w"].numpy().tobytes()
    )


def test_replies_come_in_the_order_of_the_messages_with_fresh_ids(connect):
    grid, _ = connect()
    identifiers = []
    for number in (1, 2):
        messages = training(grid, number=number)
        replies = list(grid.send_and_receive(messages))
        assert [reply.metadata.src_node_id for reply in replies] == list(grid.get_node_ids())
        identifiers += [reply.metadata.reply_to_message_id for reply in replies]
    assert identifiers == [str(i) for i in range(1, 11)]


def test_push_and_pull(connect):
    grid, _ = connect()
    identifiers = list(grid.push_messages(training(grid)))
    replies = []
    deadline = time.monotonic() + 20
    while len(replies) < len(STORES) and time.monotonic() < deadline:
        replies += grid.pull_messages(identifiers)
    assert {reply.metadata.reply_to_message_id for reply in replies} == set(identifiers)
    assert list(grid.pull_messages(identifiers)) == []


def test_a_node_keeps_its_state_whoever_serves_it(connect, federation):
    grid, pool = connect()
    node = next(iter(grid.get_node_ids()))
    servers = set()
    for number in range(1, 4):
        grid._home[node] = number % pool.size
        grid._next_job = lambda worker, want=number % pool.size: next(
            (job for job in grid._queue if worker == want), None
        )
        list(grid.send_and_receive(training(grid, [node], number)))
        calls, server = (federation / STORES[0] / "calls").read_text().split()
        assert float(calls) == number
        servers.add(server)
    assert len(servers) == 2


def test_a_call_that_fails_leaves_the_state_as_it_was(connect, federation):
    grid, _ = connect(1)
    node = next(iter(grid.get_node_ids()))
    list(grid.send_and_receive(training(grid, [node], 1)))
    (federation / STORES[0] / "crash").write_text("2")
    [reply] = grid.send_and_receive(training(grid, [node], 2))
    assert reply.error.reason == "ZeroDivisionError: a bug"
    assert grid._contexts[node].state["calls"]["n"] == 1


def test_stores_stay_with_their_worker_and_the_longest_goes_first(connect, federation):
    grid, _ = connect()
    (federation / "riga" / "slow").write_text("0.25")
    list(grid.send_and_receive(training(grid)))
    slow = list(grid.get_node_ids())[STORES.index("riga")]
    home = grid._home[slow]
    list(grid.push_messages(training(grid)))
    assert grid._running[home].node == slow
    list(grid.send_and_receive(training(grid)))
    assert grid._home[slow] == home


def test_time_out_withdraws_what_waits_and_drops_what_is_late(connect, federation):
    grid, _ = connect(1)
    (federation / STORES[0] / "slow").write_text("0.6")
    started = time.monotonic()
    assert list(grid.send_and_receive(training(grid), timeout=0.2)) == []
    assert time.monotonic() - started < 0.5
    (federation / STORES[0] / "slow").unlink()
    replies = list(grid.send_and_receive(training(grid, number=2), timeout=20))
    assert len(replies) == len(STORES)
    assert not grid._abandoned
    assert not grid._replies
    assert not (federation / STORES[1] / "calls").read_text().startswith("2")


def test_a_killed_worker_is_an_error_and_not_a_hang(connect, federation):
    grid, _ = connect()
    (federation / "danzig" / "die").write_text("1")
    with raises("federation", match="'danzig' .* SIGKILL"):
        list(grid.send_and_receive(training(grid)))


def test_a_worker_killed_between_messages(connect):
    grid, pool = connect()
    list(grid.send_and_receive(training(grid)))
    os.kill(pool.process_ids[0], signal.SIGKILL)
    with raises("federation", match="SIGKILL"):
        list(grid.send_and_receive(training(grid)))


def test_workers_ignore_ctrl_c(connect):
    grid, pool = connect()
    for pid in pool.process_ids:
        os.kill(pid, signal.SIGINT)
    assert len(list(grid.send_and_receive(training(grid)))) == len(STORES)


def test_closing_ends_idle_and_busy_workers_at_once(connect, federation):
    grid, pool = connect()
    (federation / STORES[0] / "slow").write_text("60")
    grid.push_messages(training(grid))
    started = time.monotonic()
    pool.close()
    assert time.monotonic() - started < 3
    for pid in pool.process_ids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_nobody_by_that_id(connect):
    grid, _ = connect(1)
    with pytest.raises(ValueError, match="no node 5"):
        grid.push_messages([Message(RecordDict(), 5, "train")])


@pytest.mark.parametrize(
    "reference",
    ["kits.apps.numpy_client", "kits.apps.numpy_client:np", "kits.apps.nothing:app", ":app"],
)
def test_a_bad_reference(reference):
    with raises("config", match="ClientApp"):
        WorkerPool(1, client_app=reference)


def test_workers_are_spawned_once_a_thread_runs(tmp_path):
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        with WorkerPool(1, client_app=CLIENT_APP) as pool:
            assert pool.start_method == "spawn"
            spawned = final_bytes(run(tmp_path / "a", make_settings(rounds=1), pool=pool))
    finally:
        stop.set()
        thread.join()
    assert spawned == final_bytes(run(tmp_path / "b", make_settings(rounds=1)))


POLARS = """
import polars, sys
from hanse_simulations.engines.workers import fork_is_safe
print(fork_is_safe())
polars.DataFrame({"a": [1, 2]}).group_by("a").len()
print(fork_is_safe())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks on Linux only")
def test_forks_until_polars_has_been_used():
    done = subprocess.run([sys.executable, "-c", POLARS], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"], done.stderr


def test_a_pool_serves_many_runs(tmp_path):
    with WorkerPool(2, client_app=CLIENT_APP) as pool:
        first = run(tmp_path / "a", make_settings(rounds=2), pool=pool)
        second = run(tmp_path / "b", make_settings(rounds=2), pool=pool)
        third = run(tmp_path / "c", make_settings(rounds=2, strategy="FedAdam"), pool=pool)
        assert pool.idle == [0, 1]
    assert final_bytes(first) == final_bytes(second) != final_bytes(third)


def test_a_store_that_dies_ends_the_run_which_can_be_resumed(tmp_path):
    settings = make_settings()
    run_dir, federation_dir = make_run(tmp_path, settings)
    (federation_dir / "visby" / "die").write_text("3")
    with raises("federation", match="visby"):
        run_federation(run_dir, federation_dir, settings, client_app=CLIENT_APP)
    assert [s["round"] for s in read_stages(run_dir) if s["stage"] == "train"] == [1, 2]
    (federation_dir / "visby" / "die").unlink()
    run(tmp_path, settings, resume=True)
    assert final_bytes(run_dir) == final_bytes(run(tmp_path / "whole", settings))


def test_resuming_with_other_settings_leaves_the_runs_own(tmp_path):
    run_dir = run(tmp_path, make_settings(rounds=1))
    before = (run_dir / "settings.json").read_text()
    with raises("run-not-resumable"):
        run(tmp_path, make_settings(rounds=2), resume=True)
    assert (run_dir / "settings.json").read_text() == before


def test_no_stores(tmp_path):
    with raises("data", match="federation folder"):
        store_names(tmp_path / "nowhere")
    with raises("data", match="no store"):
        store_names(tmp_path)
