"""The images run: read-only, without root, and the coordinator's trains with three stores.

`make images` makes them; an image that is not there skips its tests.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from hanse_server.stage_log import read_stages
from kits.commands import joined_shops
from kits.contained import FOLDER, ContainedShops
from kits.deployment import Done, succeed
from kits.images import USER, Container, run_once, settings_of, ways, why_not

pytestmark = pytest.mark.slow

ROUNDS = 2
STORES = 3
WAIT = {"connect": 480, "train": 300, "stage": 120}


def need(part: str) -> None:
    if reason := why_not(part):
        pytest.skip(reason)


def give(folder: Path) -> None:
    """Make a folder and what is in it the property of the images' user."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, USER, USER, follow_symlinks=False)


class ImageShops(ContainedShops):
    """A coordinator in a container of its image, and stores from the checkout."""

    container: Container | None = None

    def run_there(self, *command: str, timeout: float = 300) -> Done:
        assert self.container is not None
        return self.container.run(*command, timeout=timeout)

    def up(self, **environment: str) -> None:
        give(self.folder.path)
        way = next(iter(ways().values()))
        self.container = Container(way(), "coordinator", self.folder.path)

    def close(self) -> None:
        for node in self.joined.values():
            node.stop()
        if self.container is not None:
            if self.container.process.poll() is None:
                self.container.end()
            self.container.stop()


@pytest.fixture(scope="module")
def shops(secure_stores, store_cache, tmp_path_factory):
    need("coordinator")
    settings = secure_stores[0].with_changes(
        {
            "federation.rounds": ROUNDS,
            "federation.evaluate_every": ROUNDS,
            "federation.minimum_cohort": STORES,
            "privacy.noise_multiplier": 20.0,
        }
    )
    root = tmp_path_factory.mktemp("image")
    how = {"wait": WAIT, "count": STORES, "quick": ImageShops}
    with joined_shops(root, settings, store_cache, **how) as shops:
        yield shops


@pytest.mark.parametrize("part", ["coordinator", "store"])
def test_an_image_has_no_root_no_capabilities_and_writes_to_its_folder_alone(part, tmp_path):
    need(part)
    group = "server" if part == "coordinator" else "store"
    name = ("--name", "baltic", "--address", "127.0.0.1:9443") if group == "server" else ("riga",)
    script = f"""
        id --user
        grep -E '^(CapEff|CapBnd|NoNewPrivs):' /proc/self/status | cut -f 2
        for place in / /opt/hanse /etc /usr/bin /var; do
          if touch $place/file 2>/dev/null; then echo "$place can be written"; fi
        done
        touch /tmp/file
        hanse {group} init {shlex.join(name)} --folder {FOLDER} >&2
    """
    for number, way in enumerate(ways().values()):
        folder = tmp_path / f"folder-{number}"
        folder.mkdir(mode=0o700)
        give(folder)
        done = succeed(run_once(way(), part, folder, "sh", "-ec", script))
        assert done.out.split() == [str(USER), "0" * 16, "0" * 16, "1"]
        made = [path for path in folder.rglob("*") if path.is_file()]
        assert made and {path.stat().st_uid for path in made} == {USER}


def test_the_coordinators_image_trains(shops):
    done = shops.server("run", "--name", "contained", "--format", "json", timeout=500).json
    assert (done["state"], done["round"]) == ("finished", ROUNDS), done
    lines = [line for line in read_stages(shops.run_dir("contained")) if line["stage"] == "train"]
    assert [line["replies"] for line in lines] == [STORES] * ROUNDS
    assert shops.audit()["ok"]


def test_the_coordinators_image_says_that_it_is_healthy(shops):
    kind, *command = settings_of("coordinator")["Healthcheck"]["Test"]
    assert kind == "CMD"
    succeed(shops.container.run(*command))


def test_the_coordinators_image_ends_when_it_is_told_to(shops):
    """Last: the container has no process afterwards."""
    assert shops.container.end() == 0
    assert "Traceback" not in shops.container.said()
