"""Surprise: how far a visit or a day is from what its customer does, in nats, at the store.

Nothing is trained for it; all three parts follow from the next-basket head and from counts.

- **taste**: the log-likelihood ratio of the basket's classes under the shop's distribution
  against the customer's own prediction, a mean over the classes, so that a large basket is
  not surprising by its size. Below 0 the basket is rather this customer's than anybody's.
- **repeats**: the same class more often in a day than a Poisson at the predicted rate
  explains, given that it was bought at all; the class that is least explained counts.
- **carts**: more left in the cart than a Poisson at the customer's own rate explains.

    shop = Shop.of(histories.until(start), classes=len(model.config.classes))
    days = each_day(histories, start=start, stop=stop)
    found = surprises(histories, days, forecast_by(model, shop), shop, model.config)
    alarms = days.keep(found.total > threshold)

A score says that a day is unlike the customer, not why: a birthday is as surprising as a
stolen card. A store picks its threshold on its own past days.
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
"""From a batch to log-probabilities [R, P, C] of a class of the next basket."""

PRIOR_PURCHASES = 100.0
"""Purchases that the shop's distribution weighs as much as, beside the customer's own: the best
of 0, 10, 30, 60, 100, 200, 400 and 1000 at telling swapped baskets in the validation weeks of
four regions of Complete Journey."""
SMALLEST_RATE = 1e-3
_PRIOR_VISITS = 4.0
_TINIEST = 1e-30


@dataclass(frozen=True, kw_only=True, slots=True)
class Shop:
    """What customers of a store do on the whole; the store's own knowledge, never sent."""

    log_share: Floats
    """[C] log-probability that something bought is of a class."""
    left_in_cart: float
    """Items left in the cart at a visit, on average."""

    @classmethod
    def of(cls, known: Histories, *, classes: int) -> Shop:
        """Count what is known; every class is credited with half a purchase."""
        counts = np.bincount(known.pair_classes, minlength=classes) + 0.5
        left = left_in_cart(known)
        return cls(
            log_share=np.log(counts / counts.sum()),
            left_in_cart=float(left.sum() / max(len(left), 1)),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Surprises:
    """Scores of n occasions; see the module."""

    taste: Floats
    repeats: Floats
    carts: Floats

    @property
    def total(self) -> Floats:
        """[n] the sum of the three, none weighted."""
        return self.taste + self.repeats + self.carts


def forecast_by(model: InterestModel, shop: Shop) -> Forecast:
    """What the model expects of the next basket, beside what the shop sells.

    The model's prediction weighs as much as what the customer has bought, the shop's
    distribution as `PRIOR_PURCHASES`: of whom little is known, little is unlikely.
    """
    prior = torch.from_numpy(PRIOR_PURCHASES * np.exp(shop.log_share))

    def forecast(batch: Batch) -> Tensor:
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
    """Score occasions, each by what its customer had done before it.

    Args:
        histories: Uncut: an occasion's own moment hides what comes at it and after it.
        occasions: Of these histories.
        forecast: The model's, or a baseline's.
        shop: The store's distribution.
        config: The model's.
        contents: [n] of which occasion each is to have the basket; its own if left out.
            Swapped baskets tell a store how well its alarm would tell strangers apart.

    Edge cases:
        A basket without any class of the vocabulary has taste 0: it says nothing. So has,
        by the model's forecast, any basket of a customer without a history.
    """
    taste, repeats = np.zeros(len(occasions)), np.zeros(len(occasions))
    wanted = np.arange(len(occasions)) if contents is None else contents
    with torch.inference_mode():
        for view in views(histories, occasions.customers, occasions.moments, config):
            log_p = view.of(forecast(view.batch)).numpy().astype(np.float64)  # [k, C]
            some = occasions.keep(wanted[view.questions])
            counts = basket_counts(histories, some, len(config.classes))
            taste[view.questions] = log_likelihood_ratio(log_p, shop.log_share, counts)
            reference = view.past.counts[:, 0, :, config.reference_window].sum(-1).numpy()
            visits = view.past.visits[:, 0, 2].numpy()
            size = (reference + 1.0) / (visits + 1.0)
            repeats[view.questions] = unexplained_repeats(np.exp(log_p) * size[:, None], counts)
    return Surprises(
        taste=taste,
        repeats=repeats,
        carts=_cart_surprise(histories, occasions, occasions.keep(wanted), shop),
    )


def log_likelihood_ratio(log_p: Floats, log_share: Floats, counts: Floats) -> Floats:
    """Mean over bought classes of the shop's log-probability less the customer's own.

    Args:
        log_p: [n, C].
        log_share: [C].
        counts: [n, C] above 0 where something was bought; how often does not matter.

    Returns:
        [n] nats a class; 0 where nothing was bought.

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
    """Least explained repetition: max over classes of -log P(N >= n | N >= 1), N Poisson.

    Args:
        rates: [n, C] visits with the class expected of the occasion.
        counts: [n, C] visits with it.

    Returns:
        [n] nats; 0 where nothing was bought twice.

    Example:
        >>> found = unexplained_repeats(np.array([[0.5, 0.01]]), np.array([[2.0, 1.0]]))
        >>> round(float(found[0]), 2)
        1.47
    """
    result = np.zeros(len(counts))
    row, column = np.nonzero(counts > 1)
    rate = np.maximum(rates[row, column], SMALLEST_RATE)
    several = _at_least(counts[row, column], rate)
    np.maximum.at(result, row, np.log(-np.expm1(-rate)) - np.log(several))
    return result


def _cart_surprise(
    histories: Histories, asked: Occasions, contents: Occasions, shop: Shop
) -> Floats:
    """[n] -log P(N >= n) of what was left in the cart, N Poisson at the customer's own rate."""
    left = np.concatenate([[0.0], np.cumsum(left_in_cart(histories))])  # [V + 1]
    begun = histories.visit_offsets[asked.customers]
    before, visits = left[asked.first] - left[begun], asked.first - begun
    rate = (before + _PRIOR_VISITS * shop.left_in_cart) / (visits + _PRIOR_VISITS)
    expected = np.maximum(rate * (contents.stop - contents.first), SMALLEST_RATE)
    now = left[contents.stop] - left[contents.first]
    found: Floats = np.where(now > 0, -np.log(_at_least(np.maximum(now, 1.0), expected)), 0.0)
    return found


def _at_least(counts: Floats, rates: Floats) -> npt.NDArray[np.float64]:
    """P(N >= n) of a Poisson, the regularised lower incomplete gamma function P(n, rate)."""
    tails: Floats = torch.special.gammainc(
        torch.from_numpy(counts), torch.from_numpy(rates)
    ).numpy()
    return np.maximum(tails, _TINIEST)
