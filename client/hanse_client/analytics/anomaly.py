"""Anomaly scores of a visit or a day, in nats: how unlike its customer it is.

Nothing is trained for it; the three parts of a score follow from the next-basket head and from
counts of the store.

- **taste**: the log-likelihood ratio of the basket's classes under the shop's distribution
  against the customer's predicted one, a mean over the classes, so that the size of a basket
  does not matter. Below 0 the basket is more typical of this customer than of the shop.
- **repeats**: -log of the probability that a Poisson at the predicted rate has as many visits
  with a class in a day, given that it has one; the maximum over classes.
- **carts**: the same of the number of items left in the cart, at the customer's own rate.

    shop = Shop.of(histories.until(start), classes=len(model.config.classes))
    days = each_day(histories, start=start, stop=stop)
    scores = surprises(histories, days, forecast_by(model, shop), shop, model.config)
    alarms = days.keep(scores.total > threshold)

A score says that a day is unlike the customer, not why: a birthday scores as high as a stolen
card. A store chooses its threshold on its own past days.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hanse_client.analytics.moments import views
from hanse_client.analytics.occasions import Occasions, basket_counts, left_in_cart
from hanse_client.features.histories import Histories
from hanse_client.tasks.interest import Batch, InterestConfig, InterestModel
from hanse_client.tasks.interest.features import Floats, Ints

Forecast = Callable[[Batch], Tensor]
"""From a batch to log-probabilities [R, P, C] of the classes of the next basket."""

PRIOR_PURCHASES = 100.0
"""Weight of the shop's distribution, in purchases of the customer: the best of 0, 10, 30, 60,
100, 200, 400 and 1000 at detecting swapped baskets in the validation weeks of four regions of
Complete Journey."""
_SMALLEST_RATE = 1e-3  # visits; a rate of 0 would make the score infinite
_PRIOR_VISITS = 4.0
_TINIEST = 1e-30  # keeps the logarithm of a probability finite


@dataclass(frozen=True, kw_only=True, slots=True)
class Shop:
    """Averages over all customers of a store, which never leave it: they have no noise."""

    log_share: Floats
    """[C] log-probability that a purchase is of a class."""
    left_in_cart: float
    """Mean number of items left in the cart at a visit."""

    @classmethod
    def of(cls, known: Histories, *, classes: int) -> Shop:
        """Averages over histories, with half a purchase added to every class."""
        counts = np.bincount(known.pair_classes, minlength=classes) + 0.5
        left = left_in_cart(known)
        return cls(
            log_share=np.log(counts / counts.sum()),
            left_in_cart=float(left.sum() / max(len(left), 1)),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Surprises:
    """Scores [n] of n occasions, in nats; see the module."""

    taste: Floats
    repeats: Floats
    carts: Floats

    @property
    def total(self) -> Floats:
        """[n] the unweighted sum of the three."""
        return self.taste + self.repeats + self.carts


def forecast_by(model: InterestModel, shop: Shop) -> Forecast:
    """A mixture of the model's prediction of the next basket and the shop's distribution.

    The prediction has the customer's number of purchases as its weight, the shop's distribution
    `PRIOR_PURCHASES`, so that few baskets are unlikely for a customer with a short history.
    """
    prior = torch.from_numpy(PRIOR_PURCHASES * np.exp(shop.log_share))

    def forecast(batch: Batch) -> Tensor:
        # Double precision: ratios of small probabilities follow.
        predicted = torch.softmax(model(batch).basket_scores.double(), dim=-1)
        known = batch.past.counts.amax(-1).double().sum(-1, keepdim=True)
        return torch.log((predicted * known + prior) / (known + PRIOR_PURCHASES))

    return forecast


def surprises(
    histories: Histories,
    occasions: Occasions,
    forecast: Forecast,
    shop: Shop,
    config: InterestConfig,
    *,
    contents: Ints | None = None,
) -> Surprises:
    """Score occasions, each given its customer's history before it.

    Args:
        histories: Complete histories; what follows the moment of an occasion is hidden.
        occasions: Visits or days of these histories.
        forecast: The model's, or a baseline's.
        shop: The store's averages.
        config: The model's.
        contents: [n] index of the occasion whose basket each is scored with; its own if left
            out. Swapped baskets measure how well an alarm would detect another person.

    Edge cases:
        A basket without any class of the vocabulary has taste 0. By the model's forecast, so
        has any basket of a customer without a history.
    """
    taste, repeats = np.zeros(len(occasions)), np.zeros(len(occasions))
    baskets = np.arange(len(occasions)) if contents is None else contents
    with torch.inference_mode():
        for view in views(histories, occasions.customers, occasions.moments, config):
            log_p = view.of(forecast(view.batch)).numpy().astype(np.float64)  # [k, C]
            scored = occasions.keep(baskets[view.questions])
            counts = basket_counts(histories, scored, len(config.classes))
            taste[view.questions] = log_likelihood_ratio(log_p, shop.log_share, counts)
            reference = view.past.counts[:, 0, :, config.reference_window].sum(-1).numpy()
            visits = view.past.visits[:, 0, 2].numpy()
            # Classes in an average visit, with one of one class added: no history, no division
            # by zero.
            size = (reference + 1.0) / (visits + 1.0)
            repeats[view.questions] = unexplained_repeats(np.exp(log_p) * size[:, None], counts)
    return Surprises(
        taste=taste,
        repeats=repeats,
        carts=_cart_surprise(histories, occasions, occasions.keep(baskets), shop),
    )


def log_likelihood_ratio(log_p: Floats, log_share: Floats, counts: Floats) -> Floats:
    """Mean over bought classes of the shop's log-probability less the customer's own.

    Args:
        log_p: [n, C] log-probabilities of the customer.
        log_share: [C] log-probabilities of the shop.
        counts: [n, C] above 0 for the classes bought; larger counts make no difference.

    Returns:
        [n] nats a class; 0 without a purchase.

    Example:
        >>> own, shop = np.log([[0.9, 0.1]]), np.log([0.5, 0.5])
        >>> mine = log_likelihood_ratio(own, shop, np.array([[1.0, 0.0]]))
        >>> other = log_likelihood_ratio(own, shop, np.array([[0.0, 1.0]]))
        >>> [round(float(x[0]), 2) for x in (mine, other)]
        [-0.59, 1.61]
    """
    bought = counts > 0
    total: Floats = ((log_share - log_p) * bought).sum(axis=1)
    mean: Floats = total / np.maximum(bought.sum(axis=1), 1)
    return mean


def unexplained_repeats(rates: Floats, counts: Floats) -> Floats:
    """Maximum over classes of -log P(N >= n | N >= 1) for n visits, N Poisson.

    Args:
        rates: [n, C] expected visits with the class at the occasion.
        counts: [n, C] visits with the class.

    Returns:
        [n] nats; 0 if no class was bought twice.

    Example:
        >>> scores = unexplained_repeats(np.array([[0.5, 0.01]]), np.array([[2.0, 1.0]]))
        >>> round(float(scores[0]), 2)
        1.47
    """
    result = np.zeros(len(counts))
    row, column = np.nonzero(counts > 1)
    rate = np.maximum(rates[row, column], _SMALLEST_RATE)
    several = _at_least(counts[row, column], rate)
    np.maximum.at(result, row, np.log(-np.expm1(-rate)) - np.log(several))
    return result


def _cart_surprise(
    histories: Histories, occasions: Occasions, contents: Occasions, shop: Shop
) -> Floats:
    """[n] -log P(N >= n) of n items left in the cart, N Poisson at the customer's own rate."""
    left = np.concatenate([[0.0], np.cumsum(left_in_cart(histories))])  # [V + 1]
    begun = histories.visit_offsets[occasions.customers]
    before, visits = left[occasions.first] - left[begun], occasions.first - begun
    # A Gamma prior: the shop's rate with the weight of `_PRIOR_VISITS` visits.
    rate = (before + _PRIOR_VISITS * shop.left_in_cart) / (visits + _PRIOR_VISITS)
    expected = np.maximum(rate * (contents.stop - contents.first), _SMALLEST_RATE)
    now = left[contents.stop] - left[contents.first]
    scores: Floats = np.where(now > 0, -np.log(_at_least(np.maximum(now, 1.0), expected)), 0.0)
    return scores


def _at_least(counts: Floats, rates: Floats) -> npt.NDArray[np.float64]:
    """P(N >= n) of a Poisson: the regularised lower incomplete gamma function P(n, rate)."""
    tails: Floats = torch.special.gammainc(
        torch.from_numpy(counts), torch.from_numpy(rates)
    ).numpy()
    return np.maximum(tails, _TINIEST)
