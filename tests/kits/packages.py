"""What a set of requirements installs, by the metadata of what is installed here."""

from __future__ import annotations

from pathlib import Path

from release import packages
from release.packages import PROJECT, ROOT, extras

__all__ = ["PROJECT", "ROOT", "closure", "extras", "install_task"]


def closure(asked: list[str]) -> set[str]:
    """Names of all packages that these need, as far as this machine's platform needs them."""
    return set(packages.closure(asked))


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
