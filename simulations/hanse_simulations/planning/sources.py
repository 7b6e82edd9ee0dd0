"""Read a plan's terms, stores and model from options, a recipe, a file or a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Self

from hanse_common.config import DataSettings, ModelSettings, RunSettings
from hanse_common.errors import ConfigError, MissingDependency, RunNotFound
from hanse_common.phases import TRAIN
from hanse_common.privacy.plan import unsolved
from hanse_common.recipes import RECIPES
from hanse_common.run_file import load_recipe
from hanse_simulations.planning.forecast import Population
from hanse_simulations.planning.variants import Variant, count_variant, planned_model, saved_model
from hanse_simulations.runs.folder import RunFolder

if TYPE_CHECKING:
    from hanse_client.tasks.interest import InterestModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """The inputs of a plan.

    Args:
        settings: All terms.
        named: Whether a recipe, a file or a run was named whose stores can be looked up.
    """

    settings: RunSettings
    named: bool

    @classmethod
    def read(cls, name: str | None, changes: Mapping[str, object]) -> Self:
        """Read the settings that were named, and apply the changes.

        Args:
            name: A recipe, a run or a .toml file; all terms have their defaults if None.
            changes: New values by dotted keys.

        Raises:
            ConfigError: There is nothing of that name, or a term is out of range.
        """
        if name is None:
            # A transformer over visits alone has every variant that can be named.
            visits = ModelSettings(kind="visits")
            empty = RunSettings(
                recipe="planned", data=DataSettings(source="synthetic"), model=visits
            )
            return cls(settings=empty.with_changes(changes), named=False)
        if name in RECIPES or name.endswith(".toml"):
            return cls(settings=load_recipe(name, changes), named=True)
        try:
            settings = RunFolder.open(name).read_settings()
        except RunNotFound as error:
            raise ConfigError(
                f"there is no recipe and no run {name!r}",
                hint=f"one of {', '.join(RECIPES)}, a .toml file, or one of `hanse runs list`",
            ) from error
        # A run's settings hold the noise that was solved for its own terms, not for the changes.
        return cls(settings=unsolved(settings).with_changes(changes), named=True)

    def with_shares(self, given: Sequence[str]) -> Self:
        """Return sources whose phases have other shares of the budget.

        Args:
            given: Texts `PHASE=SHARE`. A new name is a phase of one sum of statistics, before
                the gradient; `train` is the gradient.

        Raises:
            ConfigError: A text has another form, or the shares do not add up to 1.
        """
        if not given:
            return self
        phases = {phase.name: phase.model_dump() for phase in self.settings.phases}
        rounds = self.settings.federation.rounds
        for text in given:
            name, _, number = text.partition("=")
            try:
                share = float(number)
            except ValueError:
                raise ConfigError(
                    f"--share {text!r} is not PHASE=SHARE", hint="e.g. --share pairs=.2"
                ) from None
            if name not in phases and name != TRAIN:
                phases[name] = {"name": name, "release": "statistics"}
                rounds += 1
            phases.setdefault(name, {"name": TRAIN})["share"] = share
        changes = {
            # The gradient last, unless the settings have an order of their own.
            "phases": sorted(phases.values(), key=lambda phase: phase["name"] == TRAIN)
            if not self.settings.phases
            else list(phases.values()),
            "federation.rounds": rounds,
        }
        return replace(self, settings=unsolved(self.settings).with_changes(changes))

    def population(self) -> Population:
        """Customers of the named stores, counted by the production ingestion.

        Raises:
            ConfigError: No stores were named.
            MissingDependency: A package that reads them is not installed.
        """
        if not self.named:
            raise ConfigError(
                "nothing says how many customers there are",
                hint="give --customers N --stores N, or name a recipe or a run",
            )
        return self._looked_up().population

    def variants(
        self,
        names: Sequence[str] | None,
        *,
        model: Path | None,
        classes: int | None,
        only_one: bool,
    ) -> list[Variant]:
        """Count what may be trained.

        Args:
            names: Names of the variants; if None, `rules`, `heads`, `all` and what the settings
                train, or the last of these alone if only one is wanted.
            model: Folder of the model to count on.
            classes: Without a folder, count on a model with this many classes; without
                either, on the model of the named stores.
            only_one: Whether exactly one variant is wanted.

        Raises:
            ConfigError: There is no such variant, or no model to count it on.
        """
        if names is None:
            known = model is not None or classes is not None or self.named
            if not known:
                raise ConfigError(
                    "nothing says what is trained",
                    hint="give --variant NUMBER, or --classes N and --variant heads",
                )
            own = self.settings.model.trainable
            names = [own] if only_one else list(dict.fromkeys(["rules", "heads", "all", own]))
        if only_one and len(names) != 1:
            raise ConfigError(
                f"--solve finds a term for one variant, not for {', '.join(names)}",
                hint="give --variant once",
            )
        plain = all(name.replace("_", "").replace(",", "").isdecimal() for name in names)
        counted_on = None if plain else self._model(model, classes)
        return [count_variant(name, counted_on) for name in names]

    def _model(self, folder: Path | None, classes: int | None) -> InterestModel | None:
        if folder is not None:
            return saved_model(folder)
        if classes is not None:
            return planned_model(self.settings.model, classes)
        return self._looked_up().model if self.named else None

    def _looked_up(self) -> _LookedUp:
        return _look_up(self.settings.model_dump_json())


@dataclass(frozen=True, kw_only=True, slots=True)
class _LookedUp:
    population: Population
    model: InterestModel


@cache
def _look_up(settings_json: str) -> _LookedUp:
    """Population and first model of a run; settings come as text, since they have no hash."""
    settings = RunSettings.model_validate_json(settings_json)
    # Imported here: `hanse plan` with plain numbers must start without torch or transformers.
    try:
        from transformers.utils.logging import disable_progress_bar

        from hanse_simulations.datasets import make_stores
        from hanse_simulations.experiment.prepare import cache_folder, prepare_stores

    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"reading the stores of {settings.recipe!r} needs the package {error.name!r}",
            hint="pip install 'hanse[simulate]', or give --customers and --variant NUMBER",
        ) from error
    disable_progress_bar()
    with TemporaryDirectory() as folder:
        # A shop's own data must leave no copy in the cache; public data sets are prepared once.
        cache = Path(folder) if settings.data.source == "stores" else cache_folder()
        stores = make_stores(settings.data, seed=settings.seed, cache=cache)
        split = {"data.split": stores.split.model_dump()}
        prepared = prepare_stores(stores.folders, settings.with_changes(split), cache)
        return _LookedUp(
            population=Population(tuple(len(store.active()) for store in prepared.load())),
            model=saved_model(prepared.base_model),
        )
