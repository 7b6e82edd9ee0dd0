"""Flower's strategies by name, with their parameters and their state.

A strategy decides which stores take part in a round and how their updates become the next
global model. Every strategy of Flower that needs no more than a store's reply holds (trained
arrays and a constant weight) is available under Flower's own name.

>>> from hanse_common.config import DataSettings
>>> settings = RunSettings(recipe="example", data=DataSettings(source="synthetic"))
>>> strategy = make_strategy(
...     settings.with_changes(
...         {"federation.strategy": "FedAdam", "federation.strategy_options": {"eta": 0.01}}
...     )
... )
>>> type(strategy).__name__, strategy.eta
('FedAdam', 0.01)
>>> strategy_state(strategy)
{}
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord
from flwr.serverapp import strategy as flower

from hanse_common.config import RunSettings
from hanse_common.errors import ConfigError

NDArray = npt.NDArray[Any]

STRATEGIES: Mapping[str, type[flower.FedAvg]] = {
    kind.__name__: kind
    for kind in (
        flower.FedAvg,
        flower.FedAvgM,
        flower.FedAdagrad,
        flower.FedAdam,
        flower.FedYogi,
        flower.FedMedian,
        flower.FedTrimmedAvg,
        flower.FedProx,
        flower.Krum,
        flower.MultiKrum,
        flower.Bulyan,
    )
}

# They compare or sort the updates of single stores, which exist nowhere under masks.
_NEED_EACH_UPDATE = (
    flower.FedMedian,
    flower.FedTrimmedAvg,
    flower.Krum,
    flower.MultiKrum,
    flower.Bulyan,
)

_WHY_NOT = {
    "QFedAvg": "it weighs stores by their training loss, which does not leave a store",
    "FedXgbBagging": "it aggregates trees",
    "FedXgbCyclic": "it aggregates trees",
}

# Inclusive bounds. Flower checks few of them: a fraction of 7 fails only when it samples.
_BOUNDS: Mapping[str, tuple[float, float]] = {
    "fraction_train": (1e-6, 1.0),
    "fraction_evaluate": (0.0, 1.0),
    "min_train_nodes": (1, math.inf),
    "min_evaluate_nodes": (1, math.inf),
    "min_available_nodes": (1, math.inf),
    "num_malicious_nodes": (0, math.inf),
    "num_nodes_to_select": (1, math.inf),
    "server_learning_rate": (1e-12, math.inf),
    "server_momentum": (0.0, 1.0),
    "eta": (1e-12, math.inf),
    "tau": (1e-12, math.inf),
    "beta_1": (0.0, 1.0 - 1e-9),
    "beta_2": (0.0, 1.0 - 1e-9),
    "proximal_mu": (0.0, math.inf),
}

# Attributes of Flower 1.41's strategies, which has no interface for their state: FedOpt's
# moments, FedAvgM's momentum, and the model that FedAvgM compares the next one with.
_MAPPED_STATE = ("m_t", "v_t")
_LISTED_STATE = "momentum_vector"
_RECORD_STATE = "current_arrays"


def make_strategy(run: RunSettings) -> flower.FedAvg:
    """Build the strategy that a run's settings name.

    Raises:
        ConfigError: The strategy or one of its parameters is unknown or out of range (the
            hint lists the known ones), or it needs single updates, which secure aggregation
            hides.
    """
    settings = run.federation
    kind = STRATEGIES.get(settings.strategy) or _installed(settings.strategy)
    if kind is None:
        reason = _WHY_NOT.get(settings.strategy)
        raise ConfigError(
            f"federation.strategy={settings.strategy!r} "
            + (f"cannot be used: {reason}" if reason else "is unknown"),
            hint=f"known: {', '.join(sorted(STRATEGIES))}",
        )
    if run.secure and kind in _NEED_EACH_UPDATE:
        others = sorted(set(STRATEGIES) - {known.__name__ for known in _NEED_EACH_UPDATE})
        raise ConfigError(
            f"federation.strategy={settings.strategy!r} compares the updates of single stores, "
            "which secure aggregation hides",
            hint=f"use one of {', '.join(others)}, or turn masking off with "
            "--no-secure-aggregation",
        )
    known = parameters(kind)
    options: dict[str, Any] = {
        name: _checked(settings.strategy, known, name, value)
        for name, value in settings.strategy_options.items()
    }
    try:
        return kind(**options)
    except ValueError as error:
        raise ConfigError(f"federation.strategy_options of {settings.strategy}: {error}") from error


def _installed(name: str) -> type[flower.FedAvg] | None:
    """The strategy of a name that another package has installed, in the group `hanse.strategies`.

    It must be a kind of Flower's `FedAvg` that uses only the mean of the updates: under masks
    nothing else exists.
    """
    for entry in entry_points(group="hanse.strategies", name=name):
        kind = entry.load()
        if not (isinstance(kind, type) and issubclass(kind, flower.FedAvg)):
            raise ConfigError(
                f"federation.strategy={name!r}: {entry.value} is no kind of Flower's FedAvg",
                hint="derive the strategy from flwr.serverapp.strategy.FedAvg",
            )
        return kind
    return None


def parameters(kind: type[flower.FedAvg]) -> dict[str, float | int]:
    """Return the parameters that a strategy takes from the settings, with their defaults."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(kind.__init__).parameters.items()
        # Numbers only: the others are functions, and names of records that are fixed here.
        if isinstance(parameter.default, int | float)
    }


def _checked(
    strategy: str, known: Mapping[str, float | int], name: str, value: float | int | bool
) -> float | int:
    label = f"federation.strategy_options.{name}={value!r}"
    if name not in known:
        raise ConfigError(
            f"{strategy} has no parameter {name!r}", hint=f"known: {', '.join(sorted(known))}"
        )
    integral = isinstance(known[name], int)
    # Python's booleans are integers: `true` would pass as 1.
    if isinstance(value, bool) or (integral and not isinstance(value, int)):
        raise ConfigError(f"{label} should be a {'whole ' if integral else ''}number")
    low, high = _BOUNDS.get(name, (-math.inf, math.inf))
    if not math.isfinite(value) or not low <= value <= high:
        raise ConfigError(f"{label} is out of range", hint=f"from {low:g} to {high:g}")
    return value if integral else float(value)


def strategy_state(strategy: flower.Strategy) -> dict[str, NDArray]:
    """Return the state that a strategy carries between rounds, for a checkpoint.

    It holds only what the next round cannot compute again: the FedOpt family sets its
    `current_arrays` in every round, FedAvgM does not.

    Returns:
        Arrays by `attribute/name`, or `attribute/position` where the strategy keeps a list.
    """
    state: dict[str, NDArray] = {}
    for attribute in _MAPPED_STATE:
        for name, array in (getattr(strategy, attribute, None) or {}).items():
            state[f"{attribute}/{name}"] = array
    for position, array in enumerate(getattr(strategy, _LISTED_STATE, None) or []):
        state[f"{_LISTED_STATE}/{position:06d}"] = array
    record = getattr(strategy, _RECORD_STATE, None)
    if isinstance(record, ArrayRecord):
        for name, array in record.items():
            state[f"{_RECORD_STATE}/{name}"] = array.numpy()
    return state


def restore_state(strategy: flower.Strategy, arrays: Mapping[str, NDArray]) -> None:
    """Restore the state that `strategy_state` returned.

    Args:
        strategy: An unused strategy of the same kind and parameters.
        arrays: The arrays of `strategy_state`, by the same names; others are ignored.
    """
    state: dict[str, dict[str, NDArray]] = {}
    for key, array in arrays.items():
        # At the first slash only: a parameter's own name may contain one.
        attribute, _, name = key.partition("/")
        state.setdefault(attribute, {})[name] = array
    for attribute, named in state.items():
        if attribute in _MAPPED_STATE:
            setattr(strategy, attribute, named)
        elif attribute == _LISTED_STATE:
            setattr(strategy, attribute, [named[position] for position in sorted(named)])
        elif attribute == _RECORD_STATE:
            setattr(strategy, attribute, to_record(named))


def to_record(arrays: Mapping[str, NDArray]) -> ArrayRecord:
    """Wrap named arrays in a Flower record."""
    return ArrayRecord({name: Array(np.asarray(array)) for name, array in arrays.items()})
