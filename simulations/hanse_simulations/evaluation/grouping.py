"""Group customers, to compare how well a model serves each group.

Customers are grouped by the size of their store, by how often they shop, and by the coarse bands
that a store holds. A group of fewer than `FEWEST` evaluated customers is left out, with a note.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from hanse_client.features.histories import Histories

FEWEST: Final = 20
_MOST_BANDS: Final = 8
_SIZES: Final = {
    2: ("larger stores", "smaller stores"),
    3: ("largest stores", "middle stores", "smallest stores"),
}
_ACTIVITIES: Final = {
    2: ("more active", "less active"),
    3: ("most active", "middle", "least active"),
}
Members = dict[str, npt.NDArray[np.int64]]
"""Store -> indices of customers in its histories."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grouping:
    """Groups of one kind; the gap is between the first and the last."""

    name: str
    groups: dict[str, Members]


def groupings(
    stores: Mapping[str, Histories],
    judged: Members,
    bands: Mapping[str, Mapping[str, Mapping[str, str]]],
    *,
    until: float,
) -> tuple[list[Grouping], list[str]]:
    """Group the evaluated customers.

    Args:
        stores: Histories by store.
        judged: Customers with test visits.
        bands: Store -> column -> pseudonym -> band.
        until: First day after training; activity is counted before it.

    Returns:
        The groupings with at least two groups, and notes on what was left out.
    """
    candidates = [_by_size(judged), _by_activity(stores, judged, until)]
    columns = dict.fromkeys(column for own in bands.values() for column in own)
    candidates += [_by_band(column, stores, judged, bands) for column in columns]
    notes, shown = [], []
    for grouping in candidates:
        small = [name for name, members in grouping.groups.items() if count(members) < FEWEST]
        if small:
            notes.append(
                f"Groups of fewer than {FEWEST} judged customers are left out: "
                f"{grouping.name} {', '.join(small)}."
            )
        groups = {name: m for name, m in grouping.groups.items() if name not in small}
        if len(grouping.groups) > _MOST_BANDS:
            notes.append(
                f"{grouping.name} is left out: {len(grouping.groups)} values are no coarse bands."
            )
        elif len(groups) > 1:
            shown.append(Grouping(name=grouping.name, groups=groups))
    return shown, notes


def count(members: Members) -> int:
    """Number of customers in all stores."""
    return sum(len(part) for part in members.values())


def _by_size(judged: Members) -> Grouping:
    """Thirds of the stores by the number of their customers."""
    ranked = sorted(judged, key=lambda store: (-len(judged[store]), store))
    labels = _labels(_SIZES, len(ranked))
    parts = np.array_split(np.array(ranked, dtype=object), max(len(labels), 1))
    return Grouping(
        name="store size",
        groups={
            label: {store: judged[store] for store in part}
            for label, part in zip(labels, parts, strict=False)
        },
    )


def _by_activity(stores: Mapping[str, Histories], judged: Members, until: float) -> Grouping:
    """Thirds of the customers by their visits before training ends."""
    visits = {
        name: np.diff(histories.until(until).visit_offsets)[judged[name]]
        for name, histories in stores.items()
        if name in judged
    }
    owners = [(name, int(i)) for name in visits for i in judged[name]]
    most_first = np.argsort(-np.concatenate([*visits.values(), np.zeros(0)]), kind="stable")
    labels = _labels(_ACTIVITIES, len(owners) // FEWEST)
    groups: dict[str, Members] = {}
    for label, part in zip(labels, np.array_split(most_first, max(len(labels), 1)), strict=False):
        groups[label] = _collected([owners[i] for i in part])
    return Grouping(name="activity", groups=groups)


def _by_band(
    column: str,
    stores: Mapping[str, Histories],
    judged: Members,
    bands: Mapping[str, Mapping[str, Mapping[str, str]]],
) -> Grouping:
    owners: dict[str, list[tuple[str, int]]] = {}
    for name, own in bands.items():
        known = own.get(column, {})
        for index in judged.get(name, ()):
            band = known.get(str(stores[name].customers[index]))
            if band is not None:
                owners.setdefault(band, []).append((name, int(index)))
    groups = {band: _collected(owners[band]) for band in sorted(owners)}
    return Grouping(name=column.replace("_", " "), groups=groups)


def _labels(labels: Mapping[int, tuple[str, ...]], most: int) -> tuple[str, ...]:
    """Labels of thirds where there is enough for three groups, else of halves, else none."""
    return labels[3] if most >= 3 else labels[2] if most == 2 else ()


def _collected(owners: Sequence[tuple[str, int]]) -> Members:
    members: dict[str, list[int]] = {}
    for store, index in owners:
        members.setdefault(store, []).append(index)
    return {store: np.array(own, dtype=np.int64) for store, own in members.items()}
