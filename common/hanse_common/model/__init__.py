"""The interest model: item texts, shopping histories, one transformer, two heads."""

from hanse_common.model.config import InterestConfig
from hanse_common.model.heads import Interests
from hanse_common.model.interest import (
    Batch,
    InterestModel,
    InterestOutput,
    customer_losses,
    is_rule,
)

__all__ = [
    "Batch",
    "InterestConfig",
    "InterestModel",
    "InterestOutput",
    "Interests",
    "customer_losses",
    "is_rule",
]
