"""The adapter of the task `conversion`; data are split in time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hanse_client.features.histories import days, run_split
from hanse_client.node import Node
from hanse_client.tasks.base import InitialModel, Ints, WithoutStatistics
from hanse_client.tasks.conversion.metrics import Conversions
from hanse_client.tasks.conversion.model import ConversionModel
from hanse_client.tasks.conversion.offers import Offers
from hanse_common.config import RunSettings
from hanse_common.errors import ConfigError

if TYPE_CHECKING:
    from hanse_client.features.prepare import PreparedData
    from hanse_client.ingest.store_config import StoreConfig

_ROWS = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class _OfferDraw:
    """The customers of a step; each has all of their offers."""

    customers: Ints

    def __len__(self) -> int:
        return len(self.customers)

    def rows(self, start: int, stop: int) -> _OfferDraw:
        """The rows of a slice."""
        return _OfferDraw(customers=self.customers[start:stop])


@dataclass(frozen=True, kw_only=True, slots=True)
class _OfferBatch:
    """Offers of B customers, at most K each, padded on the right."""

    features: Tensor
    """[B, K, F]."""
    redeemed: Tensor
    """[B, K] 0 or 1."""
    mask: Tensor
    """[B, K] 1 for an offer, 0 for padding."""

    def __len__(self) -> int:
        return len(self.features)

    def rows(self, start: int, stop: int) -> _OfferBatch:
        """The customers of a slice."""
        part = slice(start, stop)
        return replace(
            self,
            features=self.features[part],
            redeemed=self.redeemed[part],
            mask=self.mask[part],
        )


class ConversionTask(WithoutStatistics):
    """See `hanse_client.tasks.base.Task`."""

    name = "conversion"
    figures = Conversions

    def initial_model(
        self, public: Path | None, settings: RunSettings, *, cache: Path
    ) -> InitialModel:
        """A model of the features of offers, which needs no public file.

        Raises:
            ConfigError: A file is named.
        """
        # Imported on use, as in `prepare`: polars, which a round does not need.
        from hanse_client.tasks.conversion.features import NAMES, USUAL_RATE

        if public is not None:
            raise ConfigError(
                f"the task 'conversion' needs no public file, and {public} is named",
                hint="leave it out; a store's own catalogue and campaigns are in its store.toml",
            )
        return InitialModel(model=ConversionModel.fresh(NAMES, usual_rate=USUAL_RATE), classes=2)

    def prepare(
        self,
        store: StoreConfig,
        settings: RunSettings,
        *,
        model: Path,
        cache: Path,
        report: Callable[[str], None] = lambda _: None,
    ) -> PreparedData:
        """Features and outcomes of offers: see `prepare_own_offers`."""
        from hanse_client.tasks.conversion.prepare import prepare_own_offers

        return prepare_own_offers(store, settings)

    def load_model(self, folder: Path) -> ConversionModel:
        """Read a conversion model."""
        model: ConversionModel = ConversionModel.from_pretrained(folder)
        return model

    def freeze(self, model: ConversionModel, settings: RunSettings) -> None:
        """Train the head."""
        model.train_only(settings.model.trainable)

    def load_data(self, node: Node) -> Offers:
        """The store's prepared offers."""
        return node.prepared(Offers)

    def training_data(self, data: Offers, settings: RunSettings) -> Offers:
        """Offers of campaigns that ended before `train_until`; others have no outcome yet."""
        return data.over_by(days(run_split(settings).train_until))

    def training_ends(self, settings: RunSettings) -> str:
        """See `Task.training_ends`."""
        return f"customer with a campaign that was over by {run_split(settings).train_until}"

    def draw(
        self,
        data: Offers,
        customers: Ints,
        model: ConversionModel,
        settings: RunSettings,
        rng: np.random.Generator,
    ) -> _OfferDraw:
        """All offers of each customer; nothing is random."""
        return _OfferDraw(customers=customers)

    def rows_at_once(self, model: ConversionModel) -> int:
        """A constant, as an offer has a few dozen numbers."""
        return _ROWS

    def collate(self, data: Offers, draw: _OfferDraw, model: ConversionModel) -> _OfferBatch:
        """Pad each customer's offers to the longest list of the draw.

        Guarantees:
            A row depends only on that customer's offers, except for the amount of padding.
        """
        first, sizes = data.offsets[draw.customers], data.sizes[draw.customers]
        width = int(sizes.max(initial=1))
        there = np.arange(width) < sizes[:, None]
        place = np.where(there, first[:, None] + np.arange(width), 0)
        features = np.where(there[..., None], data.features[place], np.float32(0))
        return _OfferBatch(
            features=torch.from_numpy(features),
            redeemed=torch.from_numpy((data.redeemed[place] & there).astype(np.float32)),
            mask=torch.from_numpy(there.astype(np.float32)),
        )

    def losses(self, model: ConversionModel, batch: _OfferBatch, settings: RunSettings) -> Tensor:
        """Each customer's mean binary cross-entropy [B], however many offers they have."""
        each = torch.nn.functional.binary_cross_entropy_with_logits(
            model(batch.features), batch.redeemed.to(batch.features.dtype), reduction="none"
        )
        # Padding has weight 0; a mean over K instead would depend on the longest other row.
        mean: Tensor = (each * batch.mask).sum(1) / batch.mask.sum(1).clamp(min=1)
        return mean

    def evaluate(
        self, data: Offers, model: ConversionModel, settings: RunSettings, split: str
    ) -> Conversions:
        """Predict every offer of the campaigns that begin during the split."""
        offers = held_out(data, settings, split)
        with torch.inference_mode():
            chances = torch.sigmoid(model(torch.from_numpy(offers.features))).numpy()
        return judged(offers, chances)


def held_out(data: Offers, settings: RunSettings, split: str) -> Offers:
    """The offers of the campaigns that begin during `validate` or `test`."""
    times = run_split(settings)
    if split == "validate":
        return data.starting(days(times.train_until), days(times.validate_until))
    return data.starting(days(times.validate_until), days(times.test_until))


def judged(offers: Offers, chances: npt.NDArray[np.float32]) -> Conversions:
    """Predicted probabilities with the outcomes of the offers.

    Args:
        offers: E offers.
        chances: [E] predicted probabilities.
    """
    return Conversions(
        chances=chances,
        redeemed=offers.redeemed,
        campaigns=offers.campaigns,
        customers=offers.owners,
    )
