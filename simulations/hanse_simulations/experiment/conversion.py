"""`hanse simulate conversion`: predict which customers redeem a campaign's coupons.

The production ServerApp and ClientApp do the work, as in every simulation. Arms, in addition to
the baselines (`hanse_simulations.evaluation.conversion_baselines`):

- `centralized`: all offers in one place, the same head without privacy
- `federated`: the stores without privacy
- `federated_private`, `federated_private_half`: at the target ε and at half of it, masked
  sums with the noise shared among the stores
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from hanse_client.features.histories import run_split
from hanse_client.tasks.conversion.features import NAMES, USUAL_RATE
from hanse_client.tasks.conversion.model import ConversionModel
from hanse_client.tasks.conversion.offers import Offers
from hanse_client.tasks.conversion.task import ConversionTask, held_out
from hanse_common.config import RunSettings
from hanse_common.errors import ConfigError
from hanse_common.recipes import conversion, conversion_centralized, conversion_federated
from hanse_simulations.datasets.campaigns import Mailed, load
from hanse_simulations.datasets.complete_journey import FROZEN_STORES
from hanse_simulations.evaluation.conversion_baselines import judge_baselines
from hanse_simulations.experiment.study import Study
from hanse_simulations.monitoring.progress import Progress

_TASK = ConversionTask()


def read_study(settings: RunSettings, progress: Progress) -> Study:
    """Read campaigns, and the purchases before each.

    Raises:
        ConfigError: The settings name other data than Complete Journey.
        MissingDependency, DataError: It is not installed, or cannot be read.
    """
    if settings.data.source != "complete-journey":
        raise ConfigError(
            f"data.source={settings.data.source!r} has no campaigns",
            hint="the task 'conversion' is simulated on 'complete-journey'",
        )
    progress.note("reading campaigns and what was bought before each")
    mailed = load(settings.data, seed=settings.seed)
    stores = dict(mailed.stores)
    return replace(
        study_of(stores),
        data_note=_data_note(mailed, settings),
        baselines=lambda: judge_baselines(list(stores.values()), settings),
        left_out=mailed.left_out,
        notes=_notes(settings),
    )


def study_of(stores: Mapping[str, Offers]) -> Study:
    """The study of stores' offers; an arm with one store gets the offers of all in it."""
    pooled = Offers.pooled(list(stores.values()))

    def laid_out(settings: RunSettings) -> Mapping[str, Offers]:
        return {"all": pooled} if settings.data.stores == 1 else stores

    return Study(
        data=pooled,
        base=lambda settings: ConversionModel.fresh(NAMES, usual_rate=USUAL_RATE),
        private=conversion,
        federated=conversion_federated,
        centralized=conversion_centralized,
        stores=laid_out,
    )


def _data_note(mailed: Mailed, settings: RunSettings) -> str:
    stores = [store for _, store in mailed.stores]
    known = [_TASK.training_data(store, settings) for store in stores]
    tested = [held_out(store, settings, "test") for store in stores]
    sizes = [
        f"{len({int(one) for store in part for one in store.campaigns})} campaigns, "
        f"{sum(len(store.redeemed) for store in part):,} offers, "
        f"{sum(int(store.redeemed.sum()) for store in part):,} redeemed"
        for part in (known, tested)
    ]
    left = "".join(f"; {count:,} {reason}" for reason, count in mailed.left_out.items())
    return f"trained on {sizes[0]}; tested on {sizes[1]}" + (
        f". Left out{left[1:]}" if left else ""
    )


def _notes(settings: RunSettings) -> list[str]:
    split = run_split(settings)
    return [
        f"Training: campaigns that were over by {split.train_until:%Y-%m-%d}. Test: campaigns "
        f"that begin from {split.validate_until:%Y-%m-%d} to before {split.test_until:%Y-%m-%d}; "
        "what is redeemed after the data end on 2017-12-31 is not seen.",
        "auc judges all offers together, auc_within the customers of one campaign among "
        "themselves, a mean over campaigns by their redemptions; ap is average precision, ece "
        "calibration error, mean_predicted the mean chance and observed the share that redeemed.",
        FROZEN_STORES,
        "Sampling and noise are seeded, so that the run can be repeated: a simulation, not a "
        "release.",
    ]
