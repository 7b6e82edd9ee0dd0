"""The settings of optimisation, a part of `hanse_common.config.RunSettings`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hanse_common.settings_files import Settings, is_default


class TrainingSettings(Settings):
    """Optimisation; one customer is one example."""

    sample_rate: float = Field(default=0.1, gt=0, le=1)
    """Probability of each customer to be in a local step (Poisson sampling)."""
    local_steps: int = Field(default=1, ge=1)
    """Steps between two exchanges; more than one goes with `privacy.mode` local or none."""
    learning_rate: float = Field(default=0.1, gt=0)
    """At the start; it falls linearly, to `final_learning_rate` times itself in the last round."""
    reference_noise: float | None = Field(default=None, gt=0, exclude_if=is_default(None))
    """Most noise at which steps are as long as `learning_rate` says: standard deviation of one
    number of a step's mean gradient, in clips. In mode `distributed` a federation with r times as
    much takes 1/r⁴ of the rate; unset, it follows the rate whatever its noise. So fast, because
    half a rate is no remedy: a head that is trained by halves is worse than an untrained one."""
    final_learning_rate: float = Field(default=0.1, gt=0, le=1)
    expected_batch_size: float = Field(default=16.0, gt=0)
    """Public constant by which sums of gradients are divided. The true size of a batch depends on
    customers and is never used."""
    non_private_optimizer: Literal["sgd", "adam"] = "sgd"
    non_private_learning_rate: float = Field(default=0.5, gt=0)
    """Initial learning rate of the optimizer in training without privacy."""
    anchors: int = Field(default=8, ge=1)
    """Points in time per customer and step from which the future is predicted; drawn anew in
    every step, but fixed where a model of categories trains its head alone."""
    outlook_weight: float = Field(default=1.0, ge=0)
    """Weight of the loss of rises and falls, relative to that of the next basket."""
    rate_weight: float = Field(default=0.1, ge=0)
    """Weight of the loss of the visits expected in the next 7, 14 and 28 days."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of forward passes without privacy. Private training is always float32, since the clip must
    bound every customer's gradient exactly."""
    loss_clip: float = Field(default=20.0, gt=0)
    """Clip of one customer's loss in the sums that leave a store under masks."""
