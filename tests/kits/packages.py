"""What a set of requirements installs, by the metadata of what is installed here."""

from __future__ import annotations

import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def extras(*names: str) -> list[str]:
    """The requirements of the project with some of its extras."""
    asked = list(PROJECT["dependencies"])
    for name in names:
        for text in PROJECT["optional-dependencies"][name]:
            own = Requirement(text)
            asked += extras(*own.extras) if own.name == PROJECT["name"] else [text]
    return asked


def closure(asked: list[str]) -> set[str]:
    """Names of all packages that these need, as far as this machine's platform needs them.

    What an accelerator would need is left out: torch has a build without.
    """
    waiting, seen = [Requirement(text) for text in asked], set()
    while waiting:
        wanted = waiting.pop()
        key = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if key in seen or wanted.name.startswith(("nvidia-", "cuda-", "triton")):
            continue
        seen.add(key)
        for text in distribution(wanted.name).requires or []:
            more = Requirement(text)
            chosen = wanted.extras or {""}
            if more.marker is None or any(more.marker.evaluate({"extra": e}) for e in chosen):
                waiting.append(more)
    return {name for name, _ in seen}


def install_task(place: Path, name: str, task: str) -> Path:
    """Write the metadata of a package that brings a task; returns what goes on the import path.

    Args:
        place: A new folder.
        name: Of the task.
        task: Where it is: `module:class`.
    """
    metadata = place / f"{name}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[hanse.tasks]\n{name} = {task}\n")
    return place
