"""Interest migration: which class will lead a customer's purchases next, at the store.

A customer's *leading* class is the one at the most visits of a window. From the model's two
heads follows how likely each class is to lead the next weeks, without anything trained for it:

1. The next-basket head's share of a class, times what the customer buys in such a time, is
   how many visits with it to expect; their number is taken to be Poisson.
2. Where the customer has an interest, the outlook head says how likely that number falls,
   stays or rises: the Poisson is reweighted to agree with it.
3. Class c leads if it is bought and no other class has more visits. Classes are taken to be
   independent: P(c leads) = sum over k > 0 of P(N_c = k) * prod over others of P(N <= k).

Classes are not independent, for a customer who comes less often buys less of each: the order
of these scores is what counts, and the chance of a change is put too high.

    found = migrations(histories, customers, moments, model)
    found.change          # [n] how likely it is that today's leading class will not lead
    found.leads           # [n, C] how likely each class is to lead
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

MOST_VISITS = 40
"""In a horizon, with one class; more are counted as these."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Migrations:
    """Of n customers at their moments."""

    leading: Ints
    """[n] today's leading class, over the reference days; -1 without any purchase in them."""
    leads: Floats
    """[n, C] probability that no class has more visits in the next horizon days; several may
    lead together."""

    @property
    def change(self) -> Floats:
        """[n] probability that today's leading class will not lead; 1 if there is none."""
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
    """Ask the model who will lead.

    Args:
        histories: Uncut: a moment itself hides what comes at it and after it.
        customers: [n] indices into the histories.
        moments: [n] days.
        model: The shared model.
        use_outlook: Whether the outlook head is heard beside the next-basket head.
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
                heard = has_interest(reference, config.min_visits).unsqueeze(-1)
                numbers = torch.where(heard, reweighted, numbers)
            shares[view.questions] = leads(numbers).numpy()
            leading[view.questions] = leaders(past, config.reference_window)
    return Migrations(leading=leading, leads=shares)


def leaders(past: Interests, window: int) -> Ints:
    """The class at the most visits of a window, of customers seen from their first anchor.

    Among equals, the one bought more often ever, then the first of the vocabulary.

    Returns:
        [B]; -1 for a customer without a purchase in the window.
    """
    counts = past.counts[:, 0].numpy().astype(np.float64)  # [B, C, W]
    inside, ever = counts[..., window], counts[..., -1]
    best = np.argmax(inside + ever / (ever.max(axis=1, keepdims=True) + 1), axis=1)
    return np.where(inside.max(axis=1) > 0, best, -1)


def leads(numbers: Tensor) -> Tensor:
    """Probability that a class is bought and no other has more visits.

    Args:
        numbers: [n, C, K] probability of k visits with the class, k < K.

    Returns:
        [n, C].

    Example:
        >>> sure = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])  # One visit against none.
        >>> leads(sure).tolist()
        [[1.0, 0.0]]
    """
    numbers = numbers.double()
    logs = torch.log(numbers.cumsum(-1).clamp(1e-300, 1.0))
    others = torch.exp(logs.sum(1, keepdim=True) - logs)
    return (numbers * others)[..., 1:].sum(-1)


def _poisson(rates: Tensor) -> Tensor:
    """[..., MOST_VISITS + 1] probabilities of a Poisson at each rate; the last has the tail."""
    rates = rates.double().unsqueeze(-1).clamp(min=1e-9)
    k = torch.arange(MOST_VISITS + 1, dtype=torch.float64)
    numbers = torch.exp(k * torch.log(rates) - rates - torch.lgamma(k + 1))
    numbers[..., -1] += (1 - numbers.sum(-1)).clamp(min=0)
    return numbers


def _reweighted(numbers: Tensor, logits: Tensor, expected: Tensor) -> Tensor:
    """Let each outcome, fall, stay and rise, weigh what the outlook head gives it.

    Args:
        numbers: [n, C, K].
        logits: [n, C, 3].
        expected: [n, C] visits that the reference days expect.
    """
    most, least = (bound.unsqueeze(-1) for bound in outlook_bounds(expected))
    k = torch.arange(numbers.shape[-1])
    outcome = 1 + (k > most).long() - (k < least).long()  # [n, C, K]
    told = torch.softmax(logits.double(), dim=-1)
    masses = torch.stack([(numbers * (outcome == side)).sum(-1) for side in range(3)], dim=-1)
    # An outcome that no number stands for, such as a fall below 0, has nothing to weigh.
    weights = torch.where(masses > 1e-12, told / masses.clamp(min=1e-12), torch.zeros_like(told))
    found = numbers * weights.gather(-1, outcome)
    return found / found.sum(-1, keepdim=True).clamp(min=1e-300)
