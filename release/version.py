"""The version of a build: that of the tag `vX.Y.Z` it is made from.

`NEXT` is the version that this tree becomes; the files in `deploy/` name it too. A build from a
commit with that tag has it, a build between two tags has `NEXT` with `.devN` for the N commits
since the last tag, and a build without Git or without any tag has `NEXT`. An archive of sources
keeps the version it was made with, in `PKG-INFO`.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

NEXT = "0.1.0"
_TAG = re.compile(r"v(\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?)-(\d+)-g[0-9a-f]+")


def version(root: Path | None = None) -> str:
    """Return the version of the tree in a folder; hatchling calls it without one.

    Raises:
        ValueError: The tree has a tag of another version than `NEXT`.
    """
    root = Path.cwd() if root is None else root
    written = root / "PKG-INFO"
    if written.exists():
        found = re.search(r"^Version: (\S+)$", written.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return found[1]
    described = _describe(root)
    if described is None:
        return NEXT
    tagged, commits = described
    if commits:
        return f"{NEXT}.dev{commits}"
    if tagged != NEXT:
        raise ValueError(
            f"this commit has the tag v{tagged}, and NEXT in release/version.py is {NEXT}"
        )
    return NEXT


def _describe(root: Path) -> tuple[str, int] | None:
    """The last tag of a version, and the number of commits since; None if there is none."""
    if not (root / ".git").exists():
        return None
    ask = ["git", "-C", str(root), "describe", "--tags", "--long", "--match", "v[0-9]*"]
    try:
        done = subprocess.run(ask, capture_output=True, text=True)
    except OSError:  # there is no git
        return None
    found = _TAG.fullmatch(done.stdout.strip())
    return (found[1], int(found[2])) if found else None
