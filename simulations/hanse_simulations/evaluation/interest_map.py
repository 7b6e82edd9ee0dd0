"""Map customers to a plane by what they will buy next: PCA and t-SNE of class probabilities.

A customer's vector is the square root of the class probabilities of their next basket, so that
distances are Hellinger distances. t-SNE (van der Maaten and Hinton 2008) preserves neighbours
only: distances between clusters, their sizes and their number mean little.

Points have neither names nor stores, but each is one customer: a page with the map is for those
who may see all of the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from hanse_client.features.histories import Histories
from hanse_client.tasks.interest import InterestModel
from hanse_client.tasks.interest.features import Anchors, collate, rows_at_once
from hanse_simulations.runs.results import InterestMap

MOST_CUSTOMERS: Final = 1_500
_FEWEST: Final = 20
_COMPONENTS: Final = 20
_LEAST_SHARE: Final = 0.02
"""A department below this share of all probability is too rare to be named."""

Floats = npt.NDArray[np.float64]


def interest_map(
    stores: Sequence[Histories], model: InterestModel, *, moment: float, seed: int
) -> InterestMap | None:
    """Map a sample of customers to a plane, by PCA and by t-SNE.

    Args:
        stores: All stores' histories.
        model: The model that predicts.
        moment: Day of the prediction; later events are not used.
        seed: Seed of the sample and of t-SNE.

    Returns:
        None where there are fewer than twenty customers or three classes.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    rng = np.random.default_rng(seed)
    candidates = [
        (number, customer)
        for number, store in enumerate(stores)
        for customer in store.until(moment).active()
    ]
    if len(candidates) < _FEWEST or len(model.config.classes) < 3:
        return None
    chosen = rng.choice(len(candidates), min(len(candidates), MOST_CUSTOMERS), replace=False)
    own: dict[int, list[int]] = {}
    for index in sorted(chosen):
        number, customer = candidates[index]
        own.setdefault(number, []).append(int(customer))
    chances = np.concatenate(
        [_chances(stores[number], model, customers, moment) for number, customers in own.items()]
    )
    departments, named = _departments(chances, model.config.classes)
    roots = np.sqrt(chances)
    components = min(_COMPONENTS, len(roots) - 1, roots.shape[1])
    pca = PCA(n_components=components, random_state=seed).fit(roots)
    reduced = pca.transform(roots)
    # scikit-learn's default of 30, which must stay below the number of points.
    perplexity = min(30.0, (len(roots) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced)
    order = rng.permutation(len(roots))  # so that the order does not reveal stores
    return InterestMap(
        pca=np.round(reduced[order, :2], 3).tolist(),
        tsne=np.round(tsne[order], 2).tolist(),
        explained=float(pca.explained_variance_ratio_[:2].sum()),
        departments=[named[departments[index]] for index in order],
        customers=len(candidates),
    )


def _chances(
    store: Histories, model: InterestModel, customers: Sequence[int], moment: float
) -> Floats:
    """Probability of each class in each customer's next basket [N, C]."""
    parts = []
    size = rows_at_once(model.config)
    with torch.inference_mode():
        for start in range(0, len(customers), size):
            part = np.array(customers[start : start + size], dtype=np.int64)
            anchors = Anchors(
                customers=part,
                moments=np.full((len(part), 1), moment),
                basket=np.ones((len(part), 1), dtype=bool),
                outlook=np.zeros((len(part), 1), dtype=bool),
            )
            scores = model(collate(store, anchors, model.config)).basket_scores[:, 0]
            parts.append(torch.softmax(scores.double(), dim=-1).numpy())
    chances: Floats = np.concatenate(parts)
    return chances


def _departments(
    chances: Floats, classes: Sequence[str]
) -> tuple[npt.NDArray[np.int64], list[str]]:
    """For each customer [N], the department whose share most exceeds its mean share."""
    names = sorted({path.partition("/")[0] for path in classes})
    members = np.array([names.index(path.partition("/")[0]) for path in classes])
    shares = np.stack([chances[:, members == i].sum(axis=1) for i in range(len(names))], axis=1)
    usual = shares.mean(axis=0)
    lift = np.where(usual >= _LEAST_SHARE, shares / np.maximum(usual, 1e-12), 0.0)
    return lift.argmax(axis=1), names
