"""What each extra of Hanse installs, by the metadata of what is installed here."""

from __future__ import annotations

import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from release.version import NEXT

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"] | {"version": NEXT}
PARTS = ("client", "server", "audit", "postgres", "metrics", "explain", "simulate", "trackers")
"""The extras that are for use, not for development."""


def extras(*names: str) -> list[str]:
    """The requirements of the project with some of its extras."""
    asked = list(PROJECT["dependencies"])
    for name in names:
        for text in PROJECT["optional-dependencies"][name]:
            own = Requirement(text)
            asked += extras(*own.extras) if own.name == PROJECT["name"] else [text]
    return asked


def closure(asked: list[str]) -> dict[str, set[str]]:
    """All packages that these need on this machine's platform, each with those it needs itself.

    What an accelerator would need is left out: torch has a build without.

    Raises:
        PackageNotFoundError: One of them is not installed here.
    """
    waiting, seen = [Requirement(text) for text in asked], set()
    needs: dict[str, set[str]] = {}
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        key = (name, frozenset(wanted.extras))
        if key in seen or _is_for_accelerators(name):
            continue
        seen.add(key)
        own = needs.setdefault(name, set())
        for text in distribution(wanted.name).requires or []:
            more = Requirement(text)
            chosen = wanted.extras or {""}
            if more.marker is None or any(more.marker.evaluate({"extra": e}) for e in chosen):
                waiting.append(more)
                if not _is_for_accelerators(canonicalize_name(more.name)):
                    own.add(canonicalize_name(more.name))
    return needs


def _is_for_accelerators(name: str) -> bool:
    return name.startswith(("nvidia-", "cuda-", "triton"))
