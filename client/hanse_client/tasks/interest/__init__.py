"""Task `interest`: predicts the next basket, the outlook and the visits of a shop's customers."""

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
