"""Many rounds of a deployment: what its processes hold stays flat, and its logs are rotated.

`HANSE_TEST_ROUNDS=100` makes it a hundred; by default it is as many as fit into two minutes.
"""

from __future__ import annotations

import os
from statistics import median

import psutil
import pytest

from hanse_common.rotation import LARGEST
from hanse_server.deployment.up import running
from hanse_server.stage_log import read_progress, read_stages
from kits.commands import QuickShops, joined_shops, pids_of
from kits.deployment import wait_for
from kits.nursery import Nursery

pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("HANSE_TEST_ROUNDS", "24"))
PATIENCE = 600
"""Seconds that a round may take on a busy machine."""
GROWTH = 256 * 1024
"""Bytes a round by which a process may grow in the second half; some vary by a MiB or two."""


@pytest.fixture(scope="module")
def shops(secure_stores, store_cache, tmp_path_factory):
    """Three stores, whose rounds are as short as can be."""
    settings = secure_stores[0].with_changes(
        {
            "federation.rounds": ROUNDS,
            "federation.evaluate_every": ROUNDS,
            "federation.minimum_cohort": 3,
            "training.local_steps": 1,
            "training.sample_rate": 0.1,
            "privacy.noise_multiplier": 20.0,
        }
    )
    root, wait = tmp_path_factory.mktemp("hundred"), {"connect": 240, "train": 300, "stage": 120}
    with (
        Nursery(root / "nursery.log") as nursery,
        joined_shops(
            root, settings, store_cache, wait=wait, count=3, quick=QuickShops, join=nursery.join
        ) as shops,
    ):
        yield shops


def test_memory_is_flat_over_many_rounds_and_logs_are_rotated(shops):
    logs = [shops.folder.state / name for name in ("superlink.log", "up.log")]
    for log in logs:
        with log.open("ab") as file:  # as if they were half a day old
            file.write((b"." * 127 + b"\n") * ((LARGEST - file.tell()) // 128 - 1))
    with logs[1].open("ab") as file:
        file.write(b"." * 256 + b"\n")  # `up` itself writes little
    shops.server("run", "--name", "hundred", "--detach")
    held = held_by_round(shops)
    wait_for(lambda: shops.status()["run"]["state"] == "finished", "the end", PATIENCE)
    assert sum(line["stage"] == "train" for line in read_stages(shops.run_dir("hundred"))) == ROUNDS
    third, fourth = ROUNDS // 2, 3 * ROUNDS // 4
    for name, sizes in held.items():
        before = median(sizes[number] for number in sizes if third <= number < fourth)
        after = median(sizes[number] for number in sizes if number >= fourth)
        print(f"{name}: {before / 2**20:.1f} MiB, then {after / 2**20:.1f} MiB")
        assert after - before <= GROWTH * (ROUNDS - third) / 2, name
    for log in logs:
        assert log.with_name(f"{log.name}.1").stat().st_size >= LARGEST - 1024
        assert log.stat().st_size < LARGEST


def held_by_round(shops) -> dict[str, dict[int, int]]:
    """Bytes that each process holds at the beginning of each round, by process and round."""
    seen: dict[str, dict[int, int]] = {}
    for number in range(1, ROUNDS):
        wait_for(lambda n=number: at(shops) >= n, f"round {number}", PATIENCE)
        for name, pid in processes(shops).items():
            seen.setdefault(name, {})[number] = psutil.Process(pid).memory_info().rss
    return seen


def at(shops) -> int:
    return int(read_progress(shops.run_dir("hundred")).get("round") or 0)


def processes(shops) -> dict[str, int]:
    """The processes that live as long as the run."""
    (superlink,) = shops.superlinks()
    (run,) = pids_of("flwr-serverapp", shops.folder.path)
    (starter,) = pids_of("flower-superexec", shops.folder.path)
    ours = {"coordinator": running(shops.folder), "SuperLink": superlink, "SuperExec": starter}
    return {**{name: node.pid for name, node in shops.joined.items()}, **ours, "run": run}
