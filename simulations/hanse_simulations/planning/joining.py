"""Is joining expected to pay? Looked up in a study of small federations that ships with the code.

The study is of one recipe on one data set (`hanse bench small`). What it measured is reported with
its interval for the nearest size that is no larger than the federation asked about; nothing is
extrapolated.

>>> [row.customers for row in shipped_study().rows] != []
True
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from hanse_common.config import RunSettings
from hanse_common.paths import SMALL_STUDY_FILE
from hanse_common.settings_files import read_json
from hanse_common.wording import counted
from hanse_simulations.experiment.arms import METRICS
from hanse_simulations.planning.forecast import Population
from hanse_simulations.report.differences import SHOWN, difference
from hanse_simulations.runs.results import PairedInterval, Record, SizeFigures

_ARM: Final = "federated_private"
_REFERENCE: Final = "alone"


class ShippedStudy(Record):
    """Differences of private federations to each store alone, by size and epsilon."""

    recipe: str
    data: str
    command: str
    """The commands that measured it."""
    rows: list[SizeFigures] = Field(min_length=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Joining:
    """What a federation of about this size gained by joining.

    Args:
        stores: Stores of the federations that were measured.
        customers: Their customers, of all stores together.
        epsilon: Their target epsilon.
        federations: How many of them, with different customers, were evaluated together.
        differences: Private federation less each store alone without privacy, one a metric.
        source: Data set and command of the study.
    """

    stores: int
    customers: int
    epsilon: float
    federations: int
    differences: tuple[PairedInterval, ...]
    source: str

    def sentence(self) -> str:
        """Whether joining is expected to pay, for which question, and how that is known."""
        better = [one for one in self.differences if one.low is not None and one.low > 0]
        worse = [one for one in self.differences if one.high is not None and one.high < 0]
        unseen = [one for one in self.differences if one not in (*better, *worse)]
        parts = [
            f"{word} in {', '.join(_shown(one, difference(one)) for one in group)}"
            for word, group in (("gains", better), ("losses", worse))
            if group
        ]
        if unseen:
            parts.append("no difference in " + ", ".join(_shown(one) for one in unseen))
        verdict = "expected to pay" if better else "not expected to pay"
        if better and worse:
            verdict += " in part"
        return (
            f"Joining is {verdict}: {counted(self.customers, 'customer')} of "
            f"{counted(self.stores, 'store')} at ε = {self.epsilon:g}, less each store alone "
            f"without privacy, had {'; '.join(parts)} ({self.source})"
        )

    def record(self) -> dict[str, Any]:
        """The values for JSON."""
        table = asdict(self)
        table["differences"] = [one.model_dump(mode="json") for one in self.differences]
        return table | {"sentence": self.sentence()}


@cache
def shipped_study() -> ShippedStudy:
    """The study in the package."""
    path = Path(__file__).with_name(SMALL_STUDY_FILE)
    return ShippedStudy.model_validate(read_json(path))


def expected_joining(
    settings: RunSettings, population: Population, study: ShippedStudy | None = None
) -> Joining | None:
    """Look up what joining changed in federations that are at most as large.

    Args:
        settings: The run's settings, for the task, the mode and the target epsilon.
        population: Customers of each store.
        study: The study; the one in the package if unset.

    Returns:
        None where nothing comparable was measured: another task, noise that is not shared,
        fewer customers or stores than any, or a smaller epsilon.
    """
    study = shipped_study() if study is None else study
    if settings.task != "interest" or settings.privacy.mode != "distributed":
        return None
    # Rounded down in everything: a larger federation, or more epsilon, does at least as well.
    sizes = [
        row
        for row in study.rows
        if row.stores <= len(population.customers) and row.customers <= population.total
    ]
    if not sizes:
        return None
    row = max(sizes, key=lambda row: (row.customers, row.stores))
    target = settings.privacy.target_epsilon
    own = [
        one
        for one in row.intervals
        if (one.arm, one.against) == (_ARM, _REFERENCE)
        and one.metric in SHOWN
        and one.epsilon is not None
        and one.epsilon <= target
    ]
    if not own:
        return None
    epsilon = max(one.epsilon for one in own if one.epsilon is not None)
    order = {metric: place for place, metric in enumerate(SHOWN)}
    chosen = sorted(
        (one for one in own if one.epsilon == epsilon), key=lambda one: order[one.metric]
    )
    return Joining(
        stores=row.stores,
        customers=row.customers,
        epsilon=epsilon,
        federations=row.federations,
        differences=tuple(chosen),
        source=f"measured on {study.data}, recipe {study.recipe}; {study.command}",
    )


def _shown(one: PairedInterval, how: str = "") -> str:
    return " ".join(filter(None, (METRICS[one.metric].label, how)))
