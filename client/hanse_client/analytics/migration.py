"""Interest migration: which class will lead a customer's purchases in the next weeks.

A customer's *leading* class is the one with the most visits in a window. The probability that
a class leads follows from two heads of the model, without further training:

1. The next-basket head's share of a class, times the customer's usual number of (visit,
   class) pairs in such a time, is the expected number of visits, taken to be Poisson.
2. Where the customer has an interest, the outlook head gives the probabilities that the
   number falls, stays or rises; the Poisson is reweighted to agree with them.
3. Class c leads if it is bought and no other class has more visits. With independent classes
   P(c leads) = sum over k > 0 of P(N_c = k) * prod over others of P(N <= k).

Classes are not independent, as a customer who comes less often buys less of each. The order
of the scores is therefore reliable, and the probability of a change is too high.

    forecast = migrations(histories, customers, moments, model)
    forecast.change       # [n] how likely it is that today's leading class will not lead
    forecast.leads        # [n, C] how likely each class is to lead
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hanse_client.analytics.moments import views
from hanse_client.features.histories import Histories
from hanse_client.tasks.interest import InterestModel, Interests
from hanse_client.tasks.interest.features import Floats, Ints
from hanse_client.tasks.interest.heads import has_interest, outlook_bounds

_MOST_VISITS = 40
"""Largest number of visits with a class in a horizon; it has the tail's probability."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Migrations:
    """Forecasts for n customers at their moments."""

    leading: Ints
    """[n] leading class of the reference days; -1 without a purchase in them."""
    leads: Floats
    """[n, C] probability that no class has more visits in the next horizon days; rows need not
    sum to 1, as classes can tie."""

    @property
    def change(self) -> Floats:
        """[n] probability that the leading class will not lead next; 1 if there is none."""
        stays = np.take_along_axis(self.leads, np.maximum(self.leading, 0)[:, None], axis=1)
        change: Floats = np.where(self.leading >= 0, 1.0 - stays[:, 0], 1.0)
        return change


def migrations(
    histories: Histories,
    customers: Ints,
    moments: Floats,
    model: InterestModel,
    *,
    use_outlook: bool = True,
) -> Migrations:
    """Forecast the leading classes of customers.

    Args:
        histories: Complete histories; what follows a moment is hidden.
        customers: [n] indices into the histories.
        moments: [n] in days since 1970.
        model: The shared model.
        use_outlook: Whether to use the outlook head in addition to the next-basket head.
    """
    config = model.config
    leading = np.full(len(customers), -1)
    shares = np.zeros((len(customers), len(config.classes)))
    with torch.inference_mode():
        for view in views(histories, customers, moments, config):
            output = model(view.batch)
            past = view.past
            reference = past.counts[:, 0, :, config.reference_window]
            scale = config.horizon_days / config.reference_days
            usual = reference.sum(-1, keepdim=True) * scale
            rates = torch.softmax(view.of(output.basket_scores), dim=-1) * usual
            numbers = _poisson(rates)
            if use_outlook:
                logits = view.of(output.outlook_logits)
                reweighted = _reweighted(numbers, logits, reference * scale)
                # Logits of other classes have no meaning; see `OutlookHead.forward`.
                interest = has_interest(reference, config.min_visits).unsqueeze(-1)
                numbers = torch.where(interest, reweighted, numbers)
            shares[view.questions] = leads(numbers).numpy()
            leading[view.questions] = leaders(past, config.reference_window)
    return Migrations(leading=leading, leads=shares)


def leaders(past: Interests, window: int) -> Ints:
    """The class with the most visits in a window before each customer's first anchor.

    Ties go to the class with more visits ever, then to the first of the vocabulary.

    Args:
        past: Of B customers.
        window: Index into `InterestConfig.windows`.

    Returns:
        [B] indices of classes; -1 for a customer without a purchase in the window.
    """
    counts = past.counts[:, 0].numpy().astype(np.float64)  # [B, C, W]
    inside, ever = counts[..., window], counts[..., -1]
    # The second term is below 1, so that it decides between equal counts only.
    best = np.argmax(inside + ever / (ever.max(axis=1, keepdims=True) + 1), axis=1)
    return np.where(inside.max(axis=1) > 0, best, -1)


def leads(numbers: Tensor) -> Tensor:
    """Probability that a class is bought and no other class has more visits.

    Args:
        numbers: [n, C, K] probability of k visits with the class, k in [0, K).

    Returns:
        [n, C].

    Example:
        >>> sure = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])  # One visit against none.
        >>> leads(sure).tolist()
        [[1.0, 0.0]]
    """
    numbers = numbers.double()
    logs = torch.log(numbers.cumsum(-1).clamp(1e-300, 1.0))
    # The product over the other classes: all logarithms less the class's own, one pass for all C.
    others = torch.exp(logs.sum(1, keepdim=True) - logs)
    return (numbers * others)[..., 1:].sum(-1)


def _poisson(rates: Tensor) -> Tensor:
    """[..., _MOST_VISITS + 1] probabilities of a Poisson at each rate, the tail in the last."""
    rates = rates.double().unsqueeze(-1).clamp(min=1e-9)
    k = torch.arange(_MOST_VISITS + 1, dtype=torch.float64)
    numbers = torch.exp(k * torch.log(rates) - rates - torch.lgamma(k + 1))
    numbers[..., -1] += (1 - numbers.sum(-1)).clamp(min=0)
    return numbers


def _reweighted(numbers: Tensor, logits: Tensor, expected: Tensor) -> Tensor:
    """Scale a distribution so that fall, stay and rise have the outlook head's probabilities.

    Args:
        numbers: [n, C, K] probability of k visits.
        logits: [n, C, 3] of fall, stay and rise.
        expected: [n, C] visits in the horizon at the rate of the reference days.

    Returns:
        [n, C, K].
    """
    most, least = (bound.unsqueeze(-1) for bound in outlook_bounds(expected))
    k = torch.arange(numbers.shape[-1])
    outcome = 1 + (k > most).long() - (k < least).long()  # [n, C, K]
    outlook = torch.softmax(logits.double(), dim=-1)
    masses = torch.stack([(numbers * (outcome == side)).sum(-1) for side in range(3)], dim=-1)
    # An outcome without any possible number, such as a fall below 0, gets no weight.
    weights = torch.where(
        masses > 1e-12, outlook / masses.clamp(min=1e-12), torch.zeros_like(outlook)
    )
    scaled = numbers * weights.gather(-1, outcome)
    return scaled / scaled.sum(-1, keepdim=True).clamp(min=1e-300)
