"""Enrol the simulated stores in a federation, as an enrolment authority would.

Keys, certificates, signed manifest and policies are those of a deployment. Only the authority
is simulated: its key exists only until everything is signed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from hanse_client.node import Node, list_nodes
from hanse_common.config import RunSettings
from hanse_common.durable import write_durably
from hanse_common.identity import AuthorityKey, CoordinatorKey, StoreKey
from hanse_common.manifest import Manifest, SignedManifest
from hanse_common.manifest_terms import base_model_digest, manifest_for
from hanse_common.paths import (
    AUTHORITY_FILE,
    CERTIFICATE_FILE,
    COORDINATOR_KEY_FILE,
    MANIFEST_FILE,
    POLICY_FILE,
    STORE_KEY_FILE,
)
from hanse_simulations.runs.arm_folder import ArmFolder

_VALID_SECONDS = 10 * 365 * 86400


def enrol_stores(
    arm: ArmFolder,
    settings: RunSettings,
    arrays: Mapping[str, npt.NDArray[Any]],
    keys: Mapping[str, StoreKey] | None = None,
) -> None:
    """Enrol every node of an arm, and give the coordinator the manifest.

    Does nothing if that was done before.

    Args:
        arm: The arm's folder, with its nodes.
        settings: The arm's settings, with the noise solved.
        arrays: The trained parameters that the first round starts from.
        keys: Keys of stores from an earlier run, by store; others get new ones.

    Raises:
        ConfigError: There are too few stores to hide one among them.
        ProtocolError [unsafe-terms]: The settings' terms break one of the protocol's promises.
    """
    if (arm.path / MANIFEST_FILE).exists():
        return
    nodes = [Node(folder) for folder in list_nodes(arm.stores_dir)]
    ids = store_ids([node.name for node in nodes])
    authority = AuthorityKey.generate()
    coordinator = CoordinatorKey.generate()
    (arm.path / COORDINATOR_KEY_FILE).unlink(missing_ok=True)  # of a start that was cut short
    coordinator.save(arm.path / COORDINATOR_KEY_FILE)
    manifest = manifest_for(
        settings, arrays, ids, federation=settings.recipe, log_key=coordinator.public
    )
    base = base_model_digest(nodes[0].settings.base_model)
    manifest = manifest.model_copy(update={"base_digest": base and base.hex()})
    signed = SignedManifest.sign(manifest, authority)
    now = int(time.time())
    for node, store_id in zip(nodes, ids, strict=True):
        folder = node.settings.enrolment
        if folder is None:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        (folder / STORE_KEY_FILE).unlink(missing_ok=True)  # of a start that was cut short
        key = (keys or {}).get(node.name) or StoreKey.generate()
        key.save(folder / STORE_KEY_FILE)
        certificate = authority.certify(
            store_id, key.public, valid_from=now - 3600, valid_until=now + _VALID_SECONDS
        )
        certificate.save(folder / CERTIFICATE_FILE)
        write_durably(folder / POLICY_FILE, _policy(authority.public, manifest))
        signed.save(folder / MANIFEST_FILE)
    write_durably(arm.path / AUTHORITY_FILE, authority.public.hex() + "\n")
    # Written last: its presence says that the enrolment is complete.
    signed.save(arm.path / MANIFEST_FILE)


def store_ids(names: Sequence[str]) -> list[str]:
    """Turn stores' names into ids that a certificate can hold; equal ones are numbered.

    >>> store_ids(["Region 1", "region-1", "Lübeck!"])
    ['region-1', 'region-1-2', 'l-beck']
    """
    ids: list[str] = []
    for name in names:
        base = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:56] or "store"
        candidate, count = base, 1
        while candidate in ids:
            count += 1
            candidate = f"{base}-{count}"
        ids.append(candidate)
    return ids


def _policy(authority: bytes, manifest: Manifest) -> str:
    """A store's policy, with limits as tight as this federation's terms allow."""
    privacy = manifest.privacy
    lines = [
        f'authority = "{authority.hex()}"',
        f'federation = "{manifest.federation}"',
        f"minimum_cohort = {manifest.minimum_cohort}",
        f"colluders = {manifest.colluders}",
        f'modes = ["{privacy.mode}"]',
        f"max_rounds = {manifest.rounds}",
    ]
    if privacy.target_epsilon is not None:
        lines += [
            f"max_epsilon = {privacy.target_epsilon}",
            f"max_delta = {privacy.target_delta}",
        ]
    return "\n".join(lines) + "\n"
