"""Stores that reach their coordinator through a proxy only, over lines that are slow or break.

Three network namespaces on one machine, see `kits/network.py`; the coordinator's environment
names a proxy that does not exist. `HANSE_TEST_SILENCE=300` makes the long silence five minutes.
"""

from __future__ import annotations

import os
import time

import pytest

from hanse_server.stage_log import read_stages
from kits.commands import Place, joined_shops
from kits.network import HUB, PASSWORD, PROXY, PROXY_PORT, USER, Network

pytestmark = pytest.mark.slow

ROUNDS = 2
LONG_SILENCE = float(os.environ.get("HANSE_TEST_SILENCE", "40"))
"""Seconds; after 30 the SuperLink gives a node up that sends no heartbeat."""
WRITTEN = PASSWORD.replace("@", "%40").replace(":", "%3A")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    made = Network(tmp_path_factory.mktemp("network"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def shops(network, secure_stores, store_cache, tmp_path_factory):
    """Three stores, of which a round can lose none."""
    settings = secure_stores[0].with_changes(
        {
            "federation.rounds": ROUNDS,
            "federation.evaluate_every": ROUNDS,
            "federation.minimum_cohort": 3,
            "federation.spare_exchanges": 40,
            "privacy.noise_multiplier": 20.0,
        }
    )
    proxy = f"http://{USER}:{WRITTEN}@{PROXY}:{PROXY_PORT}"
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "[::1],fd00::/8"}
    with joined_shops(
        tmp_path_factory.mktemp("networks"),
        settings,
        store_cache,
        wait={"connect": 240, "train": 600, "stage": 500},
        count=3,
        at_stores=Place(prefix=network.in_shops, environment={"HTTPS_PROXY": proxy}),
        at_coordinator=Place(prefix=network.in_hub, environment=nowhere, address=HUB),
    ) as shops:
        yield shops


def begin(shops, name):
    shops.wait_until_online()
    shops.server("run", "--name", name, "--detach")
    shops.wait_for_round(name, 1)


def finish(shops, name):
    """Wait until a run ends by itself: all rounds with all stores, ledgers as the log says."""
    assert shops.wait_for_state(name, "finished")["round"] == ROUNDS
    lines = [line for line in read_stages(shops.run_dir(name)) if line["stage"] == "train"]
    good = [line for line in lines if line["outcome"] == "summed"]
    assert [(line["round"], line["replies"]) for line in good] == [(1, 3), (2, 3)]
    assert shops.audit()["ok"]
    return lines


def test_a_run_goes_through_a_proxy_that_asks_for_a_password(network, shops):
    begin(shops, "proxied")
    finish(shops, "proxied")
    port = shops.folder.file.fleet.port
    assert {(line["target"], line["status"]) for line in network.proxied()} == {
        (f"{HUB}:{port}", 200)
    }
    findings = shops.store("bremen", "doctor", "--format", "json").json
    (server,) = (found for found in findings if found["check"] == "server")
    assert f"through the proxy {PROXY}:{PROXY_PORT}" in server["message"]


@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        (f"http://{USER}:wrong-{WRITTEN}@{PROXY}:{PROXY_PORT}", "407"),
        (f"http://{USER}:{WRITTEN}@{PROXY}:1", f"through the proxy {PROXY}:1"),
        ("", "does not answer"),
    ],
)
def test_without_the_right_proxy_the_doctor_says_why(shops, proxy, words):
    done = shops.try_store("danzig", "doctor", "--format", "json", HTTPS_PROXY=proxy)
    (server,) = (found for found in done.json if found["check"] == "server")
    assert server["state"] == "failed" and words in server["message"]
    assert PASSWORD not in done.out + done.err and WRITTEN not in done.out + done.err


@pytest.mark.parametrize("seconds", [30.0, LONG_SILENCE])
def test_a_line_that_is_silent_in_mid_round_costs_no_round(network, shops, seconds):
    pids = {name: node.process.pid for name, node in shops.joined.items()}
    name = f"silent-for-{seconds:.0f}"
    begin(shops, name)
    network.set_line(cut=True)
    time.sleep(seconds)
    network.set_line()
    finish(shops, name)
    assert {name: node.process.pid for name, node in shops.joined.items()} == pids
    assert all(node.process.poll() is None for node in shops.joined.values())


def test_a_round_trip_of_half_a_second_loses_no_store(network, shops):
    network.set_line(delay=0.25)
    try:
        begin(shops, "delayed")
        assert len(finish(shops, "delayed")) == ROUNDS
    finally:
        network.set_line()


def test_a_line_of_one_megabit_loses_no_store(network, shops):
    network.set_line(rate=125_000, delay=0.02)
    try:
        begin(shops, "narrow")
        assert len(finish(shops, "narrow")) == ROUNDS
    finally:
        network.set_line()


def test_uploads_that_are_reset_in_the_middle_are_sent_again(network, shops):
    before = len(network.proxied())
    shops.wait_until_online()
    network.reset_uploads(after=50_000, times=6)
    begin(shops, "reset")
    lines = finish(shops, "reset")
    assert len(lines) == ROUNDS, "no round was lost"
    resets = [line for line in network.proxied()[before:] if "reset" in line]
    assert len(resets) == 6, "all six in this run"
