"""Attack a federation: add canaries, run the production code, guess the coins, bound epsilon.

    result = attack(load_recipe("attack"), canaries=1000)
    result.lower_bound, result.claimed         # the first should not exceed the second

The claim is the ledgers': epsilon of adding or removing one customer, at the plan's delta,
over all phases and rounds, for Poisson sampling. A bound below the claim is no proof of it: another
attack may find more. A bound above the claim refutes it.
"""

from __future__ import annotations

import math
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hanse_client.features.histories import days
from hanse_common.config import RunSettings
from hanse_common.errors import ConfigError, Interrupted, RunDirectoryError
from hanse_common.paths import HISTORIES_FILE
from hanse_common.privacy.accounting import NEIGHBOURS
from hanse_common.privacy.plan import PrivacyPlan
from hanse_simulations.experiment.arms import ARMS
from hanse_simulations.experiment.prepare import Prepared, customers_of, prepare_run
from hanse_simulations.experiment.runner import runner
from hanse_simulations.privacy_audit.bound import CONFIDENCE, Guesses, best_lower_bound
from hanse_simulations.privacy_audit.canaries import Canaries, draw_canaries, with_canaries
from hanse_simulations.privacy_audit.faults import Fault
from hanse_simulations.privacy_audit.observations import Observed, observe
from hanse_simulations.privacy_audit.scoring import guess, guess_counts, scores
from hanse_simulations.privacy_audit.store_app import CLIENT_APP, Orders
from hanse_simulations.runs.arm_folder import ArmFolder, store_folder_name

_SERVER_STEP = ("server_learning_rate", "server_momentum")
"""The options of FedAvgM that FedAvg does not have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttackedPhase:
    """One phase of a run under attack."""

    name: str
    rounds: int
    numbers: int
    """Length of a round's vector: trained parameters, or numbers of statistics."""
    sample_rate: float
    noise_multiplier: float
    """The plan's, in units of the most that one customer can add to a sum."""
    measured_noise: float
    """Measured by the attacker on the released sums, in the same units; where stores share the
    noise, a sum of more stores than the smallest admissible one has more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttackResult:
    """Lower bound of an attack, and the claim that it tests."""

    recipe: str
    mode: str
    fault: str
    stores: int
    customers: int
    """Number of real customers, without the canaries."""
    rounds: int
    """Rounds of all phases together."""
    phases: tuple[AttackedPhase, ...]
    canaries: int
    included: int
    tries: tuple[Guesses, ...]
    """The numbers of guesses that were tried; the bound pays for all of them."""
    lower_bound: float
    """Lower bound on epsilon at `delta`, with `confidence`."""
    claimed: float
    """Epsilon by the stores' ledgers, at `delta`."""
    most_provable: float
    """The bound if every guess had been right: a larger claim could not be refuted."""
    delta: float
    confidence: float
    relation: str
    seconds: float

    @property
    def refuted(self) -> bool:
        """Whether the bound exceeds the claim; wrong with a chance of at most 1 - `confidence`."""
        return self.lower_bound > self.claimed


def attack(
    settings: RunSettings,
    *,
    canaries: int = 1000,
    fault: Fault = Fault.NONE,
    folder: Path | None = None,
    quiet: bool = False,
) -> AttackResult:
    """Run a federation with canaries in it, and attack it.

    Args:
        settings: The run's settings; comparisons and evaluations are left out.
        canaries: Number of canaries; each is in a store's data by a fair coin.
        fault: Fault in the stores' noise, to see that the attack detects it.
        folder: Folder for the run's files, which must be empty; a temporary one if unset.
        quiet: Show no progress.

    Raises:
        ConfigError: The settings promise no privacy, use a feature that the attack cannot read,
            or claim an epsilon that this number of canaries could not refute.
        HanseError: The run failed.
    """
    settings = _checked(settings)
    with ExitStack() as stack:
        work = stack.enter_context(runner(settings, quiet=quiet, client_app=CLIENT_APP))
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hanse-attack-")))
        _make_empty(folder)
        # 1. The federation as any run prepares it, and what it claims.
        work.progress.note("reading the shops")
        _, settings, prepared = prepare_run(folder, settings)
        plan = PrivacyPlan.from_settings(settings)
        if plan is None:
            raise ConfigError("privacy.mode='none' claims nothing", hint="take another mode")
        most = _most_provable(canaries, plan)
        # 2. Canaries whose coin says so become customers.
        drawn = draw_canaries(prepared.names, count=canaries, seed=settings.seed)
        customers = customers_of(prepared.load())
        home = ArmFolder(folder)
        prepared = _joined(prepared, drawn, home, settings, fault)
        # 3. The production code runs; the attacker sees what it released.
        try:
            run = work.train(ARMS["federated_private"], home, settings, prepared)
        except Interrupted:
            raise Interrupted("stopped", hint="an attack starts again from the beginning") from None
        work.progress.note("guessing the canaries' coins")
        observed = observe(home, drawn, settings, plan)
        canary_scores = np.sum([_scores(phase) for phase in observed], axis=0)
        # Numbers of guesses are fixed beforehand, or the bound would not hold.
        tries = [guess(canary_scores, drawn.included, count) for count in guess_counts(canaries)]
        claimed = run.epsilon()
        seconds = work.seconds
    return AttackResult(
        recipe=settings.recipe,
        mode=plan.mode,
        fault=fault.value,
        stores=len(prepared.names),
        customers=customers,
        rounds=settings.federation.rounds,
        phases=tuple(_attacked(phase, plan) for phase in observed),
        canaries=canaries,
        included=int(drawn.included.sum()),
        tries=tuple(tries),
        lower_bound=best_lower_bound(tries, canaries=canaries, delta=plan.target_delta),
        claimed=math.inf if claimed is None else claimed.max,
        most_provable=most,
        delta=plan.target_delta,
        confidence=CONFIDENCE,
        relation=NEIGHBOURS,
        seconds=seconds,
    )


def _scores(phase: Observed) -> npt.NDArray[np.float64]:
    # To one canary, what others add along its direction is noise.
    noise = math.hypot(phase.noise, math.sqrt(phase.others))
    return scores(phase.seen, sample_rate=phase.sample_rate, noise=noise)


def _attacked(phase: Observed, plan: PrivacyPlan) -> AttackedPhase:
    return AttackedPhase(
        name=phase.phase,
        rounds=len(phase.seen),
        numbers=phase.length,
        sample_rate=phase.sample_rate,
        noise_multiplier=plan.phase_noise.get(phase.phase, plan.noise_multiplier),
        measured_noise=phase.noise * plan.person_share,
    )


def _make_empty(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = any(folder.iterdir())
    except OSError as error:
        raise RunDirectoryError(
            f"cannot write to {folder}: {error.strerror}", hint="name another folder"
        ) from error
    if taken:
        raise RunDirectoryError(f"{folder} is not empty", hint="name a new folder")


def _checked(settings: RunSettings) -> RunSettings:
    """Settings without comparisons, which an attack does not need.

    Raises:
        ConfigError: The attack cannot read a run of these settings.
    """
    if settings.privacy.mode == "none":
        raise ConfigError("privacy.mode='none' claims nothing that an attack could refute")
    if settings.federation.strategy not in ("FedAvg", "FedAvgM"):
        raise ConfigError(
            f"federation.strategy={settings.federation.strategy!r}: the attack reads the stores' "
            "sum off FedAvg's steps alone",
            hint="set federation.strategy=FedAvg; the promise does not depend on it",
        )
    if settings.phases and not settings.secure:
        raise ConfigError(
            "federation.secure_aggregation=false: the attack reads a store's statistics where "
            "they are encoded for masks",
            hint="leave secure aggregation on; in mode local the noise is the same",
        )
    if settings.privacy.one_home:
        raise ConfigError(
            "privacy.one_home=true: a canary is at home nowhere, and would never be drawn",
            hint="set privacy.one_home=false; the promise at one store is the same",
        )
    options = {
        name: value
        for name, value in settings.federation.strategy_options.items()
        if name not in _SERVER_STEP
    }
    if settings.privacy.evaluation_noise_multiplier is None:
        # Evaluations stay at the stores, where no attacker sees them.
        options["fraction_evaluate"] = 0.0
    return settings.with_changes(
        {
            "compute.engine": "in-process",
            "compare": False,
            "sweep": None,
            # Without momentum and averaging, a round's sum is the change of the model. They alter
            # which models the stores are sent, and nothing of what is released in a round given
            # its model: the promise holds for every sequence of models.
            "federation.strategy": "FedAvg",
            "federation.average_last": 0.0,
            "federation.strategy_options": options,
        }
    )


def _most_provable(canaries: int, plan: PrivacyPlan) -> float:
    """The bound if every guess is right.

    Raises:
        ConfigError: Not even that would refute the claim, so that the test could not fail.
    """
    claim = plan.epsilon_after(rounds=plan.rounds)
    tries = [Guesses(count=count, right=count) for count in guess_counts(canaries)]
    most = best_lower_bound(tries, canaries=canaries, delta=plan.target_delta)
    if most <= claim:
        raise ConfigError(
            f"{canaries} canaries can show an epsilon of {most:.2f} at most, and {claim:.2f} is "
            "claimed: this attack could find nothing",
            hint="take more canaries (--number), or audit a smaller claim (--epsilon)",
        )
    return most


def _joined(
    prepared: Prepared, canaries: Canaries, arm: ArmFolder, settings: RunSettings, fault: Fault
) -> Prepared:
    """The prepared stores with their canaries added, and `attack.json` in each node's folder."""
    split = settings.data.split
    if split is None:
        raise ConfigError("the run's settings fix no split", hint="set data.split")
    paths = []
    for name, histories in zip(prepared.names, prepared.load(), strict=True):
        mine = canaries.of_store(name)
        node = arm.stores_dir / store_folder_name(name)
        paths.append(node / HISTORIES_FILE)
        with_canaries(histories, list(mine), until=days(split.train_until)).save(paths[-1])
        orders = Orders(fault=fault, canaries=mine, count=len(canaries), seed=canaries.seed)
        orders.save(node)
    return replace(prepared, histories=tuple(paths))
