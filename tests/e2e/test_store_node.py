"""A store's node against Flower's own SuperLink: TLS, authentication, the pin, real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from apps.deployment import Coordinator, Joined, lay_out_store
from hanse_client.operate import enrolling
from hanse_client.operate.folder import StoreFolder
from hanse_client.operate.joining import prepare
from hanse_client.train import trained_arrays
from hanse_common.model import InterestModel

pytestmark = pytest.mark.slow

NAMES = ["bremen", "luebeck", "rostock"]


class Federation:
    """Three stores that have come in by the production commands' own functions."""

    def __init__(self, folder: Path, settings, data: list[Path], base: Path, **terms) -> None:
        self.settings = settings
        self.coordinator = Coordinator(folder / "coordinator")
        self.stores: dict[str, StoreFolder] = {}
        self.joined: list[Joined] = []
        model = InterestModel.from_pretrained(base)
        model.train_only(settings.model.trainable)
        for name, source in zip(NAMES, data, strict=True):
            store = lay_out_store(folder / name, name, source)
            enrolling.accept_invitation(store, self.coordinator.invitation())
            certificate = self.coordinator.admit(enrolling.write_request(store))
            enrolling.accept_certificate(store, certificate)
            self.stores[name] = store
        self.run = self.coordinator.found_run(
            "run", settings, trained_arrays(model), NAMES, **terms
        )
        for store in self.stores.values():
            enrolling.accept_manifest(store, self.run / "manifest.json")
            enrolling.accept_settings(store, self.run / "settings.json")
            enrolling.accept_model(store, base)
            prepare(store)

    def join(self, *names: str) -> list[Joined]:
        started = [Joined(self.stores[name].path) for name in names or NAMES]
        self.joined += started
        for process in started:
            process.wait_for("connected to")
        return started

    def stop(self) -> None:
        for process in self.joined:
            process.stop()
        self.coordinator.stop()


@pytest.fixture
def found(secure_stores, store_cache, tmp_path):
    """Found a federation of three small synthetic stores; ends every process afterwards."""
    from hanse_simulations.shops import make_stores

    settings, prepared = secure_stores
    data = make_stores(settings.data, seed=settings.seed, cache=store_cache).folders[:3]
    made: list[Federation] = []

    def found(changes=(), **terms) -> Federation:
        changed = settings.with_changes(
            {
                "federation.rounds": 1,
                "federation.evaluate_every": 1,
                "federation.minimum_cohort": 3,
                **dict(changes),
            }
        )
        federation = Federation(tmp_path, changed, data, prepared.base_model, **terms)
        made.append(federation)
        return federation

    yield found
    for federation in made:
        federation.stop()


def test_a_private_round_over_tls_with_authentication(found):
    federation = found()
    federation.join()
    run = federation.coordinator.start_run(federation.run, stores=3)
    status = federation.coordinator.wait_for_run(run)
    assert status.sub_status == "completed", federation.coordinator.logged()
    assert (federation.run / "checkpoints").exists()
    for store in federation.stores.values():
        (charge,) = store.node().ledger.entries()
        assert (charge.kind, charge.release.round) == ("charge", 1)
