"""An attacker's observations of every canary in every round, read from a run's folders.

In mode `distributed` they are the global model before and after each round, and so the sum of
all stores; a single store's masked update says nothing. In mode `local` the promise holds even
if all other stores and the coordinator collude, who know each store's update.
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
    """Released sums along each canary's direction, minus what all other customers added.

    Returns:
        [rounds, canaries], in clips: noise, plus 1 where a canary was drawn.
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
    """Each store's noisy sums minus the other customers' [rounds, parameters], by store."""
    sums = {}
    for node in nodes:
        rounds = []
        for number in range(1, settings.federation.rounds + 1):
            known = Known.load(node.folder, number)
            # The update is the noisy sum times a step factor, which is public.
            rounds.append(known.update / settings.step_factor(number) - known.others)
        sums[node.name] = np.stack(rounds)
    return sums


def _sum_of_all(arm: ArmFolder, nodes: Sequence[Node], settings: RunSettings) -> Floats:
    """The noisy sums of all stores minus the other customers' [rounds, parameters]."""
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
    # Each round's model is the next round's start; the last one is only in the result.
    models.append(flatten(read_arrays(arm.path / GLOBAL_FILE)))
    rounds = [
        (models[number] - models[number - 1]) * counts[number] / settings.step_factor(number)
        for number in range(1, len(models))
    ]
    seen: Floats = np.stack(rounds) - np.stack(others)
    return seen
