"""What Hanse asks of the operating system when its modules are imported, and its locks."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hanse_common import locks
from kits.packages import ROOT

ONLY_POSIX = ("fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty")
IMPORT_ALL = f"""
import builtins, importlib, multiprocessing, pathlib, sys

root = pathlib.Path({str(ROOT)!r})
only_posix = {{*{ONLY_POSIX!r}, "multiprocessing.forkserver"}}
multiprocessing.get_all_start_methods = lambda: ["spawn"]
real = builtins.__import__

def guarded(name, globals=None, *more, **named):
    # Packages of others import what they need on this machine; ours must do without.
    if name in only_posix and (globals or {{}}).get("__name__", "").startswith("hanse_"):
        raise ModuleNotFoundError(f"no {{name}} here", name=name)
    return real(name, globals, *more, **named)

builtins.__import__ = guarded
failed, count = [], 0
for part in sys.argv[1:]:
    for path in sorted((root / part).rglob("*.py")):
        if path.name == "__main__.py":
            continue
        names = path.relative_to(root / part).with_suffix("").parts
        module = ".".join(names[:-1] if names[-1] == "__init__" else names)
        if not module:
            continue
        count += 1
        try:
            importlib.import_module(module)
        except Exception as error:
            failed.append(f"{{module}}: {{error!r}}")
print(count)
print(*failed, sep="\\n", file=sys.stderr)
"""


def imported(*parts: str) -> int:
    """Import every module of some folders without the POSIX modules; returns how many."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORT_ALL, *parts],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stderr.strip() == ""
    return int(done.stdout.split()[-1])


def test_every_module_of_both_sides_and_of_auditors_is_imported_without_posix():
    assert imported("common", "server") > 120


def test_every_module_of_stores_and_analysts_is_imported_without_posix():
    pytest.importorskip("torch")
    assert imported("client", "simulations") > 200


@pytest.mark.parametrize("folders_can_be_opened", [True, False])
def test_a_lock_on_a_folder_excludes_other_processes(tmp_path, monkeypatch, folders_can_be_opened):
    """On Windows a folder cannot be opened, and a file in it is locked."""
    monkeypatch.setattr(locks, "_FOLDERS_CAN_BE_OPENED", folders_can_be_opened)
    ask = (
        "import portalocker, pathlib, sys, os; from hanse_common import locks\n"
        f"locks._FOLDERS_CAN_BE_OPENED = {folders_can_be_opened}\n"
        "real = portalocker.lock\n"
        "portalocker.lock = lambda file, flags: real(file, flags | locks.LockFlags.NON_BLOCKING)\n"
        "with locks.locked(pathlib.Path(sys.argv[1])): print('got it')\n"
    )

    def another() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", ask, str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    with locks.locked(tmp_path):
        refused = another()
    assert refused.stdout == "" and "AlreadyLocked" in refused.stderr
    assert another().stdout == "got it\n"


def test_a_file_is_locked_by_one_and_seen_as_locked_by_all(tmp_path):
    path = tmp_path / "join.lock"
    assert not locks.is_locked(path)
    with path.open("w") as ours, path.open("a") as theirs:
        assert locks.lock_at_once(ours)
        assert not locks.lock_at_once(theirs)
        assert locks.is_locked(path)
    assert not locks.is_locked(path)
