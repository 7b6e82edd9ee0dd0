"""The settings of a federation that trains an app of somebody else.

>>> settings = app_settings(
...     target_epsilon=4.0, target_delta=1e-5, rounds=20, sample_rate=0.2, max_grad_norm=1.0
... )
>>> settings.task, settings.secure
('app', True)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hanse_common.config import (
    DataSettings,
    FederationSettings,
    PrivacySettings,
    RunSettings,
    TrainingSettings,
)

APP_TASK: Final = "app"


def app_settings(
    *,
    target_epsilon: float,
    target_delta: float,
    rounds: int,
    sample_rate: float,
    max_grad_norm: float,
    evaluation_noise_multiplier: float | None = None,
    noise_multiplier: float | None = None,
    learning_rate: float = 0.1,
    expected_batch_size: float = 16.0,
    metrics: Sequence[str] = (),
    name: str = "own-model",
) -> RunSettings:
    """Return the settings of an app's federation, in mode `distributed`.

    Args:
        target_epsilon: See `PrivacyPlan`, as for the next four.
        target_delta: See there.
        rounds: See there.
        sample_rate: See there.
        max_grad_norm: See there.
        evaluation_noise_multiplier: See there; evaluations stay at the stores if unset.
        noise_multiplier: See there; solved from the target if unset.
        learning_rate: The factor on the mean clipped gradient, at the start.
        expected_batch_size: Public estimate of the customers that a store draws in a round.
        metrics: Names of the sums that `hanse_client.customer_sums` releases.
        name: The federation's name.
    """
    return RunSettings(
        recipe=name,
        task=APP_TASK,
        data=DataSettings(source="app"),
        training=TrainingSettings(
            sample_rate=sample_rate,
            learning_rate=learning_rate,
            expected_batch_size=expected_batch_size,
        ),
        privacy=PrivacySettings(
            target_epsilon=target_epsilon,
            target_delta=target_delta,
            max_grad_norm=max_grad_norm,
            noise_multiplier=noise_multiplier,
            evaluation_noise_multiplier=evaluation_noise_multiplier,
        ),
        federation=FederationSettings(rounds=rounds, evaluate_every=1),
        metrics=tuple(metrics),
        compare=False,
    )
