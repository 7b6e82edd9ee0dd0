"""A whole federation made by nothing but the commands that its operators type.

    shops = Shops(root, settings, data)       # hanse server init … admit, hanse store init … enrol
    shops.up(); shops.join("luebeck")
    shops.server("run")

Every command is a process of its own, and so is every node. Only what a person would fill in,
or carry from one machine to another, is done by hand.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hanse_client.deployment import enrol
from hanse_client.deployment.folder import StoreFolder, create
from hanse_client.model.base_model import make_base_model
from hanse_common.admission import Invitation
from hanse_common.identity import AuthorityKey, fingerprint
from hanse_common.wording import json_text
from hanse_server.deployment.admit import admit, open_request
from hanse_server.deployment.folder import FederationFolder
from hanse_server.deployment.init import init_federation
from hanse_server.deployment.sign import sign_manifest
from hanse_server.deployment.status import read_status
from hanse_server.stage_log import read_progress
from kits.apps.deployment import Joined, fill_in
from kits.deployment import Done, as_toml, free_ports, succeed, wait_for

NAMES = ("bremen", "danzig", "luebeck", "riga", "rostock", *(f"store-{n}" for n in range(6, 41)))
PROGRAM = (sys.executable, "-c", "from hanse_common.cli import main; main()")
"""`hanse`, also where the command was not installed anew since it is there."""


def hanse(
    *words: object, timeout: float = 300, prefix: Sequence[str] = (), **environment: str
) -> Done:
    """Run `hanse …` as a process, behind the words of a program that runs another."""
    done = subprocess.run(
        [*prefix, *PROGRAM, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdin=subprocess.DEVNULL,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where processes run.

    Args:
        prefix: Words before each command.
        environment: Variables of each command.
        address: The address at which others reach them.
    """

    prefix: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    address: str = "127.0.0.1"


HERE = Place()


class Shops:
    """A coordinator and its stores: admitted, under signed terms, with prepared histories.

    Args:
        root: Folder for all of them.
        settings: Of the runs.
        data: One folder a store, as `make_stores` leaves them.
        wait: The coordinator's `[wait]`.
        policy: What the stores' policies say other than by default.
        seeds: Make each store's sampling and noise repeatable, as only a test may.
        at_stores, at_coordinator: Where their commands and nodes run.
    """

    def __init__(
        self,
        root: Path,
        settings: Any,
        data: list[Path],
        *,
        wait: Mapping[str, float],
        policy: Mapping[str, float],
        seeds: bool = False,
        at_stores: Place = HERE,
        at_coordinator: Place = HERE,
    ) -> None:
        self.at_stores, self.at_coordinator = at_stores, at_coordinator
        self.folder = FederationFolder(root / "federation")
        self.stores: dict[str, StoreFolder] = {}
        self.joined: dict[str, Joined] = {}
        fleet, superlink = free_ports(2)
        self.server(
            *("init", "--name", "baltic", "--address", f"{at_coordinator.address}:{fleet}"),
            *("--bind", at_coordinator.address, "--superlink-port", superlink),
        )
        at = self.folder.path
        edit(at / "federation.toml", wait)
        table = settings.model_dump(mode="json", exclude_none=True)
        (at / "settings.toml").write_text(as_toml(table))
        catalogue = data[0].parent / "catalogue.parquet"
        where = ("--settings", at / "settings.toml", "--output", at / "model")
        succeed(hanse("model", "init", catalogue, *where))
        for name, source in zip(NAMES, data, strict=False):
            self._ask(name, source, policy)
        self.server("manifest", "sign")
        for number, name in enumerate(self.stores):
            self._take(name)
            if seeds:
                self.edit_node(name, seed=1000 + number)

    def server(self, *words: object, **options: Any) -> Done:
        """Run `hanse server …` on the federation's folder; it must succeed."""
        return succeed(self.try_server(*words, **options))

    def try_server(self, *words: object, **options: Any) -> Done:
        """Run `hanse server …` on the federation's folder."""
        where = {"prefix": self.at_coordinator.prefix, **self.at_coordinator.environment}
        return hanse("server", *words, "--folder", self.folder.path, **(where | options))

    def store(self, name: str, *words: object) -> Done:
        """Run `hanse store …` on a store's folder; it must succeed."""
        return succeed(self.try_store(name, *words))

    def try_store(self, name: str, *words: object, **environment: str) -> Done:
        """Run `hanse store …` on a store's folder."""
        there = {**self.at_stores.environment, **environment}
        folder = self.stores[name].path
        return hanse("store", *words, "--folder", folder, prefix=self.at_stores.prefix, **there)

    def up(self, **environment: str) -> None:
        """Let stores connect."""
        self.server("up", "--detach", **environment)

    def join(self, name: str, **environment: str) -> Joined:
        """Start a store's node."""
        there = {**self.at_stores.environment, **environment}
        folder, prefix = self.stores[name].path, self.at_stores.prefix
        self.joined[name] = Joined(folder, environment=there, prefix=prefix)
        return self.joined[name]

    def join_and_die(self, name: str, where: str) -> Joined:
        """Start a node in place of a store's, to be killed; see `apps/dying_node.py`."""
        self.joined[name].stop()
        program = (str(Path(__file__).parent / "apps" / "dying_node.py"), where)
        self.joined[name] = Joined(self.stores[name].path, program=program)
        return self.joined[name]

    def join_with_clock(self, name: str, seconds: int) -> Joined:
        """Start a store's node whose clock is wrong by some seconds; see `wrong_clock.py`."""
        program = (str(Path(__file__).parent / "apps" / "wrong_clock.py"), str(seconds))
        self.joined[name] = Joined(self.stores[name].path, program=program)
        return self.joined[name]

    def wait_until_online(self, *names: str) -> None:
        """Wait until the coordinator sees these stores; all if unset."""
        wanted = set(names or self.stores)
        wait_for(lambda: wanted <= self.online(), f"{sorted(wanted)} online", 240)

    def online(self) -> set[str]:
        """The stores that the coordinator sees."""
        return {name for name, row in self.rows().items() if row["connection"] == "online"}

    def rows(self) -> dict[str, Any]:
        """What `hanse server status` says of each store."""
        return {row["store"]: row for row in self.status()["stores"]}

    def status(self) -> Any:
        """What `hanse server status --format json` says, read here: it is polled in waits."""
        if self.at_coordinator.prefix:  # its SuperLink cannot be reached from here
            return self.server("status", "--format", "json").json
        return json.loads(json_text(read_status(FederationFolder(self.folder.path)).row()))

    def run_dir(self, name: str) -> Path:
        """A run's folder."""
        return self.folder.run(name)

    def charges(self, name: str) -> list[Any]:
        """The charges in a store's ledger."""
        return [entry for entry in self.stores[name].node().ledger if entry.kind == "charge"]

    def refused(self, name: str) -> list[Any]:
        """The refusals in a store's ledger."""
        return [entry for entry in self.stores[name].node().ledger if entry.kind == "refusal"]

    def audit(self) -> Any:
        """What `hanse audit verify` says of the coordinator's and the stores' folders together."""
        root, authority = self.folder.path.parent, self.folder.authority_file
        words = ("audit", "verify", root, "--authority", authority, "--format", "json")
        return succeed(hanse(*words)).json

    def wait_for_round(self, run: str, number: int) -> None:
        """Wait until a round's training has begun."""

        def there() -> bool:
            found = read_progress(self.run_dir(run))
            return (found.get("round"), found.get("kind")) == (number, "train")

        wait_for(there, f"round {number} of {run}", 300)

    def wait_for_end(self, run: str) -> Any:
        """Wait until a run is no longer underway; returns its state as `status` prints it."""
        found: dict[str, Any] = {}

        def over() -> bool:
            found.update(self.status()["run"])
            assert found["name"] == run
            return bool(found["state"] != "underway")

        wait_for(over, f"the end of {run}", 500)
        return found

    def wait_for_state(self, run: str, state: str) -> Any:
        """Wait until a run is in a state, such as `finished`; returns what `status` says of it."""
        found: dict[str, Any] = {}

        def there() -> bool:
            found.update(self.status()["run"])
            assert found["name"] == run
            over = found["state"] in ("finished", "failed", "ended early", "stopped")
            assert found["state"] == state or not over, found
            return bool(found["state"] == state)

        wait_for(there, f"{run} is {state}", 500)
        return found

    def superlinks(self) -> list[int]:
        """The SuperLink's process."""
        return pids_of("hanse_server.deployment.superlink", self.folder.path)

    def edit_node(self, name: str, **changes: Any) -> None:
        """Change a store's node.json."""
        path = self.stores[name].path / "node.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    def edit_policy(self, name: str, **changes: object) -> None:
        """Change a store's policy.toml."""
        edit(self.stores[name].policy, changes)

    def close(self) -> None:
        """End every process."""
        for node in self.joined.values():
            node.stop()
        self.try_server("down")

    def _ask(self, name: str, data: Path, policy: Mapping[str, float]) -> None:
        store = StoreFolder(self.folder.path.parent / "stores" / name)
        self.stores[name] = store
        self.store(name, "init", name)
        fill_in(store, name, data)
        edit(store.policy, policy)
        invitation = json.loads(self.folder.invitation.read_text())
        heard = fingerprint(bytes.fromhex(invitation["authority"]))  # as read out by phone
        self.store(name, "enrol", "--invitation", self.folder.invitation, "--fingerprint", heard)
        told = self.store(name, "enrol", "--format", "json").json
        self.server("admit", told["request"], "--fingerprint", told["fingerprint"])

    def _take(self, name: str) -> None:
        at = self.folder
        self.store(
            name,
            *("enrol", "--certificate", at.certificate(name), "--manifest", at.manifest),
            *("--settings", at.settings, "--model", at.path / "model"),
        )
        if name == NAMES[0]:
            self.store(name, "data", "prepare")  # `join` does it for the others
        else:  # they sell the same: its texts' vectors are made once
            first = self.stores[NAMES[0]].path
            shutil.copytree(first / "texts", self.stores[name].path / "texts")


class QuickShops(Shops):
    """The same federation, set up in this process by what the commands call.

    Nodes, the SuperLink and runs are processes as before. A command costs its imports, which are
    most of the time where terms are changed often.

    Args:
        root: Folder for all of them.
        data: One folder a store, as `make_stores` leaves them.
        wait: The coordinator's `[wait]`.
        policy: What the stores' policies say other than by default.
        seeds: Make each store's sampling and noise repeatable, as only a test may.
    """

    def __init__(
        self,
        root: Path,
        data: list[Path],
        *,
        wait: Mapping[str, float],
        policy: Mapping[str, float],
        seeds: bool = False,
    ) -> None:
        self.at_stores = self.at_coordinator = HERE
        self._seeds = seeds
        self.folder, self.joined = FederationFolder(root / "federation"), {}
        fleet, superlink = free_ports(2)
        address = f"127.0.0.1:{fleet}"
        init_federation(
            self.folder,
            name="baltic",
            address=address,
            bind="127.0.0.1",
            superlink_port=superlink,
        )
        edit(self.folder.path / "federation.toml", wait)
        self._authority = AuthorityKey.load(self.folder.authority_key)
        self.stores = {}
        for name, source in zip(NAMES, data, strict=False):
            store = self.stores[name] = StoreFolder(root / "stores" / name)
            request = open_request(self.folder, ask(self.folder, store, name, source, policy))
            admit(self.folder, request, self._authority)
            enrol.accept_certificate(store, self.folder.certificate(name))

    def take_terms(self, settings: Any, public: Path | None, *, model: Path, cache: Path) -> None:
        """Make an initial model, sign its terms, and install both at every store.

        Args:
            settings: Of the runs.
            public: What `hanse model init` would read.
            model: The model's new folder.
            cache: Folder in which text vectors are cached.
        """
        path = self.folder.path / "settings.toml"
        path.write_text(as_toml(settings.model_dump(mode="json", exclude_none=True)))
        make_base_model(public, settings, folder=model, cache=cache)
        edit(self.folder.path / "federation.toml", {"model": json.dumps(str(model))})
        self.folder = FederationFolder(self.folder.path)  # which reads its file once
        sign_manifest(self.folder, self._authority)
        for number, (name, store) in enumerate(self.stores.items()):
            take_in_terms(self.folder, store, model)
            if self._seeds:
                self.edit_node(name, seed=1000 + number)


def ask(
    federation: FederationFolder,
    store: StoreFolder,
    name: str,
    data: Path,
    policy: Mapping[str, object],
) -> Path:
    """Make a store's folder in this process, and its request; returns the request's file."""
    create(store, name)
    fill_in(store, name, data)
    edit(store.policy, policy)
    enrol.accept_invitation(store, Invitation.load(federation.invitation))
    return enrol.write_request(store)


def take_in_terms(federation: FederationFolder, store: StoreFolder, model: Path) -> None:
    """Install the coordinator's terms, settings and model at a store, in this process."""
    enrol.accept_manifest(store, federation.manifest)
    enrol.accept_settings(store, federation.settings)
    enrol.accept_model(store, model)


@contextmanager
def joined_shops(
    root: Path,
    settings: Any,
    cache: Path,
    *,
    wait: Mapping[str, float],
    count: int = 5,
    at_stores: Place = HERE,
    at_coordinator: Place = HERE,
    quick: type[QuickShops] | None = None,
    join: Callable[[QuickShops], None] | None = None,
) -> Iterator[Shops]:
    """Small stores that are joined, each with repeatable noise; ends every process.

    Args:
        root, settings, wait, at_stores, at_coordinator: See `Shops`.
        cache: Folder of the stores' data.
        count: How many of the stores there are.
        quick: Set them up in this process by this class; see `QuickShops`.
        join: Start the nodes of such stores in another way than by a command for each.
    """
    from hanse_simulations.datasets import make_stores

    made = make_stores(settings.data, seed=settings.seed, cache=cache)
    settings = settings.with_changes({"data.split": made.split.model_dump()})
    policy = {"minimum_cohort": min(4, count), "max_epsilon": 60.0}
    data = made.folders[:count]
    shops: Shops
    if quick:
        shops = quickly = quick(root, data, wait=wait, policy=policy, seeds=True)
        catalogue, model = data[0].parent / "catalogue.parquet", root / "federation" / "model"
        quickly.take_terms(settings, catalogue, model=model, cache=root / "texts")
    else:
        shops = Shops(
            root,
            settings,
            data,
            wait=wait,
            policy=policy,
            seeds=True,
            at_stores=at_stores,
            at_coordinator=at_coordinator,
        )
    try:
        if quick:  # they sell the same: its texts' vectors are made once
            for store in shops.stores.values():
                shutil.copytree(root / "texts", store.path / "texts")
        shops.up()
        if quick and join:
            join(quickly)
        else:
            for name in shops.stores:
                shops.join(name)
        shops.wait_until_online()
        yield shops
    finally:
        shops.close()


def edit(path: Path, changes: Mapping[str, object]) -> None:
    """Give keys of a TOML file that somebody filled in other values."""
    text = path.read_text()
    for key, value in changes.items():
        text, found = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", text)
        assert found == 1, f"{key} is there {found} times in {path}"
    path.write_text(text)


def pids_of(program: str, folder: Path) -> list[int]:
    """Processes of a program that work for a folder: its name is in their command or environment.

    Only those of a test's own folder are found, never another's.
    """
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            environment = (path / "environ").read_bytes()
        except OSError:  # gone, or not ours
            continue
        named = any(Path(os.fsdecode(word)).name == program for word in words)
        if named and os.fsencode(str(folder)) in environment:
            found.append(int(path.name))
    return found


def kill(pid: int) -> None:
    """End a process at once, as a machine that loses its power does."""
    os.kill(pid, signal.SIGKILL)
