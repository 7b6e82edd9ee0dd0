"""What an attacker saw of every canary in every round, from the folders of a run.

In mode `distributed` that is the global model before and after each round, and so the sum
of all stores; a single store's masked update says nothing. In mode `local` the promise holds
though all other stores and the coordinator work together, and they know each store's update.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hanse_client.node import Node, list_nodes
from hanse_common.config import RunSettings
from hanse_common.paths import GLOBAL_FILE
from hanse_common.privacy.plan import PrivacyPlan
from hanse_common.vector import flatten
from hanse_server.checkpoint import read_arrays
from hanse_server.stage_log import read_stages
from hanse_simulations.privacy_audit.canaries import Canaries
from hanse_simulations.privacy_audit.store_app import Known
from hanse_simulations.runs.arm_folder import ArmFolder

Floats = npt.NDArray[np.float64]


def seen_of_canaries(
    arm: ArmFolder, canaries: Canaries, settings: RunSettings, plan: PrivacyPlan
) -> Floats:
    """Released sums along each canary's direction, less what everybody else added.

    Returns:
        In units of the clip, [rounds, canaries]: noise, and 1 where a canary was drawn.
    """
    nodes = [Node(folder) for folder in list_nodes(arm.stores_dir)]
    if plan.mode == "local":
        sums = _sums_of_stores(nodes, settings)
    else:
        sums = dict.fromkeys((node.name for node in nodes), _sum_of_all(arm, nodes, settings))
    places = zip(canaries.stores, canaries.coordinates, strict=True)
    columns = [sums[store][:, coordinate] for store, coordinate in places]
    return np.stack(columns, axis=1) / plan.store_clip


def _sums_of_stores(nodes: Sequence[Node], settings: RunSettings) -> dict[str, Floats]:
    """Each store's noisy sums less what others added, [rounds, parameters] by its name."""
    found = {}
    for node in nodes:
        rounds = []
        for number in range(1, settings.federation.rounds + 1):
            known = Known.load(node.folder, number)
            rounds.append(known.update / settings.step_factor(number) - known.others)
        found[node.name] = np.stack(rounds)
    return found


def _sum_of_all(arm: ArmFolder, nodes: Sequence[Node], settings: RunSettings) -> Floats:
    """The noisy sums of all stores less what others added, [rounds, parameters]."""
    counts = {
        stage["round"]: stage["replies"]
        for stage in read_stages(arm.path)
        if stage["stage"] == "train"
    }
    models, others = [], []
    for number in range(1, settings.federation.rounds + 1):
        known = [Known.load(node.folder, number) for node in nodes]
        models.append(known[0].model)
        others.append(np.sum([store.others for store in known], axis=0))
    models.append(flatten(read_arrays(arm.path / GLOBAL_FILE)))
    rounds = [
        (models[number] - models[number - 1]) * counts[number] / settings.step_factor(number)
        for number in range(1, len(models))
    ]
    seen: Floats = np.stack(rounds) - np.stack(others)
    return seen
