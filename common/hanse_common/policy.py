"""A store's own limits, which no manifest can override.

A store compares every manifest with its policy before it uses it, and refuses it with the name
and both values of the first field that is beyond a limit.

>>> policy = StorePolicy(authority="00" * 32, minimum_cohort=8)
>>> policy.minimum_cohort
8
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator

from hanse_common.errors import PolicyViolation, StoreNotReady
from hanse_common.manifest import Hex32, Manifest, SignedManifest
from hanse_common.privacy.budget import Budget
from hanse_common.secagg.terms import SMALLEST_COHORT
from hanse_common.settings_files import Settings, parse_settings, read_toml


class StorePolicy(Settings):
    """The limits of a store; an unset limit accepts everything that the protocol allows."""

    authority: Hex32
    """Public key of the enrolment authority that this store trusts."""
    federation: str | None = None
    minimum_cohort: int = Field(default=5, ge=SMALLEST_COHORT)
    colluders: int = Field(default=1, ge=0)
    threshold_fraction: tuple[int, int] = (2, 3)
    minimum_survivors: int = Field(default=0, ge=0)
    modes: tuple[Literal["none", "local", "distributed"], ...] = ("local", "distributed")
    max_epsilon: float = Field(default=8.0, gt=0)
    """Ceiling of a manifest's target, and of the store's total since the last renewal."""
    budget_renews: date | None = None
    """Day (UTC) on which the budget is renewed: earlier charges no longer count towards
    `max_epsilon`. A day renews once, and the ledger records it. If unset, all charges count."""
    max_delta: float = Field(default=1e-5, gt=0, lt=1)
    max_rounds: int | None = Field(default=None, ge=1)
    max_length: int | None = Field(default=None, ge=1)
    """Most coordinates of the vector that leaves the store."""
    round_log: bool = True
    """Take part only if the coordinator keeps a round log, which shows all stores one history."""
    model_digest: Hex32 | None = None
    fab_digest: Hex32 | None = None

    @field_validator("threshold_fraction")
    @classmethod
    def _is_a_fraction(cls, fraction: tuple[int, int]) -> tuple[int, int]:
        if not 0 <= fraction[0] < fraction[1]:
            raise ValueError("a numerator and a larger denominator are needed, such as [2, 3]")
        return fraction

    @classmethod
    def from_toml(cls, path: Path) -> Self:
        """Read a policy file.

        Raises:
            StoreNotReady: It pins no authority yet.
            ConfigError: The file cannot be read, or holds an unknown or malformed setting.
        """
        table = read_toml(path)
        if table.get("authority") == "":  # as `hanse store init` writes it
            raise StoreNotReady(
                f"{path} pins no authority", hint="`hanse store enrol --invitation FILE` first"
            )
        return parse_settings(cls, table)

    @property
    def budget(self) -> Budget:
        """The budget until the next renewal."""
        return Budget.until_renewed(self.max_epsilon, renews=self.budget_renews)

    def check(self, signed: SignedManifest) -> Manifest:
        """Return the manifest if the pinned authority signed it and it is within every limit.

        Raises:
            BadManifest: The signature is not the pinned authority's.
            PolicyViolation: A field is beyond its limit; the message names the first one, both
                values, and the number of others.
        """
        # The signature first: until it is checked, the fields are anybody's.
        manifest = signed.check(bytes.fromhex(self.authority))
        violations = self.violations(manifest)
        if violations:
            first = violations[0]
            others = f"; {len(violations) - 1} more" if violations[1:] else ""
            raise PolicyViolation(first.message + others, hint=first.hint)
        return manifest

    def violations(self, manifest: Manifest) -> list[PolicyViolation]:
        """Return every field of a manifest that this policy does not allow."""
        violations: list[PolicyViolation] = []

        def require(holds: bool, field: str, offered: object, allowed: str) -> None:
            if not holds:
                violations.append(
                    PolicyViolation(
                        f"manifest has {field}={_plain(offered)}, this store's policy "
                        f"requires {allowed}",
                        hint="ask the federation for other terms, or change the policy",
                    )
                )

        def at_least(field: str, floor: int) -> None:
            offered = getattr(manifest, field)
            require(offered >= floor, field, offered, f"at least {floor}")

        def equal(field: str, wanted: str | None) -> None:
            offered = getattr(manifest, field)
            require(wanted in (None, offered), field, offered, f"{wanted}")

        equal("federation", self.federation)
        at_least("minimum_cohort", self.minimum_cohort)
        at_least("colluders", self.colluders)
        at_least("minimum_survivors", self.minimum_survivors)
        (top, bottom), (floor_top, floor_bottom) = (
            manifest.threshold_fraction,
            self.threshold_fraction,
        )
        # Compared as integers: quotients in floating point could round past the floor.
        require(
            top * floor_bottom >= floor_top * bottom,
            "threshold_fraction",
            f"{top}/{bottom}",
            f"at least {floor_top}/{floor_bottom}",
        )
        privacy = manifest.privacy
        require(privacy.mode in self.modes, "privacy.mode", privacy.mode, " or ".join(self.modes))
        for field, offered, ceiling in (
            ("privacy.target_epsilon", privacy.target_epsilon, self.max_epsilon),
            ("privacy.target_delta", privacy.target_delta, self.max_delta),
            ("rounds", manifest.rounds, self.max_rounds),
            (
                "sections.length",
                max(
                    sum(p.length for p in parts)
                    for parts in (manifest.sections, manifest.evaluation)
                ),
                self.max_length,
            ),
        ):
            within = offered is None or ceiling is None or offered <= ceiling
            require(within, field, offered, f"at most {ceiling}")
        require(not self.round_log or manifest.log_key is not None, "log_key", None, "a round log")
        equal("model_digest", self.model_digest)
        equal("fab_digest", self.fab_digest)
        return violations


def _plain(value: object) -> str:
    return value if isinstance(value, str) else repr(value)
