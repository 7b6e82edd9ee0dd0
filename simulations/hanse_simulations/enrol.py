"""Make the simulated stores members of a federation, as an enrolment authority would.

Everything is what a deployment has: keys, certificates, a signed manifest, a policy. Only
the authority is simulated: its key lives for as long as it takes to sign.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from hanse_client.enrolment import CERTIFICATE, KEY, MANIFEST, POLICY
from hanse_client.node import Node, list_nodes
from hanse_common.config import RunSettings
from hanse_common.durable import write_durably
from hanse_common.federation import manifest_for
from hanse_common.identity import AuthorityKey, CoordinatorKey, StoreKey
from hanse_common.manifest import Manifest, SignedManifest
from hanse_common.policy import StorePolicy
from hanse_common.privacy.accounting import epsilon
from hanse_common.privacy.plan import PrivacyPlan
from hanse_server.app import AUTHORITY, COORDINATOR_KEY
from hanse_server.app import MANIFEST as RUN_MANIFEST
from hanse_simulations.arm_folder import ArmFolder

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


def make_room(arm: ArmFolder, settings: RunSettings, *, done: int) -> None:
    """Let the stores of a stopped run pay a second time for the round that was cut off.

    What was charged before the stop stays charged, whether it left or not, and what is left
    to do comes on top. Limits rise to that, and the run's figures say what was spent. Only
    simulated stores can be made to: a real store's policy is its own.

    Args:
        arm: With its stores enrolled.
        settings: With the noise solved for.
        done: Rounds that will not be trained again.
    """
    plan = PrivacyPlan.from_settings(settings)
    if plan is None:
        return
    left = [plan.round_cost()] * (settings.federation.rounds - done)
    evaluation = plan.evaluation_cost()
    if evaluation is not None:
        left += [evaluation] * (len(left) // settings.federation.evaluate_every + 2)
    for node in map(Node, list_nodes(arm.stores_dir)):
        folder, spent = node.settings.enrolment, node.spent()
        if folder is None or not spent:
            continue
        policy = StorePolicy.from_toml(folder / POLICY)
        total = epsilon([*spent, *left], target_delta=plan.target_delta)
        if total > policy.max_epsilon:
            manifest = policy.check(SignedManifest.load(folder / MANIFEST))
            limit = math.ceil(total * 1000) / 1000
            text = _policy(bytes.fromhex(policy.authority), manifest, max_epsilon=limit)
            write_durably(folder / POLICY, text)


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


def _policy(authority: bytes, manifest: Manifest, *, max_epsilon: float | None = None) -> str:
    """A store's limits that are as tight as this federation's terms let them be, or that one."""
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
            f"max_epsilon = {max_epsilon or privacy.target_epsilon}",
            f"max_delta = {privacy.target_delta}",
        ]
    return "\n".join(lines) + "\n"
