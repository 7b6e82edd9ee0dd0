"""A store's folder after years: several manifests, and hundreds of charges under them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from hanse_client.deployment.folder import StoreFolder, create
from hanse_common.identity import AuthorityKey, StoreKey
from hanse_common.manifest import Manifest, SignedManifest
from hanse_common.manifest_terms import manifest_for, plan_of
from hanse_common.paths import LEDGER_FILE
from hanse_common.privacy import ledger_file
from hanse_common.privacy.accounting import SampledGaussianSteps
from hanse_common.privacy.chain import head_of
from hanse_common.privacy.entry import Entry
from hanse_common.privacy.ledger_file import Row
from hanse_common.recipes import synthetic


def aged_store(folder: Path, *, manifests: int, charges: int) -> StoreFolder:
    """A store that is enrolled under terms without phases, and then aged."""
    store, authority = StoreFolder(folder / "luebeck"), AuthorityKey.generate()
    create(store, "luebeck")
    pinned = f'authority = "{authority.public.hex()}"'
    text = store.policy.read_text().replace('authority = ""', pinned)
    store.policy.write_text(text.replace("max_epsilon = 8.0", "max_epsilon = 60.0"))
    settings = synthetic().with_changes(
        {
            "privacy.mode": "local",
            "privacy.noise_multiplier": 20.0,
            "privacy.target_epsilon": 8.0,
            "training.sample_rate": 0.5,
            "federation.rounds": 90,
        }
    )
    arrays = {"weight": np.zeros((3, 2), np.float32)}
    terms = manifest_for(settings, arrays, ["bremen", "danzig", "luebeck"], federation="baltic")
    SignedManifest.sign(terms, authority).save(store.manifest)
    age(store, authority, manifests=manifests, charges=charges)
    return store


def age(store: StoreFolder, authority: AuthorityKey, *, manifests: int, charges: int) -> None:
    """Add earlier manifests, of other noise each, and charges: two statistics, then rounds.

    The charges' own epsilon is made up, and not what an audit would compute: each of them would
    take an accountant seconds.

    Args:
        store: Under a manifest, and with an empty ledger or one of this function.
        authority: Signs the earlier manifests.
        manifests: How many there are in the end.
        charges: How many charges are added, divided among the manifests.
    """
    current = SignedManifest.load(store.manifest).unchecked
    key = StoreKey.load(store.store_key)
    for number in range(manifests):
        terms = _earlier(current, 1.0 + 0.1 * (manifests - 1 - number))
        if terms != current:
            path = store.manifest.with_name(f"manifest.{terms.digest().hex()}.json")
            SignedManifest.sign(terms, authority).save(path)
        _charge(store, key, terms, charges // manifests)


def _earlier(current: Manifest, factor: float) -> Manifest:
    noise = (current.privacy.noise_multiplier or 1.0) * factor
    privacy = current.privacy.model_copy(update={"noise_multiplier": noise})
    return current.model_copy(update={"privacy": privacy}) if factor != 1.0 else current


def _charge(store: StoreFolder, key: StoreKey, terms: Manifest, count: int) -> None:
    plan = plan_of(terms)
    assert plan is not None
    one = plan.round_charge()
    path = store.path / LEDGER_FILE
    entries = list(store.node().ledger) if path.exists() else []
    with ledger_file.writing(path, sync=False) as database:
        for number in range(count):
            kind = ("pairs", "residuals", "train")[min(number, 2)]
            other = SampledGaussianSteps(
                noise_multiplier=2 * one.steps.noise_multiplier + number, sample_rate=1.0, count=1
            )
            head = head_of(entries)
            entry = Entry(
                sequence=head.sequence + 1,
                kind="charge",
                previous=head.hash,
                time=1_750_000_000 + head.sequence,
                signer=key.public,
                release=replace(
                    one.release, kind=kind, round=number + 1, manifest_digest=terms.digest()
                ),
                steps=one.steps if kind == "train" else other,
                target_delta=one.target_delta,
                epsilon_before=0.01 * head.sequence,
                epsilon_after=0.01 * (head.sequence + 1),
                max_epsilon=60.0,
            ).sign(key)
            ledger_file.insert_row(
                database, path, Row(entry.sequence, entry.body(), entry.hash, entry.signature)
            )
            entries.append(entry)
    ledger_file.write_head(path, head_of(entries), sync=False)
