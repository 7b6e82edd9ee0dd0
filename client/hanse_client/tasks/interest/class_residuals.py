"""How often interests in a class rise and fall, against a public guess: one noisy sum.

A customer adds, for each class and for rise and fall, the mean over the training moments of
`outcome - guess` and of `guess (1 - guess)`: the score and the Fisher information of the
log-odds. The row is clipped to norm 1. `class_priors` takes one damped Newton step with a
Gaussian prior (a Bayesian logistic regression on classes alone, at the public guess); what is
left of the log-odds is an input of the frozen base.

>>> class_priors(np.zeros(residual_cells(5)), classes=5, noise=1.0).any()
np.False_
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from hanse_client.features.ragged import offsets_of
from hanse_client.tasks.contributions import Contributions
from hanse_client.tasks.interest.category_tokens import CategoryTokens, TokenTargets

PHASE: Final = "class-residuals"
"""Name of the phase that releases the sum."""

_GUESS: Final = {"rise": 0.055, "fall": 0.092}
"""Public guess of the shares of interests that rise and fall; only its rough size matters, as
the mean over classes is taken off."""
_CODES: Final = {"rise": 2, "fall": 0}
_SPREAD = 0.4
"""Prior standard deviation of a class's log-odds."""
_MOST = 3.2
"""Largest log-odds of a class, eight prior standard deviations: exact sums of Complete Journey
have 3.0, and a forged release cannot say more."""
_DEPENDENCE = 0.3
"""Variance of a class's residuals per unit of Fisher information: a customer counts as the mean
over some moments, whose outcomes are not independent."""
_LEAST_INFORMATION = 0.5
"""In customers; less than this is noise."""


def residual_cells(classes: int) -> int:
    """Length of the released vector: residuals of rise and of fall, then their information."""
    return 4 * classes


def residual_contributions(
    tokens: CategoryTokens, targets: TokenTargets, *, customers: int, moments: int, classes: int
) -> Contributions:
    """What each customer adds to the sum.

    Args:
        tokens: One row for each customer at each training moment, by customer.
        targets: Of the tokens.
        customers: Number of customers, N.
        moments: Number of training moments, at least 1.
        classes: Number of classes of the vocabulary, C.

    Guarantees:
        A customer's row has norm at most 1 and depends on that customer alone.
    """
    owner = tokens.customers[tokens.rows]
    cells, where = np.unique(owner * classes + tokens.classes, return_inverse=True)
    tokens_of_cell = np.bincount(where, minlength=len(cells)) / moments
    owner, own_class = cells // classes, cells % classes
    columns = []
    for side, guess in _GUESS.items():
        happened = (targets.outlook == _CODES[side]).astype(np.float64)
        observed = np.bincount(where, happened, minlength=len(cells)) / moments
        columns.append(observed - guess * tokens_of_cell)
    columns += [guess * (1 - guess) * tokens_of_cell for guess in _GUESS.values()]
    values = np.stack(columns, axis=1)  # [cells, 4]
    squares = np.bincount(owner, (values**2).sum(1), minlength=customers)
    values /= np.maximum(np.sqrt(squares), 1.0)[owner, None]
    return Contributions(
        offsets=offsets_of(4 * np.bincount(owner, minlength=customers)),
        cells=(own_class[:, None] + classes * np.arange(4)).reshape(-1),
        values=values.reshape(-1),
        length=residual_cells(classes),
    )


def class_priors(
    released: npt.NDArray[np.floating], *, classes: int, noise: float
) -> npt.NDArray[np.float32]:
    """Decode a released sum.

    Args:
        released: [4C] the sum with its noise; all zeros before it was released.
        classes: C.
        noise: Standard deviation of the noise of each cell, in customers.

    Returns:
        [C, 2] shrunken log-odds of rise and fall, each with mean 0 over classes and bounded.
    """
    priors = np.zeros((classes, 2))
    for side in range(2):
        residuals = np.asarray(released[side * classes : (side + 1) * classes], np.float64)
        information = released[(2 + side) * classes : (3 + side) * classes]
        if not released.any():
            continue
        information = np.maximum(np.asarray(information, np.float64), _LEAST_INFORMATION)
        # The guess may be off for all classes together, which says nothing of any of them.
        residuals = residuals - residuals.sum() / information.sum() * information
        precision = _SPREAD**2 * information + _DEPENDENCE + noise**2 / information
        priors[:, side] = _SPREAD**2 * residuals / precision
    centred = np.clip(priors - priors.mean(0), -_MOST, _MOST)
    return np.asarray(centred, dtype=np.float32)
