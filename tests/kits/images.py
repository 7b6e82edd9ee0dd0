"""Containers of the images in `deploy/docker`: read-only, without root and without capabilities.

    with Container(PodmanWay("runc"), "coordinator", folder) as container:
        container.run("hanse", "server", "status", "--folder", FOLDER)

Podman runs them where one of its runtimes can start a container; elsewhere the image's files are
the root of a chroot in namespaces of its own, under the same restrictions. `make images` makes
the images.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Self

from kits.apps.deployment import end
from kits.contained import FOLDER
from kits.deployment import Done, wait_for
from kits.packages import PROJECT

USER = 10001
_ROOT = """\
set -eu
mount --make-rprivate /
mount --bind "$ROOT" "$ROOT"
mount -o remount,bind,ro "$ROOT"
mount --bind "$FOLDER" "$ROOT/var/lib/hanse"
mount -t proc proc "$ROOT/proc"
mount -t tmpfs -o mode=1777 tmpfs "$ROOT/tmp"
mount -t tmpfs -o mode=755 tmpfs "$ROOT/dev"
mkdir -m 1777 "$ROOT/dev/shm"
for device in null zero full random urandom; do
  touch "$ROOT/dev/$device"
  mount --bind "/dev/$device" "$ROOT/dev/$device"
done
exec chroot "$ROOT" "$@"
"""


def image_name(part: str) -> str:
    """What `make images` calls the image of a `coordinator` or a `store`."""
    return f"localhost/hanse-{part}:{PROJECT['version']}"


@cache
def settings_of(part: str) -> Any:
    """An image's settings in Docker's format, or None if it was not made here."""
    words = ["buildah", "inspect", "--type", "image", image_name(part)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    return json.loads(done.stdout)["Docker"]["config"] if done.returncode == 0 else None


class PodmanWay:
    """A container of Podman's, with one of its runtimes."""

    def __init__(self, runtime: str) -> None:
        self._podman = ("podman", "--runtime", runtime)
        self._name = f"hanse-{uuid.uuid4().hex[:12]}"

    def start(self, part: str, folder: Path, command: Sequence[str]) -> list[str]:
        """The words that start the container, in the foreground."""
        return [
            *(*self._podman, "run", "--rm", "--name", self._name, "--pull", "never"),
            *("--read-only", "--read-only-tmpfs=false", "--tmpfs", "/tmp"),
            *("--cap-drop", "all", "--security-opt", "no-new-privileges"),
            # Lower than any machine's: where root may not raise limits, the defaults fail.
            *("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=1024:1024"),
            *("--network", "host", "--http-proxy=false", "--no-healthcheck"),
            *("--volume", f"{folder}:{FOLDER}"),
            *(("--entrypoint", command[0]) if command else ()),
            *(image_name(part), *command[1:]),
        ]

    def run(self, process: int, command: Sequence[str]) -> list[str]:
        """The words that run a command in the container, which a process holds."""
        return [*self._podman, "exec", self._name, *command]

    def end(self, process: int) -> None:
        """Tell the container to end."""
        os.kill(process, signal.SIGTERM)  # Podman passes it on

    def remove(self) -> None:
        """Remove what a container that was killed leaves behind."""
        words = [*self._podman, "rm", "--force", "--volumes", "--time", "0", self._name]
        subprocess.run(words, capture_output=True, timeout=60)


class ChrootWay:
    """Namespaces made by `unshare`, with the image's files as a read-only root."""

    def __init__(self) -> None:
        self._container = ""
        self._settings: Any = None

    def start(self, part: str, folder: Path, command: Sequence[str]) -> list[str]:
        """The words that start the container, in the foreground."""
        self._settings = settings_of(part)
        self._container = _read("buildah", "from", "--pull-never", image_name(part))
        root = _read("buildah", "mount", self._container)
        asked = command or [*self._settings["Entrypoint"], *self._settings["Cmd"]]
        return [
            *("env", f"ROOT={root}", f"FOLDER={folder}"),
            *("unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child"),
            *("bash", "-c", _ROOT, "chroot", *self._as_user(asked)),
        ]

    def run(self, process: int, command: Sequence[str]) -> list[str]:
        """The words that run a command in the container, which a process holds."""
        first = self._first(process)
        if not first:
            return ["false"]  # it has not started yet
        spaces = ("--mount", "--pid", "--ipc", "--uts", "--root")
        return ["nsenter", "--target", first[0], *spaces, "--wd=/", *self._as_user(command)]

    def end(self, process: int) -> None:
        """Tell the container to end."""
        for first in self._first(process):  # `unshare` itself ignores the signal
            os.kill(int(first), signal.SIGTERM)

    def remove(self) -> None:
        """Remove what a container that was killed leaves behind."""
        if self._container:
            subprocess.run(["buildah", "rm", self._container], capture_output=True, timeout=60)

    def _first(self, process: int) -> list[str]:
        """The container's first process, if it has started."""
        return Path(f"/proc/{process}/task/{process}/children").read_text().split()

    def _as_user(self, command: Sequence[str]) -> list[str]:
        user, _, group = self._settings["User"].partition(":")
        return [
            *("setpriv", "--reuid", user, "--regid", group, "--clear-groups", "--no-new-privs"),
            *("--bounding-set=-all", "--inh-caps=-all"),
            *("env", "-i", f"--chdir={FOLDER}", f"HOME={FOLDER}", *self._settings["Env"], *command),
        ]


Way = PodmanWay | ChrootWay


class Container:
    """A container that runs the image's own command until it is stopped.

    Args:
        way: How it is started.
        part: Whose image.
        folder: The folder that is its `/var/lib/hanse`; its user must own it.
        command: What runs in place of the image's own command.
    """

    def __init__(self, way: Way, part: str, folder: Path, *command: str) -> None:
        self._way, self._log_path = way, folder.with_name(f"{folder.name}.log")
        self._log = self._log_path.open("ab")
        self.process = subprocess.Popen(
            way.start(part, folder, command),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

        wait_for(self._is_there, f"the container of {part}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def said(self) -> str:
        """What it has written so far."""
        return self._log_path.read_text(errors="replace")

    def run(self, *command: str, timeout: float = 300) -> Done:
        """Run a command in it, as its user."""
        assert self.process.poll() is None, self.said()
        done = subprocess.run(
            self._way.run(self.process.pid, command),
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def _is_there(self) -> bool:
        return self.run("true").status == 0

    def end(self) -> int:
        """Tell it to end; returns its status."""
        self._way.end(self.process.pid)
        return self.process.wait(60)

    def stop(self) -> None:
        """End it, whatever it does, and remove it."""
        end(self.process)
        self._way.remove()
        self._log.close()


def run_once(way: Way, part: str, folder: Path, *command: str) -> Done:
    """Run one command in a container of its own."""
    words = way.start(part, folder, command)
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
        )
    finally:
        way.remove()
    return Done(done.returncode, done.stdout, done.stderr)


@cache
def ways() -> dict[str, type[Way] | Any]:
    """The ways to start a container that work here, the best first, each tried on an image."""
    podman = {f"podman with {name}": lambda name=name: PodmanWay(name) for name in _runtimes()}
    part = next(part for part in ("coordinator", "store") if settings_of(part))
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, USER, USER)
        return {
            name: way
            for name, way in {**podman, "unshare and chroot": ChrootWay}.items()
            if run_once(way(), part, Path(folder), "true").status == 0
        }


def _runtimes() -> list[str]:
    return [name for name in ("crun", "runc") if shutil.which(name) and shutil.which("podman")]


def why_not(part: str) -> str | None:
    """Why an image cannot be run here; None if it can."""
    if shutil.which("buildah") is None:
        return "buildah is not installed"
    if os.geteuid() != 0:
        return "only root can mount an image"
    if settings_of(part) is None:
        return f"there is no image {image_name(part)}; `make images` makes it"
    if not ways():
        return "neither podman nor unshare can start a container here"
    return None


def _read(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
