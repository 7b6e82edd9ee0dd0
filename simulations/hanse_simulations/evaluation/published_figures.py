"""Metrics that papers report, by data set, under leave-one-out and full ranking.

A data set is identified by its size: customers, items, interactions.
"""

from __future__ import annotations

from typing import Final

Paper = dict[str, float]

BEAUTY: Final = (22_363, 12_101, 198_502)
"""Amazon Beauty, 5-core, as S3-Rec's repository has it."""

PUBLISHED: Final[dict[tuple[int, int, int], dict[str, Paper]]] = {
    BEAUTY: {
        "Popularity, as published": {"hr@10": 0.0152, "ndcg@10": 0.0068},
        "BERT4Rec, as published": {"hr@10": 0.0347, "ndcg@10": 0.0170},
        "SASRec, as published": {"hr@10": 0.0605, "ndcg@10": 0.0318},
        "S3-Rec, as published": {"hr@10": 0.0647, "ndcg@10": 0.0327},
        "TIGER, as published": {"hr@10": 0.0648, "ndcg@10": 0.0384},
        "SASRec with sampled softmax, as published": {"hr@10": 0.0921, "ndcg@10": 0.0531},
    },
}


def published(customers: int, items: int, interactions: int) -> dict[str, Paper]:
    """Published metrics on the data set of this size, by method; empty for an unknown one.

    >>> published(*BEAUTY)["SASRec, as published"]
    {'hr@10': 0.0605, 'ndcg@10': 0.0318}
    """
    return PUBLISHED.get((customers, items, interactions), {})
