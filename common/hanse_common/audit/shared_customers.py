"""Epsilon for one person who shops at several stores, none of which knows of the others.

In mode `local` every store adds all of the noise, and what stores spend adds up. In mode
`distributed` stores share one sum and one noise: at k stores a person's clips add up, which is
k times the sensitivity, and so noise divided by k. Each store draws by itself, so the bound
is that of a mixture over how many of them drew the person, as in `privacy.accounting`.

>>> from hanse_common.privacy.charge import Release
>>> from hanse_common.privacy.entry import GENESIS
>>> terms = SampledGaussianSteps(noise_multiplier=4.0, sample_rate=0.1, count=40)
>>> def charged(mode):
...     return [Entry(sequence=1, kind="charge", previous=GENESIS, time=0, steps=terms,
...                   release=Release(kind="train", mode=mode))]
>>> for mode in ("local", "distributed"):
...     found = [epsilon_at_stores(charged(mode), k, covers=1, target_delta=1e-6) for k in (1, 2)]
...     print(mode, [round(value, 2) for value in found])
local [0.71, 1.01]
distributed [0.71, 1.51]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from hanse_common.manifest import Manifest
from hanse_common.privacy.accounting import SampledGaussianSteps, epsilon
from hanse_common.privacy.entry import Entry


def covered(entries: Sequence[Entry], manifest: Manifest | None) -> int:
    """At how many stores a person may shop under a ledger's own figures.

    Args:
        entries: The ledger's.
        manifest: The terms; counts only if the last charge names them.

    Edge cases:
        Without a manifest it is what the charges themselves say, which in mode `local` is 1:
        then `epsilon_at_stores` says too much, not too little.
    """
    charges = [entry for entry in entries if entry.kind == "charge"]
    told = max((entry.steps.stores for entry in charges if entry.steps), default=1)
    if manifest is None or any(
        entry.release.manifest_digest != manifest.digest() for entry in charges
    ):
        return told
    return max(told, manifest.privacy.max_stores_per_customer or 1)


def epsilon_at_stores(
    entries: Sequence[Entry], count: int, *, covers: int, target_delta: float
) -> float:
    """Epsilon for a person at `count` stores that each spent as this ledger says.

    Args:
        entries: The ledger's.
        count: Of the person's stores.
        covers: Up to how many the ledger's own figures hold; see `covered`.
        target_delta: In (0, 1).

    Guarantees:
        An upper bound, also for people at fewer stores. At `covers` stores it is the
        ledger's own epsilon.
    """
    spent = [
        at_stores(entry.steps, entry.release.mode, count, covers)
        for entry in entries
        if entry.spends and entry.steps is not None
    ]
    return epsilon(spent, target_delta=target_delta)


def at_stores(
    steps: SampledGaussianSteps, mode: str, count: int, covers: int
) -> SampledGaussianSteps:
    """What steps of one store's account come to for a person at `count` such stores.

    Args:
        steps: As accounted at one store.
        mode: `distributed`, the stores share one sum; else each pays by itself.
        count: Of the person's stores.
        covers: Up to how many the account holds as it stands.
    """
    if mode != "distributed":
        # What is charged stands for `covers` stores already; each does the same number.
        return replace(steps, count=math.ceil(steps.count * count / covers))
    noise = steps.noise_multiplier * covers / count
    together = 1 if steps.sample_rate == 1.0 else count
    return replace(steps, noise_multiplier=noise, stores=together)
