"""Stores of a real federation that send other vectors than they computed, or nothing at all.

The forged vector takes the place of the honest one at the last moment: it is charged, masked,
signed and confirmed like any other, by the production store.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pytest

from hanse_common.secagg import Layout
from hanse_common.secagg.store import Store
from hanse_server.blame import Blame
from hanse_server.stage_log import read_stages
from kits.apps.secure_federation import STAGES, SecureFederation

Forged = Callable[[np.ndarray], np.ndarray]


def random_words(vector: np.ndarray) -> np.ndarray:
    """What a store that skips quantisation and masks sends: any 32 bits."""
    return np.random.default_rng(5).integers(-(2**31), 2**31, vector.size)


def forge(
    federation: SecureFederation,
    who: Collection[str],
    forged: Forged = random_words,
    *,
    when: Callable[[], bool] = lambda: True,
) -> None:
    """Let stores send other vectors than they computed."""
    real = Store.mask

    def mask(store: Store, vector: np.ndarray) -> Any:
        return real(store, forged(vector))

    @contextlib.contextmanager
    def around(store, message):
        with pytest.MonkeyPatch.context() as patch:
            if store in who and message.metadata.message_type == STAGES["mask"] and when():
                patch.setattr(Store, "mask", mask)
                patch.setattr(Layout, "check", lambda *_: None)
            yield

    federation.faults.around = around


def silence(
    federation: SecureFederation, who: str, stage: str, *, when: Callable[[], bool] = lambda: True
) -> None:
    """Let a store not answer at a stage."""
    federation.faults.to_store = lambda store, message: (
        None
        if store == who and message.metadata.message_type == STAGES[stage] and when()
        else message
    )


def trained(federation: SecureFederation) -> list[dict[str, Any]]:
    """The run's training rounds, as written down."""
    return [s for s in read_stages(federation.folder.path) if s["stage"] == "train"]


def lost(federation: SecureFederation) -> list[int]:
    """Numbers of the training rounds that gave no sum."""
    return [line["round"] for line in trained(federation) if line["outcome"] != "summed"]


def blamed(federation: SecureFederation) -> dict[str, str]:
    """What is held against each store, as it is on the disk."""
    rows = Blame(federation.folder.path).record.rows()
    return {row["store"]: row["standing"] for row in rows}
