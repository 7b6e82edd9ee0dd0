"""How many stores a round needs, what the noise costs for it, and how to choose otherwise.

In mode `distributed` every store adds a share of the noise. The shares of the stores that must
stay add up to the noise that the promise needs, without those that may collude; all stores
together therefore add more, by the factor (all stores) / (must stay - colluders) in variance.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hanse_common.manifest import Manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class Attendance:
    """The stores that a round needs under signed terms.

    Args:
        stores: Number of stores in the terms.
        at_start: Fewest stores with which a round begins.
        at_end: Fewest stores in a sum.
        fewest: Smallest value of `at_end` that the protocol allows with this `at_start`.
        colluders: Stores whose noise does not count.
        shared_noise: Whether the stores share the noise (mode `distributed`).
    """

    stores: int
    at_start: int
    at_end: int
    fewest: int
    colluders: int
    shared_noise: bool

    def noise(self, at_end: int | None = None) -> float:
        """Return the noise in a sum of all stores, as a multiple of what the promise needs.

        Args:
            at_end: Fewest stores in a sum; that of the terms if unset.

        Returns:
            A factor of the standard deviation; 1 where each store adds all of its own noise.
        """
        if not self.shared_noise:
            return 1.0
        counted = (self.at_end if at_end is None else at_end) - self.colluders
        return float((self.stores / counted) ** 0.5)

    def row(self) -> dict[str, Any]:
        """Return the numbers for JSON."""
        return {**asdict(self), "noise": self.noise()}

    def lines(self) -> list[str]:
        """Return the sentences to print after signing."""
        lines = [
            f"{self.at_start} of {self.stores} stores must be there when a round begins "
            f"({self.stores - self.at_start} may be away), and {self.at_end} must stay until "
            "its sum"
        ]
        if not self.shared_noise:
            return lines
        lines.append(
            f"so a sum of all {self.stores} has {self.noise():.2f} times the noise that the "
            "promise needs (standard deviation)"
        )
        others = [
            count
            for count in (self.at_end + 1, self.at_end - 1, self.at_end - 2)
            if self.fewest <= count <= self.stores and count > self.colluders
        ]
        if others:
            choices = ", ".join(f"{count} stay: {self.noise(count):.2f}" for count in others)
            lines.append(
                f"to choose otherwise, set federation.minimum_survivors, and minimum_cohort for "
                f"the beginning, in settings.toml ({choices}), and sign again"
            )
        return lines


def attendance(manifest: Manifest) -> Attendance:
    """Return how many stores a round needs under a manifest."""
    terms = manifest.terms()
    start = manifest.minimum_cohort
    return Attendance(
        stores=len(manifest.stores),
        at_start=start,
        at_end=terms.survivors(start),
        fewest=max(terms.threshold(start), terms.colluders + 2),
        colluders=manifest.colluders,
        shared_noise=manifest.privacy.mode == "distributed",
    )
