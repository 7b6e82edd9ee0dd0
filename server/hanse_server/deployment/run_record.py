"""What a run's folder says of its processes: Flower's ids, and whether the run is to go on.

Each start and each resumption of a run is a run of its own for Flower. `up` reads the record to
decide whether a run whose process ended goes on by itself (`recovery.py`).

>>> from tempfile import TemporaryDirectory
>>> with TemporaryDirectory() as folder:
...     RunRecord(runs=(7,), stopped=False).write(Path(folder))
...     RunRecord.read(Path(folder)).runs
(7,)
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hanse_common.durable import write_durably
from hanse_common.paths import FLOWER_RUNS_FILE


class RunRecord(BaseModel):
    """`flower.json` in a run's folder."""

    model_config = ConfigDict(frozen=True, strict=True)

    runs: tuple[int, ...] = Field(default=(), strict=False)
    """Flower's ids, the last one for the current process."""
    stores: int | None = None
    """How many stores it waits for at its beginning; all if unset."""
    stopped: bool | None = None
    """Whether the operator stopped it. Unset in runs of versions that did not go on by
    themselves."""
    tried_at: int = -1
    """The round from which it last went on by itself."""
    tries: int = 0
    """How often it went on by itself from that round."""

    @classmethod
    def read(cls, run_dir: Path) -> Self:
        """Read a run's record; an empty one if it is missing or damaged."""
        try:
            return cls.model_validate_json((run_dir / FLOWER_RUNS_FILE).read_bytes())
        except (OSError, ValidationError):
            return cls()

    def write(self, run_dir: Path) -> None:
        """Replace a run's record.

        Raises:
            OSError: The folder cannot be written.
        """
        write_durably(run_dir / FLOWER_RUNS_FILE, self.model_dump_json() + "\n")

    @property
    def may_go_on(self) -> bool:
        """Whether the run may go on by itself if it has not finished: nobody stopped it."""
        return self.stopped is False

    def changed(self, **fields: object) -> Self:
        """The same record with other fields."""
        return self.model_copy(update=fields)

    def tries_from(self, round_: int) -> int:
        """How often the run went on by itself without getting beyond a round."""
        return self.tries if self.tried_at == round_ else 0
