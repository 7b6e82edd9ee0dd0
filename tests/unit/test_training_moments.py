"""The past moments of a customer that baselines are fitted to."""

import numpy as np
import pytest

from hanse_client.features.histories import days
from hanse_client.tasks.interest import InterestConfig
from hanse_simulations.evaluation.baselines import outlook_batches
from hanse_simulations.evaluation.boosted_trees import Trees


@pytest.fixture
def training(small_stores):
    settings, prepared = small_stores
    until = days(settings.data.split.train_until)
    stores = [store.until(until) for store in prepared.load()]
    return settings, stores, until, InterestConfig.from_pretrained(prepared.base_model)


@pytest.mark.parametrize(("moments", "apart"), [(2, None), (3, 7.0), (500, 14.0)])
def test_every_customer_has_as_many_moments_as_the_references_leave_room_for(
    training, moments, apart
):
    _, stores, until, config = training
    seen = list(outlook_batches(stores, until, config, moments_each=moments, days_apart=apart))
    room = until - stores[0].observed_from - config.horizon_days - config.reference_days
    fitting = 1 + int(room // (apart or config.horizon_days))
    assert {batch.outlook.shape[1] for batch in seen} == {min(moments, fitting)}
    assert sum(len(batch.outlook) for batch in seen) == sum(len(s.active()) for s in stores)


def test_the_last_outlook_ends_with_the_training(training):
    _, stores, until, config = training
    last = next(outlook_batches(stores, until, config, moments_each=1))
    later = next(outlook_batches(stores, until + 7, config, moments_each=2, days_apart=7.0))
    np.testing.assert_array_equal(later.outlook[:, 1].numpy(), last.outlook[:, 0].numpy())


def test_trees_fitted_twice_with_a_seed_are_the_same(training):
    settings, stores, until, config = training
    batch = next(outlook_batches(stores, until, config, moments_each=1))
    first, second = (Trees.fit(stores, settings, config, seed=3).scores(batch) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
