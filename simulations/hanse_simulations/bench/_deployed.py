"""Set up a coordinator and its stores on loopback, ready to be started and measured.

Every file is made by the functions behind the operators' commands; only the files that people
would carry from one machine to another stay on this one.
"""

from __future__ import annotations

import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

import tomli_w
from transformers.utils.logging import disable_progress_bar

from hanse_client.deployment import enrol
from hanse_client.deployment.folder import StoreFolder, create
from hanse_client.deployment.preparing import prepare
from hanse_client.model.base_model import make_base_model
from hanse_common.admission import Invitation
from hanse_common.config import RunSettings
from hanse_common.identity import AuthorityKey
from hanse_common.paths import CATALOGUE_FILE, STORES_FOLDER, TEXTS_FOLDER
from hanse_common.recipes import synthetic
from hanse_server.deployment.admit import admit, open_request
from hanse_server.deployment.folder import FederationFolder
from hanse_server.deployment.init import init_federation
from hanse_server.deployment.sign import sign_manifest
from hanse_simulations.datasets import make_stores

_CUSTOMERS = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployed:
    """A federation whose stores are admitted and have everything that a round needs."""

    federation: FederationFolder
    settings: RunSettings
    stores: tuple[Path, ...]


def make_deployment(folder: Path, *, stores: int, rounds: int) -> Deployed:
    """Set up a federation of small synthetic stores.

    Args:
        folder: An empty folder.
        stores: Number of stores.
        rounds: Rounds of each run that will follow.

    Raises:
        HanseError: One of the operators' steps failed.
    """
    disable_progress_bar()
    settings = _settings(stores, rounds)
    made = make_stores(settings.data, seed=settings.seed, cache=folder / "cache")
    settings = settings.with_changes({"data.split": made.split.model_dump()})
    federation = FederationFolder(folder / "federation")
    fleet, superlink = free_ports(2)
    init_federation(
        federation,
        name="bench",
        address=f"127.0.0.1:{fleet}",
        bind="127.0.0.1",
        superlink_port=superlink,
    )
    text = tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True))
    federation.resolve(federation.file.settings).write_text(text, encoding="utf-8")
    catalogue = made.folders[0].parent / CATALOGUE_FILE
    model = federation.resolve(federation.file.model)
    make_base_model(catalogue, settings, folder=model, cache=folder / "cache" / TEXTS_FOLDER)
    (folder / STORES_FOLDER).mkdir()
    shutil.copyfile(catalogue, folder / STORES_FOLDER / catalogue.name)
    authority = AuthorityKey.load(federation.authority_key)
    invitation = Invitation.load(federation.invitation)
    homes = []
    for number, data in enumerate(made.folders, start=1):
        store = StoreFolder(folder / STORES_FOLDER / f"store-{number}")
        create(store, store.path.name)
        shutil.copytree(data, store.path, dirs_exist_ok=True)
        enrol.accept_invitation(store, invitation)
        request = open_request(federation, enrol.write_request(store))
        admit(federation, request, authority)
        enrol.accept_certificate(store, federation.certificate(request.store_id))
        homes.append(store)
    # Signed after all are admitted: the manifest names the roster that every store then accepts.
    sign_manifest(federation, authority)
    for store in homes:
        _allow(store, stores)
        enrol.accept_manifest(store, federation.manifest)
        enrol.accept_settings(store, federation.settings)
        enrol.accept_model(store, model)
        prepare(store)
    return Deployed(
        federation=federation, settings=settings, stores=tuple(store.path for store in homes)
    )


def _settings(stores: int, rounds: int) -> RunSettings:
    return synthetic().with_changes(
        {
            "data.stores": stores,
            "data.customers": _CUSTOMERS,
            "federation.rounds": rounds,
            "federation.evaluate_every": rounds,
            "federation.strategy": "FedAvg",
            "federation.strategy_options": {},
            "federation.minimum_cohort": min(stores, 5),
            "privacy.mode": "local",
            "privacy.target_epsilon": 8.0,
            "training.sample_rate": 0.5,
        }
    )


def _allow(store: StoreFolder, stores: int) -> None:
    """Lower a store policy's minimum cohort to the few stores that are measured."""
    text = store.policy.read_text(encoding="utf-8")
    text = text.replace("minimum_cohort = 5", f"minimum_cohort = {min(stores, 5)}")
    text = text.replace("max_epsilon = 8.0", "max_epsilon = 100.0")  # both runs charge the ledger
    store.policy.write_text(text, encoding="utf-8")


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address on which no process listens now."""
    # All are held at once, or the system could hand out the same port twice.
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [int(one.getsockname()[1]) for one in servers]
    finally:
        for one in servers:
            one.close()
