"""Task `conversion`: will this customer redeem a coupon of this campaign? Split in time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hanse_client.features.histories import days, run_split
from hanse_client.node import Node
from hanse_client.tasks.base import Ints
from hanse_client.tasks.conversion.metrics import Conversions
from hanse_client.tasks.conversion.model import ConversionModel
from hanse_client.tasks.conversion.offers import Offers
from hanse_common.config import RunSettings

_ROWS = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class OfferDraw:
    """The customers of a step, with all that they were sent."""

    customers: Ints

    def __len__(self) -> int:
        return len(self.customers)

    def rows(self, start: int, stop: int) -> OfferDraw:
        """The rows of a slice."""
        return OfferDraw(customers=self.customers[start:stop])


@dataclass(frozen=True, kw_only=True, slots=True)
class OfferBatch:
    """Offers of B customers, K at most, padded on the right."""

    features: Tensor
    """[B, K, F]."""
    redeemed: Tensor
    """[B, K] 0 or 1."""
    mask: Tensor
    """[B, K] 1 where there is an offer."""

    def __len__(self) -> int:
        return len(self.features)

    def rows(self, start: int, stop: int) -> OfferBatch:
        """The customers of a slice."""
        part = slice(start, stop)
        return replace(
            self,
            features=self.features[part],
            redeemed=self.redeemed[part],
            mask=self.mask[part],
        )


class ConversionTask:
    """See `hanse_client.tasks.base.Task`."""

    name = "conversion"
    figures = Conversions

    def load_model(self, folder: Path) -> ConversionModel:
        """Read a conversion model."""
        model: ConversionModel = ConversionModel.from_pretrained(folder)
        return model

    def freeze(self, model: ConversionModel, settings: RunSettings) -> None:
        """Train the head."""
        model.train_only(settings.model.trainable)

    def load_data(self, node: Node) -> Offers:
        """Offers."""
        return node.prepared(Offers)

    def training_data(self, data: Offers, settings: RunSettings) -> Offers:
        """Campaigns that were over by `train_until`: of the others, what came is not known."""
        return data.over_by(days(run_split(settings).train_until))

    def training_ends(self, settings: RunSettings) -> str:
        """Somebody with such a campaign."""
        return f"customer with a campaign that was over by {run_split(settings).train_until}"

    def draw(
        self,
        data: Offers,
        customers: Ints,
        model: ConversionModel,
        settings: RunSettings,
        rng: np.random.Generator,
    ) -> OfferDraw:
        """All that they were sent; nothing is by chance."""
        return OfferDraw(customers=customers)

    def rows_at_once(self, model: ConversionModel) -> int:
        """A few dozen numbers an offer."""
        return _ROWS

    def collate(self, data: Offers, draw: OfferDraw, model: ConversionModel) -> OfferBatch:
        """Everybody's offers.

        Guarantees:
            A row depends on that customer's offers alone, but for how far it is padded.
        """
        first, sizes = data.offsets[draw.customers], data.sizes[draw.customers]
        width = int(sizes.max(initial=1))
        there = np.arange(width) < sizes[:, None]
        place = np.where(there, first[:, None] + np.arange(width), 0)
        features = np.where(there[..., None], data.features[place], np.float32(0))
        return OfferBatch(
            features=torch.from_numpy(features),
            redeemed=torch.from_numpy((data.redeemed[place] & there).astype(np.float32)),
            mask=torch.from_numpy(there.astype(np.float32)),
        )

    def losses(self, model: ConversionModel, batch: OfferBatch, settings: RunSettings) -> Tensor:
        """Mean of a customer's binary cross-entropies, [B]: many offers count for no more."""
        each = torch.nn.functional.binary_cross_entropy_with_logits(
            model(batch.features), batch.redeemed.to(batch.features.dtype), reduction="none"
        )
        mean: Tensor = (each * batch.mask).sum(1) / batch.mask.sum(1).clamp(min=1)
        return mean

    def evaluate(
        self, data: Offers, model: ConversionModel, settings: RunSettings, split: str
    ) -> Conversions:
        """Judge every offer of the campaigns that start in the split's days."""
        held = held_out(data, settings, split)
        with torch.inference_mode():
            chances = torch.sigmoid(model(torch.from_numpy(held.features))).numpy()
        return judged(held, chances)


def held_out(data: Offers, settings: RunSettings, split: str) -> Offers:
    """The offers that `validate` or `test` asks for."""
    times = run_split(settings)
    if split == "validate":
        return data.starting(days(times.train_until), days(times.validate_until))
    return data.starting(days(times.validate_until), days(times.test_until))


def judged(held: Offers, chances: npt.NDArray[np.float32]) -> Conversions:
    """Chances beside what came.

    Args:
        held: E offers.
        chances: [E].
    """
    return Conversions(
        chances=chances,
        redeemed=held.redeemed,
        campaigns=held.campaigns,
        customers=held.owners,
    )
