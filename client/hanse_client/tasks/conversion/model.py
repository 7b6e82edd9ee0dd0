"""The conversion model: a logistic regression on an offer's features.

- one linear layer with a bias over the features of `features.NAMES`
- added to the logit of the customer's prior rate, which an untrained model therefore predicts
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from hanse_client.model.config import ConversionConfig


class ConversionModel(PreTrainedModel):
    """Predicts conversions.

    Example:
        >>> from torch import sigmoid, tensor
        >>> model = ConversionModel.fresh(["prior", "visits"], usual_rate=0.05)
        >>> round(sigmoid(model(tensor([[0.0, 3.0]]))).item(), 6)
        0.05
    """

    config: ConversionConfig
    config_class = ConversionConfig
    base_model_prefix = "hanse"

    def __init__(self, config: ConversionConfig) -> None:
        super().__init__(config)
        self.head = nn.Linear(len(config.features), 1)
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: `fresh` sets new weights, and weights of a file stay as they are."""

    @classmethod
    def fresh(cls, features: Sequence[str], *, usual_rate: float) -> ConversionModel:
        """A model that predicts every customer's prior rate.

        Args:
            features: Names of the features, the prior first.
            usual_rate: The prior rate of a customer without campaigns, in (0, 1).
        """
        model = cls(ConversionConfig(features=features, usual_rate=usual_rate))
        nn.init.zeros_(model.head.weight)
        nn.init.zeros_(model.head.bias)
        return model

    def forward(self, features: Tensor) -> Tensor:
        """Predict conversions.

        Args:
            features: [..., F].

        Returns:
            [...] logits of a conversion.
        """
        usual = math.log(self.config.usual_rate / (1 - self.config.usual_rate))
        correction: Tensor = self.head(features).squeeze(-1)
        # Feature 0 is the prior's logit less the usual one, so the sum starts at the prior.
        return usual + features[..., 0] + correction

    def train_only(self, part: str) -> Sequence[str]:
        """Make the head trainable; returns the sorted names of its parameters.

        Args:
            part: The value of `model.trainable`, which makes no difference here.
        """
        self.requires_grad_(True)
        return sorted(name for name, _ in self.named_parameters())


# A second import under another name, as by a tool that collects doctests, is no error.
AutoConfig.register(ConversionConfig.model_type, ConversionConfig, exist_ok=True)
AutoModel.register(ConversionConfig, ConversionModel, exist_ok=True)
