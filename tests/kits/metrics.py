"""Figures of an evaluation that nobody made."""

import numpy as np

from hanse_client.tasks.interest.metrics import FALL, RISE, STAY, Figures


def figures(customers, *, ndcg):
    """Two baskets and three interests of every customer."""
    rng = np.random.default_rng(3)
    baskets, interests = np.repeat(customers, 2), np.repeat(customers, 3)
    outcomes = np.tile([FALL, STAY, RISE], len(customers)).astype(np.int8)
    noise = rng.normal(size=(2, len(outcomes))).astype(np.float32)
    values = np.broadcast_to(ndcg, len(baskets)).astype(float)
    return Figures(
        hr=values,
        recall=values,
        ndcg=values,
        explore_hr=np.zeros(0),
        explore_recall=np.zeros(0),
        explore_ndcg=np.zeros(0),
        rise_scores=noise[0] + (outcomes == RISE),
        fall_scores=noise[1] + (outcomes == FALL),
        outcomes=outcomes,
        customers=baskets,
        explore_customers=np.zeros(0, dtype=np.int64),
        interest_customers=interests,
    )
