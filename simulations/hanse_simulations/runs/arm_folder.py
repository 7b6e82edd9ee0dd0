"""The folder of one arm of a run, with the logs of the server and the stores."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote, unquote

from hanse_common.paths import ROUNDS_FILE, STORE_LOG_FILE, STORES_FOLDER


def store_folder_name(store: str) -> str:
    """Encode a store's name as one safe component of a path; ordinary names do not change."""
    name = quote(store, safe=" ()+,&=@")
    # A name of dots alone could mean this folder or the one above.
    return name.replace(".", "%2E") if not name.strip(".") else name


class ArmFolder:
    """Paths of one arm's files: the server's log of rounds and each store's own log."""

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
        """Return the logs' paths by store, for the stores that have a folder by now."""
        try:
            folders = sorted(entry.name for entry in self.stores_dir.iterdir())
        except OSError:
            return {}
        return {unquote(name): self.stores_dir / name / STORE_LOG_FILE for name in folders}
