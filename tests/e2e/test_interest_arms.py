"""A whole run of the interest model of categories: all arms, phases, masks and noise."""

import numpy as np
import pytest
import torch

from hanse_client.pretraining.base_folder import shipped_base
from hanse_client.tasks.interest import InterestModel
from hanse_common.config import DataSettings
from hanse_common.paths import GLOBAL_FILE, OWN_MODEL_FILE
from hanse_common.recipes import grocery
from hanse_server.checkpoint import read_arrays
from hanse_simulations.run import create_run, simulate

pytestmark = pytest.mark.slow
SUMS = ("released.category-pairs", "released.class-residuals")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of five synthetic stores, and its result."""
    home = tmp_path_factory.mktemp("run")
    data = DataSettings(source="synthetic", stores=5, customers=24)
    settings = grocery().with_changes(
        {
            "recipe": "synthetic",
            "data": data.model_dump(),
            "training.expected_batch_size": 20.0,
            "federation.rounds": 4,
            "federation.evaluate_every": 4,
            "compute.workers": 1,
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HANSE_RUNS", str(home))
        patch.setenv("HANSE_CACHE", str(home / "cache"))
        folder = create_run(settings, name="small")
        yield folder, simulate(folder, settings, quiet=True)


def test_every_arm_is_judged(run):
    _, result = run
    assert set(result.arms) == {"federated", "centralized", "alone"}
    for metrics in (result.metrics, *result.arms.values()):
        assert np.isfinite(metrics["ndcg@10"])
    assert result.epsilon is not None


def test_the_private_model_holds_noisy_sums_and_the_public_base(run):
    folder, _ = run
    model = InterestModel.from_pretrained(folder.model_dir)
    for array in SUMS:
        values = model.get_parameter(array)
        assert float(values[-1]) > 0
        assert bool(values[:-1].any())
    for name, weights in shipped_base().named_parameters():
        if name != "text.weight":  # of a narrower text for few classes, and zero
            assert torch.equal(model.outlook.base.get_parameter(name), weights)
    assert bool(model.outlook.head.weight.any())


def test_without_privacy_sums_are_exact_and_the_base_is_trained(run):
    folder, _ = run
    trained = [read_arrays(folder.arm("federated").path / GLOBAL_FILE)]
    for arm in ("centralized", "alone"):
        stores = folder.arm(arm).stores_dir
        trained += [read_arrays(path) for path in stores.glob(f"*/{OWN_MODEL_FILE}")]
    assert len(trained) == 1 + 1 + 5
    base = {f"outlook.base.{name}": p for name, p in shipped_base().named_parameters()}
    for arrays in trained:
        for array in SUMS:
            assert arrays[array][-1] == 0
            assert arrays[array][:-1].any()
        output = "outlook.base.outlook.weight"
        assert not np.array_equal(arrays[output], base[output].detach().numpy())
