"""A real PostgreSQL server on loopback, with a data folder of its own, for one test module.

`initdb` and `postgres` refuse to run as root: there they run as the user that Debian's package
makes. The folder lies beside pytest's own, which only its owner may enter.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

USER = "shop"
_OWNER = "postgres"


@dataclass(frozen=True, kw_only=True)
class Server:
    binaries: Path
    data: Path
    port: int
    password: str

    def url(self, *, password: str | None = None, options: str = "") -> str:
        secret = self.password if password is None else password
        return f"postgresql://{USER}:{secret}@127.0.0.1:{self.port}/postgres{options}"

    def connect(self):
        import psycopg

        return psycopg.connect(
            host="127.0.0.1", port=self.port, user=USER, password=self.password, dbname="postgres"
        )

    def stop(self) -> None:
        """At once, as if the machine had failed: clients lose their connections."""
        _run(self.binaries / "pg_ctl", "-D", self.data, "-m", "immediate", "-w", "stop")


def find_binaries() -> Path | None:
    """The newest server that is installed, as Debian lays them out, or the one on the PATH."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3])
    )
    if found:
        return found[-1].parent
    there = shutil.which("initdb")
    return Path(there).resolve().parent if there else None


def why_not() -> str:
    """Why no server can be started here; empty if one can."""
    if find_binaries() is None:
        return "PostgreSQL's server is not installed (apt-get install postgresql)"
    if os.geteuid() == 0 and shutil.which("runuser") is None:
        return "PostgreSQL does not run as root, and runuser is not installed"
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "the driver is not installed (pip install 'hanse[postgres]')"
    return ""


@contextmanager
def running_server() -> Iterator[Server]:
    """Start a server on a free port with a password that only the caller knows."""
    binaries = find_binaries()
    assert binaries is not None
    folder = Path(tempfile.mkdtemp(prefix="hanse-postgres-"))
    password, data, port = secrets.token_urlsafe(24), folder / "data", _free_port()
    secret = folder / "password"
    secret.touch(mode=0o600)
    secret.write_text(password)
    if os.geteuid() == 0:
        for path in (folder, secret):
            shutil.chown(path, _OWNER)
    server = Server(binaries=binaries, data=data, port=port, password=password)
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    try:
        _run(
            *(binaries / "initdb", "-D", data, "-U", USER, f"--pwfile={secret}"),
            *("--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync"),
        )
        _run(
            *(binaries / "pg_ctl", "-D", data, "-l", folder / "log", "-w", "-t", "110"),
            *("-o", options, "start"),
        )
        yield server
    finally:
        if (data / "postmaster.pid").exists():
            server.stop()
        shutil.rmtree(folder)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _run(*command: object) -> None:
    as_owner = ["runuser", "-u", _OWNER, "--"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*as_owner, *map(str, command)],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
    )
    assert done.returncode == 0, done.stderr
