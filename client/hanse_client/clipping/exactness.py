"""Runs the exactness check of clipping once per model, settings and library versions.

The result of a check holds for exactly one combination of base model, settings, trained
parameters and library versions. A new combination is checked before the first private step
that uses it.

    <node>/clipping-check.json   digest of each checked combination, with its largest error
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from hanse_client.clipping.per_customer import check_exactness
from hanse_client.node import Node
from hanse_client.tasks.base import StoreData, Task
from hanse_common.codec import digest
from hanse_common.config import RunSettings
from hanse_common.durable import write_durably
from hanse_common.manifest_terms import base_model_digest, settings_digest
from hanse_common.paths import CLIPPING_CHECK_FILE
from hanse_common.settings_files import read_json

_AT_RANDOM, _LONGEST = 4, 2
"""Customers to check. A layer may be wrong for certain lengths only, which the longest show."""
_LABEL = b"hanse/clipping-check/1"
_VERSIONS = ("hanse", "torch", "opacus", "transformers")


def ensure_exact(
    node: Node,
    task: Task,
    model: nn.Module,
    data: StoreData,
    settings: RunSettings,
    lots: np.random.Generator,
) -> None:
    """Compare clipped sums with one-by-one gradients, unless the record has this combination.

    Args:
        node: The store; its folder holds the record of earlier checks.
        task: The task that is trained.
        model: The task's model, frozen as the settings say.
        data: The store's training data.
        settings: The run's settings.
        lots: Secret generator that draws the customers to check, so that nobody can arrange for
            a certain customer to be left out.

    Raises:
        PrivacyError [inexact-clipping]: See `check_exactness`.
        ConfigError: The record is damaged.

    Edge cases:
        A store without customers is not checked, and nothing is recorded: the check takes place
        once it has customers.
    """
    key = check_key(node, model, settings)
    record = node.folder / CLIPPING_CHECK_FILE
    known = read_json(record) if record.exists() else {}
    if key in known:
        return
    customers = _chosen(data, lots)
    if not len(customers):
        return
    # What the model computes from its released sums may be that of an earlier message, which
    # a coordinator chose; here the sums are the base model's.
    absorb = getattr(model, "absorb", None)
    if absorb is not None:
        absorb()
    draw = task.draw(data, customers, model, settings, lots)
    worst = check_exactness(
        model,
        task.collate(data, draw, model),
        losses=lambda batch: task.losses(model, batch, settings),
    )
    entry = {"customers": len(draw), "worst_relative_error": float(f"{worst:.3g}")}
    # Recorded only after the check has passed: a crash before this line repeats the check.
    write_durably(record, json.dumps({**known, key: entry}) + "\n")


def _chosen(data: StoreData, lots: np.random.Generator) -> npt.NDArray[np.int64]:
    """A few customers drawn at random, and those with the longest histories."""
    active = data.active()
    longest = active[np.argsort(data.sizes[active], kind="stable")[-_LONGEST:]]
    drawn = lots.permutation(active)[:_AT_RANDOM]
    return np.union1d(longest, drawn)


def check_key(node: Node, model: nn.Module, settings: RunSettings) -> str:
    """Digest, in hexadecimal, of everything that a check depends on."""
    trained = {n: list(p.shape) for n, p in sorted(model.named_parameters()) if p.requires_grad}
    return model_key(
        trained, settings, base=(base_model_digest(node.settings.base_model) or b"").hex()
    )


def model_key(trained: Mapping[str, list[int]], settings: RunSettings, **about: str) -> str:
    """The same for a model by the shapes of its trained parameters.

    Args:
        trained: Shapes by name.
        settings: The run's settings.
        about: Digests of the files that the rest of the model is read from.
    """
    parts: dict[str, Any] = {
        **about,
        "settings": settings_digest(settings).hex(),
        "trained": trained,
        "versions": {name: _version(name) for name in _VERSIONS},
    }
    return digest(_LABEL, json.dumps(parts, sort_keys=True).encode()).hex()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # run from a source tree that is not installed
        return ""
