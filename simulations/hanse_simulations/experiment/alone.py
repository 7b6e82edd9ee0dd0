"""Train each store's own model alone, the baseline that a federation has to beat."""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from hanse_client.node import Node, list_nodes
from hanse_common.config import RunSettings
from hanse_common.errors import FederationError
from hanse_common.paths import INITIAL_FILE
from hanse_server.checkpoint import read_arrays
from hanse_simulations.engines import WorkerPool
from hanse_simulations.engines.in_process import InProcessGrid
from hanse_simulations.engines.store_app import ALONE
from hanse_simulations.runs.arm_folder import ArmFolder


def run_alone(arm: ArmFolder, settings: RunSettings, pool: WorkerPool) -> None:
    """Let every store train and evaluate its own model; stores that are done are skipped.

    Uses this machine's workers on any engine, since nothing is aggregated.

    Raises:
        FederationError: A store failed; the error names it.
    """
    nodes = [Node(folder) for folder in list_nodes(arm.stores_dir)]
    rounds = settings.federation.rounds
    environment = {"HANSE_FEDERATION": str(arm.stores_dir.absolute())}
    grid = InProcessGrid(pool, [node.name for node in nodes], environment=environment)
    arrays = read_arrays(arm.path / INITIAL_FILE)
    content = RecordDict(
        {
            "arrays": ArrayRecord({name: Array(array) for name, array in arrays.items()}),
            "config": ConfigRecord({"settings": settings.model_dump_json()}),
        }
    )
    ids = dict(zip(grid.get_node_ids(), nodes, strict=True))
    waiting = [
        grid.create_message(content, ALONE, node_id, group_id="alone")
        for node_id, node in ids.items()
        # Written last by a store, so that it marks one that is done.
        if not node.evaluation("test", rounds).exists()
    ]
    for reply in grid.send_and_receive(waiting):
        if reply.has_error():
            name = ids[reply.metadata.src_node_id].name
            raise FederationError(f"store {name!r} could not train alone: {reply.error.reason}")
