"""Epsilon for one person who is a customer of several stores that do not know of each other.

In mode `local` every store adds all of the noise, and the charges of the stores compose. In mode
`distributed` stores share one sum and one noise: a person at k stores has k times the
sensitivity, which equals noise divided by k. Each store samples independently, so the bound is
that of a mixture over the number of stores that drew the person, as in `privacy.accounting`.

>>> from hanse_common.privacy.charge import Release
>>> from hanse_common.privacy.entry import GENESIS
>>> terms = SampledGaussianSteps(noise_multiplier=4.0, sample_rate=0.1, count=40)
>>> def charged(mode):
...     return [Entry(sequence=1, kind="charge", previous=GENESIS, time=0, steps=terms,
...                   release=Release(kind="train", mode=mode))]
>>> for mode in ("local", "distributed"):
...     values = [epsilon_at_stores(charged(mode), k, covers=1, target_delta=1e-6) for k in (1, 2)]
...     print(mode, [round(value, 2) for value in values])
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
    """Return at how many stores a person may shop for a ledger's own epsilon to hold.

    Args:
        entries: The entries of the ledger.
        manifest: The terms; they count only if every charge names them.

    Edge cases:
        Without a manifest it is the number in the charges themselves, which is 1 in mode
        `local`. Then `epsilon_at_stores` overestimates epsilon, and never underestimates it.
    """
    charges = [entry for entry in entries if entry.kind == "charge"]
    accounted = max((entry.steps.stores for entry in charges if entry.steps), default=1)
    if manifest is None or any(
        entry.release.manifest_digest != manifest.digest() for entry in charges
    ):
        return accounted
    return max(accounted, manifest.privacy.max_stores_per_customer or 1)


def epsilon_at_stores(
    entries: Sequence[Entry], count: int, *, covers: int, target_delta: float
) -> float:
    """Return epsilon for a person at `count` stores that each spent as this ledger did.

    Args:
        entries: The entries of the ledger.
        count: Number of the person's stores.
        covers: Number of stores up to which the ledger's own epsilon holds; see `covered`.
        target_delta: In (0, 1).

    Guarantees:
        The value is an upper bound, also for people at fewer stores. At `covers` stores it is
        the ledger's own epsilon.
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
    """Return the steps to account for a person at `count` stores with the same charges.

    Args:
        steps: Steps as accounted at one store.
        mode: In `distributed` the stores share one sum; in other modes their steps compose.
        count: Number of the person's stores.
        covers: Number of stores up to which the steps hold unchanged.
    """
    if mode != "distributed":
        # The charge covers `covers` stores already, each with the same number of steps.
        return replace(steps, count=math.ceil(steps.count * count / covers))
    noise = steps.noise_multiplier * covers / count
    # At sample rate 1 all stores draw the person in every step, and there is no mixture.
    together = 1 if steps.sample_rate == 1.0 else count
    return replace(steps, noise_multiplier=noise, stores=together)
