"""The studies, tasks that are evaluated on a data set of their own, by task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hanse_simulations.experiment import conversion, next_item, review
from hanse_simulations.experiment.study import ReadStudy

STUDIES: Final[Mapping[str, ReadStudy]] = {
    "next-item": next_item.read_study,
    "conversion": conversion.read_study,
    "review": review.read_study,
}
"""By the setting `task`."""
