"""A `SecureGrid` for the ServerApp of somebody else, under Flower's own `Strategy.start`.

    @app.main()
    def main(grid, context):
        grid = SecureGrid.from_federation(folder, grid)
        FedAvg(fraction_evaluate=0.0).start(grid=grid, initial_arrays=arrays, num_rounds=20)

The folder holds the federation's signed terms and the settings that they were made from. What a
strategy does not know of, this grid adds to its messages: the settings, and the split of an
evaluation.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid

from hanse_common.instructions import ROUND, SETTINGS, SPLIT
from hanse_server.secure_grid import SecureGrid
from hanse_server.stage_log import ExchangeResult
from hanse_server.store_grid import CONNECT_SECONDS, StoreGrid
from hanse_server.sums import kind_of

_log = logging.getLogger(__name__)


class FederationGrid(SecureGrid):
    """A `SecureGrid` that completes a strategy's messages; made by `from_federation`.

    Guarantees:
        A store that does not answer, or refuses, is logged as an error with its reason; an
        exchange that is lost raises.
    """

    settings = ""
    """The run's settings as JSON, which every message carries."""

    def exchange(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> ExchangeResult:
        """Run one exchange; see `SecureGrid.exchange`."""
        sent = list(messages)
        kind = kind_of(sent)
        if kind is not None:
            self._complete(sent, kind)
        result = super().exchange(sent, timeout=timeout)
        for store, why in result.refusals.items():
            _log.error("store %s is not in the sum: %s", store, why)
        return result

    def _complete(self, sent: list[Message], kind: str) -> None:
        content = sent[0].content
        config = cast(ConfigRecord, content["config"])
        added = {SETTINGS: self.settings, **({SPLIT: "validate"} if kind == "evaluate" else {})}
        completed = ConfigRecord({**added, **config})
        for message in sent:
            message.content["config"] = completed
        if kind == "train":
            number = int(cast(int, config[ROUND])) - 1
            arrays = cast(ArrayRecord, content["arrays"])
            self.publish(number, {name: array.numpy() for name, array in arrays.items()})


def federation_grid(
    folder: Path | str, grid: Grid, *, patience: float = CONNECT_SECONDS
) -> FederationGrid:
    """Build the grid; see `SecureGrid.from_federation`."""
    from hanse_server.app import read_settings, secure_grid
    from hanse_server.secure_grid import STAGE_SECONDS

    path = Path(folder)
    settings = read_settings(path)
    stores = StoreGrid(grid, patience=patience)
    made = secure_grid(stores, path, path, stage_seconds=STAGE_SECONDS, kind=FederationGrid)
    stores.expected = len(made._manifest.stores)
    made.settings = settings.model_dump_json()
    return made
