"""A federation whose coordinator runs in a container or a booted machine, at `/var/lib/hanse`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kits.commands import QuickShops, edit
from kits.deployment import Done

FOLDER = "/var/lib/hanse"


class ContainedShops(QuickShops):
    """Stores as ever, and a coordinator that is another user's: see `run_there`."""

    def run_there(self, *command: str, timeout: float = 300) -> Done:
        """Run a command where the coordinator is, as its user."""
        raise NotImplementedError

    def take_terms(self, settings: Any, public: Path | None, *, model: Path, cache: Path) -> None:
        """Sign terms as `QuickShops` does, of a model that is named relative to the folder."""
        super().take_terms(settings, public, model=model, cache=cache)
        edit(self.folder.path / "federation.toml", {"model": f'"{model.name}"'})

    def try_server(self, *words: object, **options: Any) -> Done:
        """Run `hanse server …` where the coordinator is."""
        return self.run_there("hanse", "server", *map(str, words), "--folder", FOLDER, **options)

    def status(self) -> Any:
        """What `hanse server status` says there: its SuperLink's lock is not to be seen here."""
        return self.server("status", "--format", "json").json
