"""Make the simulated stores members of a federation, as an enrolment authority would.

Everything is what a deployment has: keys, certificates, a signed manifest, a policy. Only
the authority is simulated: its key lives for as long as it takes to sign.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from hanse_client.enrolment import CERTIFICATE, KEY, MANIFEST, POLICY
from hanse_client.node import Node, list_nodes
from hanse_common.config import RunSettings
from hanse_common.identity import AuthorityKey, CoordinatorKey, StoreKey
from hanse_common.manifest import Manifest, SignedManifest
from hanse_common.manifest_terms import base_model_digest, manifest_for
from hanse_server.app import AUTHORITY, COORDINATOR_KEY
from hanse_server.app import MANIFEST as RUN_MANIFEST
from hanse_simulations.runs.arm_folder import ArmFolder

_VALID_SECONDS = 10 * 365 * 86400


def enrol_stores(
    arm: ArmFolder,
    settings: RunSettings,
    arrays: Mapping[str, npt.NDArray[Any]],
    keys: Mapping[str, StoreKey] | None = None,
) -> None:
    """Give every node of an arm its membership, and the coordinator the manifest.

    Does nothing if that was done before.

    Args:
        arm: With its nodes laid out.
        settings: With the noise solved for.
        arrays: The trained parameters that the first round starts from.
        keys: Keys that stores have from an earlier run, by their names; others get new ones.

    Raises:
        ConfigError: There are too few stores to hide one among them.
        UnsafeTerms: The settings' terms break one of the protocol's promises.
    """
    if (arm.path / RUN_MANIFEST).exists():
        return
    nodes = [Node(folder) for folder in list_nodes(arm.stores_dir)]
    ids = store_ids([node.name for node in nodes])
    authority = AuthorityKey.generate()
    coordinator = CoordinatorKey.generate()
    (arm.path / COORDINATOR_KEY).unlink(missing_ok=True)  # of a start that was cut short
    coordinator.save(arm.path / COORDINATOR_KEY)
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
        (folder / KEY).unlink(missing_ok=True)  # of a start that was cut short
        key = (keys or {}).get(node.name) or StoreKey.generate()
        key.save(folder / KEY)
        certificate = authority.certify(
            store_id, key.public, valid_from=now - 3600, valid_until=now + _VALID_SECONDS
        )
        certificate.save(folder / CERTIFICATE)
        (folder / POLICY).write_text(_policy(authority.public, manifest), encoding="utf-8")
        signed.save(folder / MANIFEST)
    (arm.path / AUTHORITY).write_text(authority.public.hex() + "\n", encoding="ascii")
    signed.save(arm.path / RUN_MANIFEST)


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
    """A store's limits that are as tight as this federation's terms let them be."""
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
