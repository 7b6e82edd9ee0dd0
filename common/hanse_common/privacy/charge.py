"""The privacy cost of one exchange: one value that goes from the plan to the ledger.

The privacy plan computes the cost of an exchange of a kind, the guard adds the exchange's
numbers and digests, and the ledger records the same value.

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
"""Stands in place of a digest where there is nothing to name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """A description of what leaves a store: the part of a charge that is not arithmetic.

    Without masks all fields except `manifest_digest` are empty.

    Args:
        kind: `train`, `evaluate` or the name of a phase of statistics.
        mode: The plan's mode, `local` or `distributed`.
        max_grad_norm: The plan's clip; 0 where nothing is clipped, as in evaluations.
        run: The coordinator's number of its run.
        round: The training round.
        exchange: The number of the exchange within the run, as in the header.
        attempt: 1 or 2; 0 where there are no attempts.
        manifest_digest: Digest of the federation's terms.
        instructions_digest: Digest of the model and settings that the store was sent.
        roster_digest: Digest of the attempt's roster; `NOTHING` in a refusal.
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
    """The spending for one release.

    Args:
        steps: The steps that the accountant composes.
        target_delta: The delta at which epsilon is read.
        release: The release that they pay for.
    """

    steps: SampledGaussianSteps
    target_delta: float
    release: Release = Release()

    def of(self, **which: Any) -> Self:
        """Return the same charge with the given fields of `Release` set."""
        return replace(self, release=replace(self.release, **which))

    def table(self) -> dict[str, Any]:
        """Return the charge as a JSON-compatible table, with digests in hexadecimal."""
        release: dict[str, Any] = {
            name: value.hex() if isinstance(value, bytes) else value
            for name, value in asdict(self.release).items()
        }
        return {**asdict(self), "release": release}

    @classmethod
    def from_table(cls, table: dict[str, Any]) -> Self:
        """Read the output of `table`.

        Raises:
            KeyError, TypeError, ValueError: The table has another form.
            PrivacyError: A value of the steps is out of range.
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
