"""Other versions of the product's own source tree, for processes that run them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("common", "client", "server", "simulations")


def environment(tree: Path) -> dict[str, str]:
    """The variables with which a Python process imports the packages of a tree."""
    return {"PYTHONPATH": os.pathsep.join(str(tree / name) for name in PACKAGES)}


def tree_at(commit: str, folder: Path) -> Path:
    """Write the packages as they were at a commit; skip the test where that is not known here."""
    git = shutil.which("git")
    if git is None:
        pytest.skip("git is not installed")
    archive = subprocess.run(
        [git, "-C", str(ROOT), "archive", "--format=tar", commit, *PACKAGES], capture_output=True
    )
    if archive.returncode:
        pytest.skip(f"commit {commit} is not in this checkout: a shallow clone, or no repository")
    folder.mkdir(parents=True)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


def tree_with_protocol(version: int, folder: Path) -> Path:
    """Copy this tree's packages, with another version of the protocol."""
    for name in PACKAGES[:2]:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    terms = folder / "common" / "hanse_common" / "secagg" / "terms.py"
    text, found = re.subn(r"(?m)^VERSION = \d+$", f"VERSION = {version}", terms.read_text())
    assert found == 1
    terms.write_text(text)
    return folder
