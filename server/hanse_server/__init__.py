"""The coordinator: rounds, aggregation, checkpoints. It never sees data and needs no torch.

>>> from hanse_server import SecureGrid
>>> SecureGrid.exchange.__name__
'exchange'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hanse_common._lazy import lazy_exports

if TYPE_CHECKING:
    from hanse_server.app import main
    from hanse_server.blame import Blame
    from hanse_server.checkpoint import RunCheckpoint, latest_checkpoint, read_arrays, write_arrays
    from hanse_server.deployment.folder import FederationFolder
    from hanse_server.roundlog import RoundLog
    from hanse_server.rounds import run_rounds
    from hanse_server.secure_grid import SecureGrid
    from hanse_server.stage_log import ExchangeResult, StageLog, StageOutcome, read_stages
    from hanse_server.store_grid import StoreGrid
    from hanse_server.strategies import make_strategy

__all__ = [
    "Blame",
    "ExchangeResult",
    "FederationFolder",
    "RoundLog",
    "RunCheckpoint",
    "SecureGrid",
    "StageLog",
    "StageOutcome",
    "StoreGrid",
    "latest_checkpoint",
    "main",
    "make_strategy",
    "read_arrays",
    "read_stages",
    "run_rounds",
    "write_arrays",
]

_EXPORTS: Final = {
    "app": ("main",),
    "blame": ("Blame",),
    "checkpoint": (
        "RunCheckpoint",
        "latest_checkpoint",
        "read_arrays",
        "write_arrays",
    ),
    "deployment.folder": ("FederationFolder",),
    "roundlog": ("RoundLog",),
    "rounds": ("run_rounds",),
    "secure_grid": ("SecureGrid",),
    "stage_log": (
        "ExchangeResult",
        "StageLog",
        "StageOutcome",
        "read_stages",
    ),
    "store_grid": ("StoreGrid",),
    "strategies": ("make_strategy",),
}

__getattr__ = lazy_exports(__name__, _EXPORTS)
