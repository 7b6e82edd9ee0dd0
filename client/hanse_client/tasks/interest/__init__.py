"""The interest model: item texts, shopping histories, one transformer, two heads."""

from hanse_client.model.config import InterestConfig
from hanse_client.tasks.interest.heads import Interests
from hanse_client.tasks.interest.model import (
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
