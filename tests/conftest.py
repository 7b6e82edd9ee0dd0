"""Makes what lies beside the tests importable, in worker processes too, and shares stores.

A test that hangs ends its process, with the stack of every thread: the run goes on in another one,
and names the test.
"""

import faulthandler
import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

# The same examples each time: a fault that chance finds belongs to whoever looks for it, with
# `--hypothesis-profile random`.
settings.register_profile("fixed", derandomize=True)
settings.register_profile("random", derandomize=False)
settings.load_profile("fixed")

_SECONDS, _SECONDS_IF_SLOW = 300, 1800
"""After which a test, with what sets it up, is taken to hang: many times what any takes."""
_stderr = sys.stderr


def pytest_configure():
    # While a test runs, the file descriptor itself leads to what is captured.
    global _stderr
    _stderr = os.fdopen(os.dup(2), "w")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    slow = item.get_closest_marker("slow") is not None
    seconds = _SECONDS_IF_SLOW if slow else _SECONDS
    faulthandler.dump_traceback_later(seconds, exit=True, file=_stderr)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session")
def store_cache(tmp_path_factory):
    """One cache of made and prepared stores for a whole test process."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def small_settings():
    """Two synthetic stores of 24 customers each, two private rounds."""
    from hanse_common.recipes import synthetic

    return synthetic().with_changes(
        {
            "model.kind": "visits",
            "data.stores": 2,
            "data.customers": 24,
            "federation.rounds": 2,
            "federation.evaluate_every": 1,
            "federation.secure_aggregation": False,
            "privacy.mode": "local",
            "federation.strategy": "FedAvg",
            "federation.strategy_options": {},
            "training.local_steps": 2,
            "training.sample_rate": 0.5,
            "compute.workers": 1,
            "privacy.noise_multiplier": 4.0,
        }
    )


@pytest.fixture(scope="session")
def small_stores(small_settings, store_cache):
    """The prepared stores of `small_settings`, and the settings with their split."""
    from hanse_simulations.datasets import make_stores
    from hanse_simulations.experiment.prepare import prepare_stores

    stores = make_stores(small_settings.data, seed=small_settings.seed, cache=store_cache)
    settings = small_settings.with_changes({"data.split": stores.split.model_dump()})
    return settings, prepare_stores(stores.folders, settings, store_cache)


@pytest.fixture
def small_node(small_stores, tmp_path):
    """A fresh node of the first small store, with the settings."""
    from hanse_client.node import Node, list_nodes
    from hanse_simulations.experiment.prepare import make_nodes
    from hanse_simulations.runs.arm_folder import ArmFolder

    settings, prepared = small_stores
    federation = make_nodes(prepared, ArmFolder(tmp_path), settings, salt="test")
    return Node(list_nodes(federation)[0]), settings


@pytest.fixture(scope="session")
def secure_stores(store_cache):
    """Five prepared synthetic stores of 24 customers, any one of which a round can lose."""
    from hanse_common.recipes import synthetic
    from hanse_simulations.datasets import make_stores
    from hanse_simulations.experiment.prepare import prepare_stores

    settings = synthetic().with_changes(
        {
            "model.kind": "visits",
            "data.stores": 5,
            "data.customers": 24,
            "federation.rounds": 2,
            "federation.evaluate_every": 2,
            "federation.strategy": "FedAvg",
            "federation.strategy_options": {},
            "federation.minimum_cohort": 4,
            "privacy.target_epsilon": 8.0,
            "privacy.mode": "local",
            "training.local_steps": 2,
            "training.sample_rate": 0.5,
            "compute.workers": 1,
            "privacy.noise_multiplier": 4.0,
        }
    )
    stores = make_stores(settings.data, seed=settings.seed, cache=store_cache)
    settings = settings.with_changes({"data.split": stores.split.model_dump()})
    return settings, prepare_stores(stores.folders, settings, store_cache)


@pytest.fixture
def found_federation(secure_stores, tmp_path, monkeypatch):
    """Enrol the five stores in a federation with changed settings; returns it."""
    from kits.apps.secure_federation import SecureFederation

    def found(changes=(), name="federation"):
        settings, prepared = secure_stores
        folder = tmp_path / name
        folder.mkdir()
        federation = SecureFederation(folder, settings.with_changes(dict(changes)), prepared)
        monkeypatch.setenv("HANSE_FEDERATION", str(federation.folder.stores_dir))
        federation.skip_clipping_check()
        return federation

    return found


@pytest.fixture
def counting(secure_stores, tmp_path, monkeypatch):
    """Enrol the five stores for one release of statistics, then rounds of gradients."""
    from hanse_common.privacy.plan import solved, unsolved
    from kits.apps import counting_task
    from kits.apps.secure_federation import SecureFederation

    def make(
        mode="distributed", *, task=counting_task.CountingTask, name="run", **changes
    ) -> SecureFederation:
        counting_task.install(monkeypatch, task)
        settings, prepared = secure_stores
        settings = unsolved(settings).with_changes(
            {
                "task": "counting",
                "privacy.mode": mode,
                "training.local_steps": 1,
                "training.sample_rate": 1.0,
                "federation.rounds": 3,
                "federation.evaluate_every": 3,
                "federation.secure_aggregation": True,
                "privacy.statistics_noise_multiplier": 100.0,
                "phases": [
                    {
                        "name": counting_task.PHASE,
                        "release": "statistics",
                        "share": 0.5,
                        "max_norm": 64.0,
                    },
                    {"share": 0.5},
                ],
                **changes,
            }
        )
        folder = tmp_path / name
        folder.mkdir()
        federation = SecureFederation(folder, solved(settings), prepared)
        federation.skip_clipping_check()
        monkeypatch.setenv("HANSE_FEDERATION", str(federation.folder.stores_dir))
        return federation

    yield make
    counting_task.task_of.cache_clear()


@pytest.fixture
def federation(found_federation):
    """Five enrolled stores, as they come."""
    return found_federation()


@pytest.fixture(scope="session")
def logged_run(secure_stores, tmp_path_factory):
    """The five stores' federation after two rounds to their end; copy it to change it."""
    from hanse_server.rounds import run_rounds
    from kits.apps.secure_federation import SecureFederation

    settings, prepared = secure_stores
    federation = SecureFederation(tmp_path_factory.mktemp("logged"), settings, prepared)
    federation.skip_clipping_check()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HANSE_FEDERATION", str(federation.folder.stores_dir))
        run_rounds(federation.grid(), federation.folder.path, settings)
    return federation
