"""People who operate a federation by a page of the documentation, each at a desk of their own.

    walk = Walk(root, data)
    walk.run("hanse server init --folder /var/lib/hanse …", at="coordinator")

A line is run as it stands on the page, by a process of its own at a terminal of its own. It is
run from the desk of whoever types it, where the files lie that others have sent; a line that
names no folder is typed in the folder itself. `REPLACED` and `ADDED` are all that differs.
"""

from __future__ import annotations

import os
import pty
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from hanse_client.deployment import enrol
from hanse_client.deployment.folder import StoreFolder
from hanse_common.config import RunSettings
from hanse_common.identity import AuthorityKey
from hanse_common.paths import AUTHORITY_KEY_FILE
from hanse_server.deployment.admit import admit, open_request
from hanse_server.deployment.folder import FederationFolder
from kits.apps.deployment import Joined
from kits.commands import HERE, PROGRAM, Shops, ask, take_in_terms
from kits.company import Company
from kits.deployment import Done, free_ports, wait_for

COORDINATOR, AUTHORITY, STORE = "coordinator", "authority", "luebeck"
REPLACED = {
    "/var/lib/hanse": "the folder of whoever types the line, of whom there are several here",
    "hanse.example.org:9443": "this machine, and a port that is free",
    "NAME": "the name of the last run that finished",
    "PATH": "the store's folder, in which the line is typed",
    "luebeck": "the store that comes later, where the page has one store for all",
    "12": "the first round, since runs have two here",
}
"""The words of the page in whose place something else stands here, and what."""
ADDED = {
    "--bind": "only this machine connects",
    "--superlink-port": "several coordinators may be on this machine",
    "--port": "several pages may be on this machine",
    "--authority-key": "after the request, where a sentence names the command without its words",
}
"""The options that are added to lines of the page, and why."""


class Started(Joined):
    """A command that goes on until it is stopped, such as a node."""

    def __init__(self, words: list[str], *, cwd: Path, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self._log = (folder / "join.log").open("ab")
        self.process = subprocess.Popen(
            [*PROGRAM, *words],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            cwd=cwd,
            start_new_session=True,
        )


class Walk(Shops):
    """A coordinator, an authority and stores that are set up line by line.

    Args:
        root: A new folder for all of them.
        data: One folder a store, as `make_stores` leaves them, by the store's name.
        policy: What the stores' policies say other than by default.
    """

    settings: RunSettings
    """What is trained."""
    catalogue: Path
    encoder: str
    """A text encoder for the models of other tasks."""
    company: Company
    port: int
    """Where the last page answers that was started."""
    customers: set[str]
    """Of the store, before one is erased."""

    def __init__(self, root: Path, data: Mapping[str, Path], policy: Mapping[str, object]) -> None:
        self.at_stores = self.at_coordinator = HERE
        self.data, self.policy = data, policy
        self.folder = FederationFolder(root / "baltic" / "federation")
        self.stores, self.joined = {}, {}
        self.chapters = list[str]()
        self._desks, self._started = root / "desks", list[Started]()
        self.fleet, self.superlink = free_ports(2)
        self.names = {"hanse.example.org:9443": f"127.0.0.1:{self.fleet}"}

    def desk(self, party: str) -> Path:
        """Where somebody works, and finds what others have sent."""
        path = self._desks / party
        path.mkdir(parents=True, exist_ok=True)
        return path

    def home(self, party: str) -> Path:
        """Somebody's `/var/lib/hanse`."""
        if party == COORDINATOR:
            return self.folder.path
        if party in self.data:
            return self.folder.path.parent / "stores" / party
        home = self.desk(party) / "hanse"
        home.mkdir(exist_ok=True)
        return home

    def words(
        self, line: str, at: str, names: Mapping[str, str], adds: tuple[object, ...]
    ) -> list[str]:
        """A line's words after `hanse`, with what is put in place of some, and what is added."""
        # The folder last, whose own name may hold any of these.
        places = {**self.names, **names, "/var/lib/hanse": str(self.home(at))}
        assert places.keys() <= REPLACED.keys(), "say in REPLACED what stands there"
        found = []
        for word in shlex.split(line)[1:]:
            for name, place in places.items():
                word = word.replace(name, place)
            found.append(word)
        more = [str(word) for word in adds]
        options = {word for word in more if word.startswith("--")}
        assert options <= ADDED.keys(), "say in ADDED what is added"
        return [*found, *more]

    def run(
        self,
        line: str,
        *,
        at: str,
        names: Mapping[str, str] | None = None,
        adds: tuple[object, ...] = (),
        confirm: bool = False,
        timeout: float = 900,
    ) -> Done:
        """Run a line of the page to its end.

        Args:
            line: As it stands on the page.
            at: Who types it.
            names: What stands here for more of the page's names.
            adds: Words that it needs here besides.
            confirm: Answer a question with yes, as one does who has compared by phone.
            timeout: Seconds.
        """
        words = self.words(line, at, names or {}, adds)
        ours, theirs = pty.openpty()
        try:
            if confirm:
                os.write(ours, b"y\n")
            done = subprocess.run(
                [*PROGRAM, *words],
                stdin=theirs,
                capture_output=True,
                text=True,
                timeout=timeout,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                cwd=self._place(line, at),
            )
        finally:
            os.close(ours)
            os.close(theirs)
        return Done(done.returncode, done.stdout, done.stderr)

    def start(
        self,
        line: str,
        *,
        at: str,
        names: Mapping[str, str] | None = None,
        adds: tuple[object, ...] = (),
    ) -> Started:
        """Start a line of the page that goes on until it is stopped."""
        words = self.words(line, at, names or {}, adds)
        folder = self.desk(at) / "logs" / str(len(self._started))
        started = Started(words, cwd=self._place(line, at), folder=folder)
        self._started.append(started)
        return started

    def _place(self, line: str, at: str) -> Path:
        place = self.desk(at) if "--folder" in line else self.home(at)
        place.mkdir(parents=True, exist_ok=True)
        return place

    def send(self, path: Path, to: str, name: str = "") -> Path:
        """Lay a file or a folder on somebody's desk, in place of what lay there under its name."""
        target = self.desk(to) / (name or path.name)
        if path.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(path, target)
        else:
            shutil.copyfile(path, target)
        return target

    def send_terms(self, to: str) -> None:
        """Hand out what a store installs: manifest, settings and model."""
        for path in (self.folder.manifest, self.folder.settings, self.folder.path / "model"):
            self.send(path, to)

    @property
    def authority(self) -> AuthorityKey:
        """The authority's key, which is on its own desk alone."""
        return AuthorityKey.load(self.desk(AUTHORITY) / AUTHORITY_KEY_FILE)

    @contextmanager
    def key_at_hand(self, at: str) -> Iterator[None]:
        """Bring the authority's key to the coordinator's desk while a command is typed there."""
        if at != COORDINATOR or not (self.desk(AUTHORITY) / AUTHORITY_KEY_FILE).exists():
            yield
            return
        brought = self.desk(COORDINATOR) / AUTHORITY_KEY_FILE
        shutil.copy2(self.desk(AUTHORITY) / AUTHORITY_KEY_FILE, brought)
        try:
            yield
        finally:
            brought.unlink()

    def ask(self, name: str) -> Path:
        """Make another store's folder and request as its operator would; returns the request."""
        self.stores[name] = StoreFolder(self.home(name))
        return ask(self.folder, self.stores[name], name, self.data[name], self.policy)

    def admit(self, name: str, request: Path) -> None:
        """Admit another store, and install its certificate."""
        admit(self.folder, open_request(self.folder, request), self.authority)
        enrol.accept_certificate(self.stores[name], self.folder.certificate(name))

    def take_in(self, *names: str) -> None:
        """Let other stores stop, take in the coordinator's terms, and join again."""
        for name in names:
            if name in self.joined:
                self.joined[name].stop()
            take_in_terms(self.folder, self.stores[name], self.folder.path / "model")
            self.join(name)

    @property
    def run_name(self) -> str:
        """The last run's name."""
        return str(self.status()["run"]["name"])

    def wait_until_answers(
        self, started: Started, port: int, path: str, *, host: str = "127.0.0.1"
    ) -> None:
        """Wait until a command serves a page on this machine."""

        def answers() -> bool:
            assert started.process.poll() is None, started.said()
            try:
                with urlopen(f"http://{host}:{port}{path}", timeout=30) as answer:
                    return int(answer.status) == 200
            except OSError:
                return False

        wait_for(answers, f"port {port} in\n{started.said()}", 90)

    def close(self) -> None:
        """End every process."""
        super().close()
        for started in self._started:
            started.stop()
