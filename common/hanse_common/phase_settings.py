"""The phases in a run's settings, and the checks of how they fit together.

>>> phases = (
...     PhaseSettings(name="pairs", release="statistics", share=0.4), PhaseSettings(share=0.6)
... )
>>> check_phases(phases, rounds=11, private=True, noise_multiplier=None)
>>> [(phase.name, phase.rounds) for phase in schedule_of(phases, 11).all]
[('pairs', 1), ('train', 10)]
"""

from __future__ import annotations

import math
import re
from typing import Self

from pydantic import Field, model_validator

from hanse_common.phases import PHASE_NAME, TRAIN, Phases, Release
from hanse_common.settings_files import Settings


class PhaseSettings(Settings):
    """Consecutive rounds that release the same thing about the customers."""

    name: str = TRAIN
    """`train` for the gradient; otherwise the task's name of the statistics."""
    release: Release = "gradient"
    """`gradient`: one step of training a round. `statistics`: one sum over the customers, to
    which each adds a vector of norm at most 1."""
    rounds: int = Field(default=1, ge=1)
    """Rounds of a statistics phase; the gradient phase has the rest of `federation.rounds`."""
    share: float | None = Field(default=None, gt=0, le=1)
    """Share of the budget, as a part of the squared parameter of Gaussian differential privacy."""
    noise_multiplier: float | None = Field(default=None, gt=0)
    """Noise of a statistics phase in units of a customer's largest contribution; solved from the
    target and the shares if unset. That of the gradient is `privacy.noise_multiplier`."""
    max_norm: float = Field(default=4096.0, gt=0)
    """Largest L2 norm of one store's sum of statistics; a longer one is scaled down before
    masking. A public bound that no honest store should reach. The sum of all stores may be as
    long, or twice the number of customers that the federation is planned with if that is more;
    a longer one is taken for forged."""

    @model_validator(mode="after")
    def _name_goes_with_release(self) -> Self:
        if self.release == "gradient" and self.name != TRAIN:
            raise ValueError(f"the gradient phase is called {TRAIN!r}, not {self.name!r}")
        if self.release == "statistics" and re.match(PHASE_NAME, self.name) is None:
            raise ValueError(
                f"a statistics phase needs a name of its own, of lower-case letters, digits and "
                f"hyphens, and {self.name!r} is none"
            )
        if self.release == "gradient" and self.noise_multiplier is not None:
            raise ValueError("the gradient's noise is privacy.noise_multiplier")
        return self


def check_phases(
    phases: tuple[PhaseSettings, ...],
    *,
    rounds: int,
    private: bool,
    noise_multiplier: float | None,
) -> None:
    """Check that phases fit together and to the number of rounds.

    Args:
        phases: The phases of a run; none for gradients in all rounds.
        rounds: Rounds of all phases together.
        private: Whether the run has a privacy budget, which the phases share.
        noise_multiplier: The gradient's noise, if it is given.

    Raises:
        ValueError: The message says what does not fit, and what to change.
    """
    if not phases:
        return
    names = [phase.name for phase in phases]
    if len(set(names)) < len(names):
        raise ValueError(f"phases: one of {names} is named twice")
    counted = _statistics_rounds(phases)
    if rounds <= counted and TRAIN in names:
        raise ValueError(
            f"federation.rounds={rounds} leaves no round for the gradient after {counted} of "
            f"statistics; raise it to {counted + 1} or more"
        )
    if rounds != counted and TRAIN not in names:
        raise ValueError(
            f"federation.rounds={rounds}, and the phases have {counted}: set it to {counted}, or "
            "add a phase of release 'gradient'"
        )
    if private:
        _check_shares(phases)
        _check_noise(phases, noise_multiplier)


def schedule_of(phases: tuple[PhaseSettings, ...], rounds: int) -> Phases:
    """Return phases that fit together with the numbers of their rounds."""
    if not phases:
        return Phases.of([(TRAIN, "gradient", rounds)])
    rest = rounds - _statistics_rounds(phases)
    return Phases.of(
        (phase.name, phase.release, phase.rounds if phase.release == "statistics" else rest)
        for phase in phases
    )


def _statistics_rounds(phases: tuple[PhaseSettings, ...]) -> int:
    return sum(phase.rounds for phase in phases if phase.release == "statistics")


def _check_shares(phases: tuple[PhaseSettings, ...]) -> None:
    missing = next((phase.name for phase in phases if phase.share is None), None)
    if missing is not None:
        raise ValueError(
            f"phases: {missing!r} has no share of the budget, and every phase needs one"
        )
    total = math.fsum(phase.share or 0.0 for phase in phases)
    if not math.isclose(total, 1.0, abs_tol=1e-6):
        raise ValueError(f"phases: the shares of the budget add up to {total:g}, and not to 1")


def _check_noise(phases: tuple[PhaseSettings, ...], noise_multiplier: float | None) -> None:
    noises = {
        phase.name: noise_multiplier if phase.release == "gradient" else phase.noise_multiplier
        for phase in phases
    }
    given = [name for name, noise in noises.items() if noise is not None]
    # That of the gradient alone is enough: the shares say what the others have.
    if given and given != [TRAIN] and len(given) < len(noises):
        raise ValueError(
            f"phases: the noise of {given} is given, and that of others is not: give it for all "
            "phases, or for none, and it will be computed from the shares"
        )
