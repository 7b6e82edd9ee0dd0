"""What one exchange costs a store's customers: one value, from the plan to the ledger.

The privacy plan says what an exchange of a kind costs, the guard adds which exchange it is,
and the ledger writes the same value down.

>>> from hanse_common.privacy.accounting import SampledGaussianSteps
>>> steps = SampledGaussianSteps(noise_multiplier=2.0, sample_rate=0.1, count=5)
>>> charge = Charge(steps=steps, target_delta=1e-6, release=Release(kind="train", mode="local"))
>>> charge.of(run=7, round=3, exchange=9, attempt=1).release.exchange
9
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from hanse_common.codec import DIGEST_SIZE
from hanse_common.privacy.accounting import SampledGaussianSteps

NOTHING = bytes(DIGEST_SIZE)
"""In place of a digest: there is nothing to name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """What leaves a store, and under which terms: all of a charge that is not arithmetic.

    All but `manifest_digest` is empty where updates are open.

    Args:
        kind: `train` or `evaluate`.
        mode: The plan's: `local` or `distributed`.
        max_grad_norm: The plan's clip; 0 where nothing is clipped, as in evaluations.
        run: The coordinator's number of its run.
        round: The training round.
        exchange: The number of the exchange within the run, as in the header.
        attempt: 1 or 2; 0 where there are no attempts.
        manifest_digest: Of the federation's terms.
        instructions_digest: Of the model and settings that the store was sent.
        roster_digest: Of the stores that the attempt began with; a refusal has none.
    """

    kind: str = ""
    mode: str = ""
    max_grad_norm: float = 0.0
    run: int = 0
    round: int = 0
    exchange: int = 0
    attempt: int = 0
    manifest_digest: bytes = NOTHING
    instructions_digest: bytes = NOTHING
    roster_digest: bytes = NOTHING


@dataclass(frozen=True, kw_only=True, slots=True)
class Charge:
    """What is spent when one release leaves a store.

    Args:
        steps: What the accountant composes.
        target_delta: At which epsilon is read.
        release: What leaves for it.
    """

    steps: SampledGaussianSteps
    target_delta: float
    release: Release = Release()

    def of(self, **which: Any) -> Self:
        """Return the same charge for a certain exchange; the names are those of `Release`."""
        return replace(self, release=replace(self.release, **which))

    def table(self) -> dict[str, Any]:
        """Return the charge as JSON has it, with digests in hexadecimal."""
        release: dict[str, Any] = {
            name: value.hex() if isinstance(value, bytes) else value
            for name, value in asdict(self.release).items()
        }
        return {**asdict(self), "release": release}

    @classmethod
    def from_table(cls, table: dict[str, Any]) -> Self:
        """Read what `table` returned.

        Raises:
            KeyError, TypeError, ValueError: It is something else.
            PrivacyError: The steps are none that an accountant knows.
        """
        release: dict[str, Any] = {
            name: bytes.fromhex(value) if name.endswith("_digest") else value
            for name, value in table["release"].items()
        }
        return cls(
            steps=SampledGaussianSteps(**table["steps"]),
            target_delta=table["target_delta"],
            release=Release(**release),
        )
