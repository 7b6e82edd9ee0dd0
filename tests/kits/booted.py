"""A machine with systemd in it, booted by `systemd-nspawn` from the files of this one.

    with Machine("coordinator", folder, units) as machine:
        machine.systemctl("start", "hanse-coordinator")

Its root is this machine's under an overlay in memory, so that nothing needs to be installed and
nothing here is changed. The package is where deploy/README.md installs it, at `/opt/hanse`: the
checkout and its environment, bound read-only. It shares this machine's network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from kits.apps.deployment import end
from kits.contained import FOLDER
from kits.deployment import Done, succeed
from kits.packages import ROOT

_HANSE = """\
#!/bin/sh
export PYTHONPATH=/opt/hanse-src/common:/opt/hanse-src/client:/opt/hanse-src/server
export LD_LIBRARY_PATH=/opt/hanse-python/lib
exec /opt/hanse/bin/python -c 'from hanse_common.cli import main; main()' "$@"
"""
_BOOT = """\
set -eu
mount --make-rprivate /
mount --bind / "$1"
root=$1
shift
exec systemd-nspawn --quiet --directory="$root" --volatile=overlay "$@"
"""
BOOT_TIME = 120
"""Seconds; it takes three on an idle machine."""


_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where a system's own programs are; a user's path often lacks some."""


class CannotBoot(Exception):
    """This machine cannot boot another; says why."""


def check_that_machines_boot() -> None:
    """Raise `CannotBoot` if something is missing that can be seen without trying."""
    if shutil.which("systemd-nspawn") is None:
        raise CannotBoot("systemd-nspawn is not installed (Debian: systemd-container)")
    if not Path("/lib/systemd/systemd").exists():
        raise CannotBoot("systemd is not installed")
    if os.geteuid() != 0:
        raise CannotBoot("only root can boot a machine with systemd-nspawn")


def lay_out(folder: Path) -> None:
    """Make what is `/opt/hanse` in a machine: this environment, but for its packages.

    Services see no home directories, where this machine's Python may be, so that it is bound to
    another place too.
    """
    here = Path(sys.prefix) / "bin"
    programs = folder / "bin"
    programs.mkdir(parents=True)
    (folder / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)).mkdir(parents=True)
    (folder / "pyvenv.cfg").write_text("home = /opt/hanse-python/bin\n")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (programs / "python").symlink_to(f"/opt/hanse-python/bin/{version}")
    (programs / "hanse").write_text(_HANSE)
    # Flower's programs start one another by their names.
    for program in (*here.glob("flower-*"), *here.glob("flwr-*")):
        _, _, rest = program.read_text().partition("\n")
        (programs / program.name).write_text(f"#!/opt/hanse/bin/python\n{rest}")
    for program in programs.iterdir():
        if not program.is_symlink():
            program.chmod(0o755)


class Machine:
    """A booted machine.

    Args:
        name: Its host name.
        folder: Of this machine, to be its `/var/lib/hanse`.
        units: Text of each file of `/etc/systemd/system`.
        scratch: A new folder for what is needed here.

    Raises:
        CannotBoot: It did not come up.
    """

    def __init__(self, name: str, folder: Path, units: Mapping[str, str], scratch: Path) -> None:
        check_that_machines_boot()
        root, installed = scratch / "root", scratch / "installed"
        root.mkdir(parents=True)
        lay_out(installed)
        site = Path(sysconfig.get_path("purelib"))
        self._log_path = scratch / "console.log"
        self._log = self._log_path.open("wb")
        # Without a systemd outside there is no bus to register with and no unit to be put into.
        alone = [] if Path("/run/systemd/system").exists() else ["--register=no", "--keep-unit"]
        self.process = subprocess.Popen(
            [
                *("unshare", "--mount", "bash", "-c", _BOOT, "boot", str(root), *alone),
                *(f"--machine=hanse-{name}-{os.getpid()}", f"--bind={folder}:{FOLDER}"),
                *(f"--bind-ro={ROOT}:/opt/hanse-src", f"--bind-ro={installed}:/opt/hanse"),
                f"--bind-ro={site}:/opt/hanse/{site.relative_to(sys.prefix)}",
                f"--bind-ro={sys.base_prefix}:/opt/hanse-python",
                *("--boot", "systemd.unit=basic.target"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        try:
            self._wait_until_booted()
            for file, text in units.items():
                self._write(f"/etc/systemd/system/{file}", text)
            self._write(
                "/usr/lib/sysusers.d/hanse.conf",
                (ROOT / "deploy" / "systemd" / "hanse.sysusers.conf").read_text(),
            )
            succeed(self.run("systemd-sysusers"))
            succeed(self.run("chown", "--recursive", "hanse:hanse", FOLDER))
            self.systemctl("daemon-reload")
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def run(self, *command: str, timeout: float = 300, text: str | None = None) -> Done:
        """Run a command in it, as root."""
        (first,) = self._children()
        done = subprocess.run(
            ["nsenter", "--target", first, "--all", "env", _PATH, *command],
            capture_output=True,
            text=True,
            timeout=timeout,
            input=text or "",
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def run_as_user(self, *command: str, timeout: float = 300) -> Done:
        """Run a command of the package in it, as the services' user."""
        program, *words = command
        asked = ("runuser", "-u", "hanse", "--", f"/opt/hanse/bin/{program}", *words)
        return self.run(*asked, timeout=timeout)

    def systemctl(self, *words: str) -> Done:
        """Run `systemctl …` in it; if it fails, the error has the services' log."""
        done = self.run("systemctl", *words)
        if done.status != 0:
            done.err += self.journal()
        return succeed(done)

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.systemctl("show", unit, f"--property={name}", "--value").out.strip()

    def journal(self) -> str:
        """What its services have written."""
        return self.run("journalctl", "--no-pager", "--unit=hanse-*", "--output=cat").out

    def stop(self) -> None:
        """Shut it down."""
        end(self.process)
        self._log.close()

    def _children(self) -> list[str]:
        number = self.process.pid
        return Path(f"/proc/{number}/task/{number}/children").read_text().split()

    def _wait_until_booted(self) -> None:
        words = ("systemctl", "is-system-running", "--wait")
        deadline = time.monotonic() + BOOT_TIME
        while time.monotonic() < deadline and self.process.poll() is None:
            if self._children() and self.run(*words).out.strip() in ("running", "degraded"):
                return
            time.sleep(0.3)
        said = self._log_path.read_text(errors="replace").strip().splitlines()
        raise CannotBoot(f"systemd-nspawn does not boot here: {' / '.join(said[-3:])}")

    def _write(self, path: str, text: str) -> None:
        succeed(self.run("tee", path, text=text))
