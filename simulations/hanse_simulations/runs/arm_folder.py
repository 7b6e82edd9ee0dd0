"""The folder of one arm of a run: what the server and the stores append to as they work."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote, unquote

from hanse_common.paths import ROUNDS_FILE, STORE_LOG_FILE, STORES_FOLDER


def store_folder_name(store: str) -> str:
    """Return a store's name as one safe component of a path; ordinary names stay as they are."""
    name = quote(store, safe=" ()+,&=@")
    return name.replace(".", "%2E") if not name.strip(".") else name


class ArmFolder:
    """What one arm writes while it runs: the server's rounds and each store's own log."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    @property
    def rounds_file(self) -> Path:
        """One JSON line per stage of a round, written by the server."""
        return self.path / ROUNDS_FILE

    @property
    def stores_dir(self) -> Path:
        """One sub-folder per store."""
        return self.path / STORES_FOLDER

    def store_log(self, store: str) -> Path:
        """Return the log of one store: one JSON line per training step."""
        return self.stores_dir / store_folder_name(store) / STORE_LOG_FILE

    def store_logs(self) -> dict[str, Path]:
        """Return the logs that exist by now, by store."""
        try:
            folders = sorted(entry.name for entry in self.stores_dir.iterdir())
        except OSError:
            return {}
        return {unquote(name): self.stores_dir / name / STORE_LOG_FILE for name in folders}
