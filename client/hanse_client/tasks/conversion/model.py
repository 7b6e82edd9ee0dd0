"""The conversion model: will this customer redeem a coupon of this campaign?

- one linear head over what was known before the campaign, a weight a fact and one more
- added to the customer's own prior rate, so that a model that learnt nothing says that rate
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from transformers import PreTrainedModel

from hanse_client.model.config import ConversionConfig


class ConversionModel(PreTrainedModel):
    """Foretells conversions.

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
        """Nothing: `fresh` does, and what is read from a file stays as it is."""

    @classmethod
    def fresh(cls, features: Sequence[str], *, usual_rate: float) -> ConversionModel:
        """A model that says every customer's prior rate.

        Args:
            features: Names of what is known, the prior first.
            usual_rate: In (0, 1).
        """
        model = cls(ConversionConfig(features=features, usual_rate=usual_rate))
        nn.init.zeros_(model.head.weight)
        nn.init.zeros_(model.head.bias)
        return model

    def forward(self, features: Tensor) -> Tensor:
        """Judge offers.

        Args:
            features: [..., F].

        Returns:
            [...] logits of a conversion.
        """
        usual = math.log(self.config.usual_rate / (1 - self.config.usual_rate))
        learnt: Tensor = self.head(features).squeeze(-1)
        return usual + features[..., 0] + learnt

    def train_only(self, part: str) -> Sequence[str]:
        """Train the head, which is all there is; returns its parameters' names, sorted.

        Args:
            part: Whatever `model.trainable` says.
        """
        self.requires_grad_(True)
        return sorted(name for name, _ in self.named_parameters())
