"""An attacker's observations of every canary in every round, read from a run's folders.

In mode `distributed` they are the global model before and after each round and the released
sums, and so the sum of all stores; a single store's masked vector says nothing. In mode `local`
the promise holds even if all other stores and the coordinator collude, who know each store's
own noised sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hanse_client.node import Node, list_nodes
from hanse_common.config import RunSettings
from hanse_common.manifest import SignedManifest
from hanse_common.manifest_noise import rate_share
from hanse_common.paths import GLOBAL_FILE, MANIFEST_FILE
from hanse_common.phases import Phase, trained
from hanse_common.privacy.plan import PrivacyPlan
from hanse_common.vector import flatten
from hanse_server.checkpoint import read_arrays
from hanse_server.stage_log import read_stages
from hanse_simulations.privacy_audit.canaries import Canaries
from hanse_simulations.privacy_audit.store_app import Known
from hanse_simulations.runs.arm_folder import ArmFolder

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """What an attacker sees of all canaries in one phase."""

    phase: str
    length: int
    """Numbers that one round releases."""
    sample_rate: float
    """Chance of a canary that is in to be in a round's sum."""
    seen: Floats
    """Released sums along each canary's direction, minus what all other customers added
    [rounds, canaries], in units of the most that a canary adds: noise, plus 1 where it was in."""
    noise: float
    """Standard deviation of the noise in each released number, in the same units, measured."""
    others: float
    """Variance of what other canaries add along a canary's direction, in the same units."""


def observe(
    arm: ArmFolder, canaries: Canaries, settings: RunSettings, plan: PrivacyPlan
) -> list[Observed]:
    """Read what an attacker sees of every canary, phase by phase.

    Args:
        arm: The run's folder.
        canaries: Their stores and directions are read, their coins are not.
        settings: The run's settings.
        plan: Their plan.

    Raises:
        DataError: A round is missing at a store.
    """
    sums = _Sums(arm, settings, plan)
    return [_observed(phase, sums, canaries, plan) for phase in settings.schedule.all]


def _observed(phase: Phase, sums: _Sums, canaries: Canaries, plan: PrivacyPlan) -> Observed:
    gradient = phase.release == "gradient"
    unit = plan.store_clip if gradient else plan.person_share
    steps, rate = (plan.steps_per_round, plan.sample_rate) if gradient else (1, 1.0)
    rounds, squares = [], []
    length, apart = 0, 1
    for number in range(phase.first, phase.last + 1):
        unexplained = {name: rest / unit for name, rest in sums.unexplained(number).items()}
        length, apart = len(next(iter(unexplained.values()))), len(unexplained)
        directions = canaries.directions(number=number, length=length)
        places = zip(canaries.stores, directions.places, directions.signs, strict=True)
        # The key is empty where there is one sum of all stores.
        found = [
            sign * unexplained[store if store in unexplained else ""][place]
            for store, place, sign in places
        ]
        rounds.append(np.array(found))
        squares.append(np.mean([np.mean(rest**2) for rest in unexplained.values()]))
    # A canary is in by a fair coin, and then drawn in each of a round's steps or not.
    canary = (steps * rate * (1 - rate) + (steps * rate) ** 2) / 2
    crowd = len(canaries) / length
    return Observed(
        phase=phase.name,
        length=length,
        sample_rate=rate,
        seen=np.stack(rounds),
        # Signs are random, so that canaries' squares add up to the noise's on average.
        noise=math.sqrt(max(float(np.mean(squares)) - canary * crowd / apart, 0.0)),
        others=canary * max(crowd - 1, 0.0) / apart,
    )


class _Sums:
    """A run's released sums, and what the attacker knows of them."""

    def __init__(self, arm: ArmFolder, settings: RunSettings, plan: PrivacyPlan) -> None:
        self._settings, self._local = settings, plan.mode == "local"
        self._nodes = [Node(folder) for folder in list_nodes(arm.stores_dir)]
        self._stages = {
            stage["round"]: stage for stage in read_stages(arm.path) if stage["stage"] == "train"
        }
        self._last = read_arrays(arm.path / GLOBAL_FILE)
        manifest = SignedManifest.load(arm.path / MANIFEST_FILE).unchecked
        self._rate_share = rate_share(manifest, settings)

    def unexplained(self, number: int) -> Mapping[str, Floats]:
        """What is left of a round's sums without what all customers but canaries added.

        Returns:
            In mode `local` by store; otherwise of the sum of all stores, under the key "".
        """
        known = {node.name: Known.load(node.folder, number) for node in self._nodes}
        phase = self._settings.schedule.at(number)
        # A change of the model is the noisy sum times a step factor, which is public.
        gradient = phase.release == "gradient"
        factor = self._rate_share * self._settings.step_factor(number) if gradient else 1.0
        if self._local:
            return {name: one.noised / factor - one.others for name, one in known.items()}
        first, stage = next(iter(known.values())), self._stages[number]
        # The coordinator knows the sum as it was before it was cut to the public norm.
        cut = stage["cut"] or 1.0
        if gradient:
            change = self._model_after(number) - first.model
            total = change * stage["replies"] / (factor * cut)
        else:
            total = self._released_in(phase, number) / cut
        return {"": total - np.sum([one.others for one in known.values()], axis=0)}

    def _model_after(self, number: int) -> Floats:
        # Each round's model is the next round's start; the last one is only in the result.
        if number == self._settings.federation.rounds:
            return flatten(trained(self._last))
        return Known.load(self._nodes[0].folder, number + 1).model

    def _released_in(self, phase: Phase, number: int) -> Floats:
        if number == self._settings.federation.rounds:
            return np.asarray(self._last[phase.array][:-1], np.float64)
        return Known.load(self._nodes[0].folder, number + 1).released
