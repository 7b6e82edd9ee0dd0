"""Reads the ends of ledgers and round logs from the JSON of an earlier audit."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hanse_common.decoding import decoding, json_object
from hanse_common.errors import ConfigError
from hanse_common.privacy.ledger_file import Head
from hanse_common.roundlog.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True, slots=True)
class Remembered:
    """Heads by store, and checkpoints of round logs, without signatures.

    The auditor's own file is trusted, so that no signature is needed.
    """

    heads: dict[str, Head] = field(default_factory=dict)
    checkpoints: tuple[Checkpoint, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Remembered:
        """Read what `hanse audit verify --format json` printed.

        Raises:
            ConfigError: The file is something else.
        """
        hint = "keep what `hanse audit verify PATH --format json` printed"
        with decoding(f"the earlier audit {path}", ConfigError, hint=hint):
            table = json_object(path.read_bytes())
            heads = {
                row["store"]: Head(int(row["head"]["sequence"]), bytes.fromhex(row["head"]["hash"]))
                for row in table["stores"]
            }
            logs = (row["checkpoint"] for row in table["logs"])
            return cls(heads=heads, checkpoints=tuple(_checkpoint(row) for row in logs if row))


def _checkpoint(row: Any) -> Checkpoint:
    return Checkpoint(
        log_key=bytes.fromhex(row["log_key"]),
        size=int(row["size"]),
        root=bytes.fromhex(row["root"]),
    )
