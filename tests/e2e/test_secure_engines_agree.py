"""With secure aggregation on, every engine gives the same model and charges the same."""

import pytest

from hanse_client.node import Node
from hanse_common.paths import GLOBAL_FILE
from hanse_server.rounds import run_rounds
from hanse_server.stage_log import read_stages
from hanse_simulations.engines import CLIENT_APP, run_federation
from hanse_simulations.engines.client import AnsweringClientApp
from kits.apps.secure_federation import SecureFederation


def outcome(folder):
    """The model's bytes, what every store has spent, and all sums and refusals."""
    spent = [Node(path.parent).spent() for path in sorted(folder.glob("*/*/ledger.sqlite"))]
    columns = ("round", "stage", "split", "replies", "refusals", "sums")
    lines = [[line[column] for column in columns] for line in read_stages(folder)]
    return (folder / GLOBAL_FILE).read_bytes(), spent, lines


@pytest.fixture
def one_after_the_other(federation):
    """Every store answers in this very process, in turn."""
    federation.faults.client = AnsweringClientApp(CLIENT_APP)
    run_rounds(federation.grid(measures_at_home=True), federation.folder.path, federation.settings)
    return outcome(federation.folder.path)


@pytest.fixture
def on_engine(secure_stores, tmp_path):
    def run(name, **compute):
        settings, prepared = secure_stores
        changes = {f"compute.{key}": value for key, value in compute.items()}
        folder = tmp_path / name
        folder.mkdir()
        federation = SecureFederation(folder, settings.with_changes(changes), prepared)
        run_federation(folder, federation.folder.stores_dir, federation.settings)
        return outcome(folder)

    return run


def test_workers_do_not_change_the_masked_model(one_after_the_other, on_engine):
    assert on_engine("workers", workers=2) == one_after_the_other
    _, spent, lines = one_after_the_other
    assert [sum(steps.count for steps in paid) for paid in spent] == [4] * 5
    assert [line[3] for line in lines if line[1] == "train"] == [5, 5]


@pytest.mark.slow
def test_ray_and_one_worker_give_the_same_masked_model(one_after_the_other, on_engine):
    assert on_engine("one", workers=1) == one_after_the_other
    assert on_engine("ray", engine="ray", workers=2) == one_after_the_other
