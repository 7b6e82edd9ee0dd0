"""The units of `deploy/systemd`, booted: a coordinator and a store as services that train.

Two machines are booted with `systemd-nspawn`, and two more stores run from the checkout.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from hanse_server.stage_log import read_stages
from kits.booted import CannotBoot, Machine, check_that_machines_boot
from kits.commands import NAMES, joined_shops
from kits.contained import FOLDER, ContainedShops
from kits.deployment import Done, free_ports, succeed, wait_for
from kits.packages import ROOT

pytestmark = pytest.mark.slow

ROUNDS = 2
STORES = 3
SERVICE = NAMES[0]
"""The store that is a service."""
WAIT = {"connect": 480, "train": 300, "stage": 120}


def units(part: str) -> dict[str, str]:
    """The units of a side; its figures on a port that is free on this machine."""
    (port,) = free_ports(1)
    found = {path.name: path.read_text() for path in (ROOT / "deploy/systemd").glob("*.service")}
    return {
        name: re.sub(r"--port \d+", f"--port {port}", text)
        for name, text in found.items()
        if name.startswith(f"hanse-{part}")
    }


class UnitShops(ContainedShops):
    """A coordinator and the first of the stores are services of booted machines."""

    coordinator: Machine | None = None
    store_machine: Machine | None = None

    def run_there(self, *command: str, timeout: float = 300) -> Done:
        assert self.coordinator is not None
        return self.coordinator.run_as_user(*command, timeout=timeout)

    def up(self, **environment: str) -> None:
        at = self.folder.path
        self.coordinator = Machine("coordinator", at, units("coordinator"), at.parent / "machine-1")
        self.coordinator.systemctl("start", "hanse-coordinator", "hanse-coordinator-metrics")

    def join(self, name: str, **environment: str) -> Any:
        if name != SERVICE:
            return super().join(name, **environment)
        folder = self.stores[name].path
        self._bring_data(folder)
        scratch = self.folder.path.parent / "machine-2"
        self.store_machine = Machine("store", folder, units("store"), scratch)
        self.store_machine.systemctl("start", "hanse-store", "hanse-store-metrics")
        return None

    def close(self) -> None:
        for node in self.joined.values():
            node.stop()
        for machine in (self.store_machine, self.coordinator):
            if machine is not None:
                machine.stop()

    def _bring_data(self, folder: Path) -> None:
        """Copy the store's data into its folder, which is all that its machine has of them."""
        text = (folder / "store.toml").read_text()
        (found,) = re.findall(r'"(/[^"]*)/events\.parquet"', text)
        data = Path(found)
        shutil.copytree(data, folder / "data" / data.name)
        shutil.copy(data.parent / "catalogue.parquet", folder / "data")
        there = text.replace(str(data.parent), f"{FOLDER}/data")
        (folder / "store.toml").write_text(there)


@pytest.fixture(scope="module")
def shops(secure_stores, store_cache, tmp_path_factory):
    settings = secure_stores[0].with_changes(
        {
            "federation.rounds": ROUNDS,
            "federation.evaluate_every": ROUNDS,
            "federation.minimum_cohort": STORES,
            "privacy.noise_multiplier": 20.0,
        }
    )
    root = tmp_path_factory.mktemp("units")
    how = {"wait": WAIT, "count": STORES, "quick": UnitShops}
    try:
        check_that_machines_boot()
        with joined_shops(root, settings, store_cache, **how) as shops:
            yield shops
    except CannotBoot as reason:
        pytest.skip(str(reason))


def test_services_are_started_once_they_are_ready_and_say_what_they_do(shops):
    """`Type=notify`: `systemctl start` has returned, and the stores are connected."""
    for machine, unit in (
        (shops.coordinator, "hanse-coordinator"),
        (shops.store_machine, "hanse-store"),
    ):
        for name in (unit, f"{unit}-metrics"):
            assert machine.show(name, "ActiveState") == "active", machine.journal()
        assert machine.show(unit, "User") == "hanse"
        assert machine.show(unit, "StatusText")
        assert machine.show(unit, "WatchdogTimestampMonotonic") != "0"
        url = re.findall(r"--port (\d+)", machine.show(f"{unit}-metrics", "ExecStart"))[0]
        asked = ("curl", "--fail", "--silent", f"http://127.0.0.1:{url}/healthz")
        wait_for(lambda: machine.run(*asked).status == 0, f"the figures of {unit}")  # noqa: B023


def test_services_train(shops):
    done = shops.server("run", "--name", "serviced", "--format", "json", timeout=500).json
    assert (done["state"], done["round"]) == ("finished", ROUNDS), done
    lines = [line for line in read_stages(shops.run_dir("serviced")) if line["stage"] == "train"]
    assert [line["replies"] for line in lines] == [STORES] * ROUNDS
    assert len(shops.charges(SERVICE)) == ROUNDS
    assert shops.audit()["ok"]


def test_a_service_that_is_killed_is_started_again(shops):
    machine = shops.store_machine
    first = machine.show("hanse-store", "MainPID")
    succeed(machine.run("kill", "-KILL", first))
    # Counted first: right after its end a service may still be called active.
    wait_for(
        lambda: (
            machine.show("hanse-store", "NRestarts") == "1"
            and machine.show("hanse-store", "ActiveState") == "active"
        ),
        "the store's service again",
        240,
    )
    assert machine.show("hanse-store", "MainPID") != first
    shops.wait_until_online(SERVICE)


def test_services_end_when_they_are_told_to(shops):
    """Last: nothing runs in the machines afterwards."""
    for machine, unit in (
        (shops.store_machine, "hanse-store"),
        (shops.coordinator, "hanse-coordinator"),
    ):
        machine.systemctl("stop", f"{unit}-metrics", unit)
        for name in (unit, f"{unit}-metrics"):
            assert machine.show(name, "Result") == "success", machine.journal()
            assert machine.show(name, "ActiveState") == "inactive"
