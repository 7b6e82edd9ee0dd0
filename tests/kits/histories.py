"""Made-up histories of four categories, and an untrained model that reads them."""

from __future__ import annotations

import numpy as np
import pytest

from hanse_client.features.histories import FACTS, Histories
from hanse_client.tasks.interest import InterestConfig, InterestModel

CLASSES = ["milk", "bread", "wine", "cheese"]
CONFIG = InterestConfig(classes=CLASSES, vector_size=4, n_embd=8, n_layer=1, n_head=2)


def made(customers, *, left=None, observed_from=0.0):
    """Histories of `[[(day, [class, ...]), ...], ...]`; `left` in each visit's cart, unbought."""
    visits = [visit for customer in customers for visit in customer]
    left = np.zeros(len(visits)) if left is None else np.asarray(left, dtype=float)
    bought = np.array([len(classes) for _, classes in visits], dtype=float)
    facts = np.zeros((len(visits), len(FACTS)))
    carts = np.where(left > 0, bought + left, 0)
    facts[:, FACTS.index("log_items")] = np.log1p(bought + carts)
    total = np.maximum(bought + carts, 1)
    for kind, events in (("cart", carts), ("purchase", bought)):
        facts[:, FACTS.index(f"share_{kind}")] = events / total
    return Histories(
        customers=np.array([f"c{i}" for i in range(len(customers))]),
        homes=np.full(len(customers), -1),
        visit_offsets=np.cumsum([0, *map(len, customers)]),
        visit_days=np.array([day for day, _ in visits], dtype=float),
        visit_vectors=np.zeros((len(visits), 4), dtype=np.float16),
        visit_facts=facts.astype(np.float32),
        pair_offsets=np.cumsum([0, *(len(classes) for _, classes in visits)]),
        pair_classes=np.array([c for _, classes in visits for c in classes], dtype=np.int32),
        observed_from=observed_from,
    )


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    return InterestModel.fresh(
        CONFIG,
        class_texts=rng.normal(size=(4, 4)).astype(np.float32),
        item_texts=rng.normal(size=(30, 4)).astype(np.float32),
        class_sizes=np.full(4, 5.0, dtype=np.float32),
        seed=1,
    ).eval()


def weekly(*classes, weeks=20):
    return [(7.0 * week + 0.5, list(classes)) for week in range(weeks)]
