"""The Makefile: what `make install` says while it works, and how it ends."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kits.packages import ROOT

PIP = """#!/bin/sh
for package in $(seq 60); do echo "Collecting package-$package"; done
echo "  Downloading torch-2.9.0-cp311-cp311-linux_x86_64.whl (899.8 MB)"
echo "  Downloading small-1.0-py3-none-any.whl (12.5 MB)"
echo "  Downloading tiny-1.0-py3-none-any.whl.metadata (899 kB)"
{end}
echo "Installing collected packages: torch, small, tiny"
echo "Successfully installed hanse-0.1.0 small-1.0 tiny-1.0 torch-2.9.0"
"""

# The tests themselves run under `make test`, whose level, flags and VENV a `make` of theirs
# would take over.
_WITHOUT_MAKE = {
    name: value
    for name, value in os.environ.items()
    if name not in {"MAKELEVEL", "MAKEFLAGS", "MFLAGS", "VENV", "PYTHON"}
}


@pytest.fixture
def make(tmp_path: Path):
    """`make` in a folder of its own, whose environment has a pip of these last words."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "release").mkdir()
    shutil.copy(ROOT / "release" / "machine.sh", tmp_path / "release")
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()

    def run(*targets: str, end: str = ":") -> subprocess.CompletedProcess[str]:
        programs = tmp_path / ".venv" / "bin"
        programs.mkdir(parents=True, exist_ok=True)
        for name, text in (("python", "#!/bin/sh\n"), ("pip", PIP.format(end=end))):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        return subprocess.run(
            ["make", *targets],
            cwd=tmp_path,
            env=_WITHOUT_MAKE,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def test_install_says_what_it_does_how_long_it_takes_and_how_far_it_is(make, tmp_path: Path):
    done = make("install")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "CUDA" not in line]  # not on each machine
    assert lines == [
        "Setting up .venv, about 2 GB: two to four minutes, longer on a slow line",
        "  25 packages looked up",
        "  50 packages looked up",
        "  Downloading torch-2.9.0-cp311-cp311-linux_x86_64.whl (899.8 MB)",
        "  installing 3 packages",
        "  installed",
    ]
    assert (tmp_path / ".venv" / ".installed").exists()
    assert "Setting up" not in make("install").stdout


def test_an_install_that_fails_fails_and_is_tried_again(make, tmp_path: Path):
    done = make("install", end="echo 'ERROR: no such package' >&2; exit 3")
    assert done.returncode != 0
    assert "ERROR: no such package" in done.stderr
    assert not (tmp_path / ".venv" / ".installed").exists()
    assert make("install").returncode == 0


def test_each_target_runs_what_it_is_for(make, tmp_path: Path):
    """Programs of these names write down how they were called, and do nothing."""
    make("install")
    programs = tmp_path / ".venv" / "bin"
    for name in ("hanse", "pytest", "ruff", "mypy", "lint-imports"):
        (programs / name).write_text('#!/bin/sh\necho "ran $(basename $0) $*"\n')
        (programs / name).chmod(0o755)

    def ran(target: str) -> list[str]:
        done = make(target)
        assert done.returncode == 0, done.stderr
        return re.findall(r"^ran (.*)$", done.stdout, re.MULTILINE)

    assert ran("demo") == ["hanse simulate grocery"]
    assert ran("test") == ["pytest -n 2 -m not slow"]
    assert ran("test-all") == [*ran("test"), "pytest -n 2 --dist loadfile -m slow"]
    assert [line.split()[0] for line in ran("check")] == [
        *("ruff", "ruff", "mypy", "lint-imports", "pytest")
    ]
    assert [line.split()[2] for line in ran("bench")] == [
        *("engines", "secagg", "clipping", "preparing", "deployment")
    ]
    assert {line for line in make("help").stdout.splitlines() if "make bench" in line}


@pytest.mark.parametrize("builder", ["buildah", "docker"])
def test_images_are_built_by_what_is_there(tmp_path: Path, builder: str):
    """Buildah where it is installed, and Docker elsewhere; only their words are looked at."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "release").mkdir()
    (tmp_path / "release" / "version.py").write_text('NEXT = "4.5.6"\n')
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("sh", "sed", "make"):
        (programs / name).symlink_to(str(shutil.which(name)))
    (programs / builder).write_text(f'#!/bin/sh\necho "ran {builder} $*"\n')
    (programs / builder).chmod(0o755)

    def built(*words: str) -> list[str]:
        done = subprocess.run(
            ["make", *words],
            cwd=tmp_path,
            env=_WITHOUT_MAKE | {"PATH": str(programs)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return re.findall(r"^ran (.*)$", done.stdout, re.MULTILINE)

    begin = {"buildah": "buildah bud --isolation chroot --format docker", "docker": "docker build"}
    assert built("images") == [
        f"{begin[builder]} --file deploy/docker/{part}.Dockerfile --tag hanse-{part}:4.5.6 ."
        for part in ("coordinator", "store")
    ]
    base, volume = "--build-arg PYTHON=base:1", "--volume /etc/pip.conf:/etc/pip.conf:ro"
    (line,) = built("image-store", "BASE=base:1", f"IMAGE_ARGS={volume}")
    assert line.startswith(f"{begin[builder]} {base} {volume} --file deploy/docker/store")


MACHINE = {
    "python3": 'case "$2" in *sys.version*) echo 3.12;; *) {venv};; esac',
    "uname": 'case "$1" in -s) echo Linux;; *) echo x86_64;; esac',
    "df": 'echo head; echo "disk 1 1 {free} 1% /"',
}


@pytest.mark.parametrize(
    ("python", "venv", "free", "cpu", "status", "words"),
    [
        (None, "exit 0", 90, "", 1, "there is no python3; install Python 3.11, 3.12 or 3.13"),
        ("echo 3.9", "exit 0", 90, "", 1, "python3 is Python 3.9, and 3.11, 3.12 or 3.13"),
        ("exit 1", "exit 0", 90, "", 1, "python3 is Python none"),
        ("", "exit 1", 90, "", 1, "apt-get install python3.12-venv"),
        ("", "exit 0", 5, "", 1, "8 GB of disk are needed for torch with CUDA, and 5 GB are free"),
        ("", "exit 0", 1, "1", 1, "2 GB of disk are needed, and 1 GB are free"),
        ("", "exit 0", 5, "1", 0, "Setting up .venv, about 2 GB"),
        ("", "exit 0", 90, "", 0, "PyPI's torch brings CUDA: 3 GB more to download"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_installed(
    tmp_path: Path, python, venv, free, cpu, status, words
):
    """A folder of its own as PATH, with stand-ins for what the check asks."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("awk", "dirname"):
        (programs / name).symlink_to(str(shutil.which(name)))
    for name, text in MACHINE.items():
        if name == "python3" and python is None:
            continue
        text = text.replace("{venv}", venv).replace("{free}", str(free * 1048576))
        own = python if name == "python3" and python else text
        (programs / name).write_text(f"#!{shutil.which('sh')}\n{own}\n")
        (programs / name).chmod(0o755)
    done = subprocess.run(
        [str(shutil.which("sh")), str(ROOT / "release" / "machine.sh")],
        cwd=tmp_path,
        env={"PATH": str(programs), "CPU": cpu},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, words in done.stdout + done.stderr) == (status, True), done
    assert not (tmp_path / ".venv").exists()
    assert len(done.stderr.splitlines()) == (1 if status else 0)


def test_a_build_without_cuda_is_one_option(make, tmp_path: Path):
    pip = tmp_path / ".venv" / "bin" / "pip"
    make("help")
    pip.write_text('#!/bin/sh\necho "Successfully installed $*" >&2\n')
    done = subprocess.run(
        ["make", "install", "CPU=1"],
        cwd=tmp_path,
        env=_WITHOUT_MAKE,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "--extra-index-url https://download.pytorch.org/whl/cpu" in done.stderr
    assert "CUDA" not in done.stdout
