"""AUC of surprise scores at detecting behaviour that is not the customer's own, on four tasks.

- swapped baskets: a basket of another customer of the same store, at the same moment, against
  the customer's own; one of each for every visit of the test weeks
- bursts, hijacked accounts, cart bursts: see `injected_anomalies.py`; every customer-day of the
  test weeks

Baselines: the same scores from the customer's own frequencies, smoothed by the store's, instead
of the model's; and a plain count where one is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hanse_client.analytics.anomaly import Forecast, Shop, forecast_by, surprises
from hanse_client.analytics.occasions import (
    Occasions,
    basket_counts,
    each_visit,
    left_in_cart,
)
from hanse_client.features.histories import Histories
from hanse_client.tasks.interest import Batch, InterestConfig, InterestModel
from hanse_client.tasks.interest.features import Floats
from hanse_simulations.downstream.injected_anomalies import (
    Injected,
    Mask,
    bursts,
    cart_bursts,
    hijacked,
)
from hanse_simulations.downstream.table import DownstreamRow

PRIOR_PURCHASES = 200.0
"""Weight of the store's distribution in the personal baseline, in purchases: the best of 0, 10,
30, 60, 100, 200, 400 and 1000 on swapped baskets, by the same search as for the model."""

Judged = dict[tuple[str, str, str], list[tuple[Floats, Mask]]]
"""(task, method, score) -> each store's scores, and which cases are positive."""
Pattern = Callable[..., Injected]
PATTERNS: Mapping[str, Pattern] = {
    "bursts": bursts,
    "hijacked days": hijacked,
    "cart bursts": cart_bursts,
}


def personal_frequency(shop: Shop) -> Forecast:
    """Log-frequencies of the customer's purchases so far, smoothed by the store's distribution."""
    prior = torch.from_numpy(PRIOR_PURCHASES * np.exp(shop.log_share))

    def forecast(batch: Batch) -> Tensor:
        bought = batch.past.counts[..., -1].double() + prior
        return torch.log(bought / bought.sum(-1, keepdim=True))

    return forecast


def anomaly_rows(
    stores: Sequence[Histories],
    models: Mapping[str, InterestModel],
    *,
    start: float,
    stop: float,
    seed: int,
) -> list[DownstreamRow]:
    """Measure every score on every pattern, all stores together.

    Args:
        stores: Uncut histories.
        models: The models to compare by method; the run's own is `model`.
        start: First day of the test.
        stop: First day after it.
        seed: Seed of swaps and patterns; each store and pattern has a generator of its own.
    """
    judged: Judged = {}
    for number, store in enumerate(stores):
        config = next(iter(models.values())).config
        shop = Shop.of(store.until(start), classes=len(config.classes))
        forecasts = {name: forecast_by(model, shop) for name, model in models.items()}
        forecasts["personal"] = personal_frequency(shop)
        # One generator per store and pattern: adding a pattern leaves the other draws as they were.
        rng = np.random.default_rng([seed, number, 0])
        _swaps(judged, store, shop, forecasts, config, start, stop, rng)
        for place, (task, pattern) in enumerate(PATTERNS.items(), start=1):
            rng = np.random.default_rng([seed, number, place])
            injected = pattern(store, start=start, stop=stop, rng=rng)
            _days(judged, task, injected, shop, forecasts, config)
    return [
        DownstreamRow.auc(
            *key, np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
        )
        for key, parts in sorted(judged.items(), key=_place)
    ]


def _place(entry: tuple[tuple[str, str, str], object]) -> int:
    """Sort key: tasks in the order of the documentation; methods keep their order."""
    return ["swapped baskets", "bursts", "hijacked days", "hijacked accounts", "cart bursts"].index(
        entry[0][0]
    )


def _swaps(
    judged: Judged,
    store: Histories,
    shop: Shop,
    forecasts: Mapping[str, Forecast],
    config: InterestConfig,
    start: float,
    stop: float,
    rng: np.random.Generator,
) -> None:
    visits = each_visit(store, start=start, stop=stop)
    # Visits without a ranked class have no taste to score.
    visits = visits.keep(np.diff(store.pair_offsets)[visits.first] > 0)
    swapped = rng.permutation(len(visits))
    # A customer's own basket from another day is no anomaly and is left out.
    foreign = visits.customers[swapped] != visits.customers
    looked_for = np.repeat([False, True], [len(visits), int(foreign.sum())])
    for method, forecast in forecasts.items():
        own = surprises(store, visits, forecast, shop, config)
        other = surprises(store, visits, forecast, shop, config, contents=swapped)
        scores = np.concatenate([own.taste, other.taste[foreign]])
        _note(judged, "swapped baskets", method, "taste", scores, looked_for)


def _days(
    judged: Judged,
    task: str,
    injected: Injected,
    shop: Shop,
    forecasts: Mapping[str, Forecast],
    config: InterestConfig,
) -> None:
    changed, days, touched = injected.histories, injected.days, injected.touched
    # Carts are scored by counts alone, which are the same whatever the forecaster.
    methods: Iterable[str] = ("model",) if task == "cart bursts" else forecasts
    for method in methods:
        surprise = surprises(changed, days, forecasts[method], shop, config)
        named = {"bursts": "repeats", "cart bursts": "carts"}.get(task, "taste")
        for part in (named, "total"):
            scores = getattr(surprise, part)
            _note(judged, task, method, part, scores, touched)
            if task == "hijacked days" and part == named:
                _accounts(judged, method, changed, days, scores, touched)
    if task == "bursts":
        most = basket_counts(changed, days, len(config.classes)).max(axis=1, initial=0.0)
        _note(judged, task, "most_repeats", "count", most, touched)
    if task == "cart bursts":
        left = np.concatenate([[0.0], np.cumsum(left_in_cart(changed))])
        _note(judged, task, "left_in_cart", "count", left[days.stop] - left[days.first], touched)


def _accounts(
    judged: Judged,
    method: str,
    store: Histories,
    days: Occasions,
    scores: Floats,
    touched: Mask,
) -> None:
    """Score each account by the mean of its days in the test weeks, whenever it was hijacked."""
    count = len(store)
    visits = np.bincount(days.customers, minlength=count)
    active = visits > 0
    means = np.bincount(days.customers, scores, minlength=count)[active] / visits[active]
    taken = np.bincount(days.customers, touched, minlength=count)[active] > 0
    _note(judged, "hijacked accounts", method, "taste, mean", means, taken)


def _note(
    judged: Judged, task: str, method: str, part: str, scores: Floats, looked_for: Mask
) -> None:
    judged.setdefault((task, method, part), []).append((scores, looked_for))
