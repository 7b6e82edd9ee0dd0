"""A run's settings from a TOML file, which a recipe completes.

The schema's defaults are neutral and measured for nothing. What a file leaves out is therefore as
in a recipe: the one that it names, or that of its task.

    recipe = "grocery"

    [data]
    source = "stores"
    path = "shops"

>>> table = {"task": "review", "data": {"source": "own"}}
>>> recipe_for(table)
'reviews'
>>> completed(table, "reviews")["federation"]["rounds"]
2
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from hanse_common.config import RunSettings
from hanse_common.errors import ConfigError, ContradictingOptions
from hanse_common.recipes import RECIPES
from hanse_common.settings_files import read_toml

_TASKS_OF_SOURCES: Final = {"sequences": "next-item", "reviews": "review"}
_TASKS: Final = ("interest", "next-item", "review", "conversion")
"""Tasks that have recipes; of another package's task `recipe` is a name, and no more."""
_PARTS: Final = ("task", "model", "data")
"""The settings by which a file's recipe is found if it names none."""


def load_recipe(name: str, changes: Mapping[str, object] | None = None) -> RunSettings:
    """Return a recipe by its name, or the settings in a TOML file by its path.

    Args:
        name: A recipe, or a path that ends with `.toml`.
        changes: New values by dotted keys. `recipe` completes a file in place of the recipe that
            the file names.

    Raises:
        ConfigError: There is no such recipe or file, or a setting is wrong.
        ContradictingOptions: The recipe `name` is to be completed by another one.
    """
    given = dict(changes or {})
    recipe = given.pop("recipe", None)
    if name.endswith(".toml"):
        settings = read_run_file(Path(name), recipe=None if recipe is None else str(recipe))
    elif name not in RECIPES:
        raise _no_recipe(name, ", or a .toml file")
    elif recipe is not None and recipe != name:
        raise ContradictingOptions(
            f"recipe={recipe!r} completes a .toml file, and {name!r} is a recipe itself",
            hint="leave one of the two out",
        )
    else:
        settings = RECIPES[name]()
    return settings.with_changes(given) if given else settings


def read_run_file(path: Path, *, recipe: str | None = None) -> RunSettings:
    """Read a run's settings from a TOML file, completed by a recipe.

    Args:
        path: The file.
        recipe: The recipe that completes it, instead of the one that it names.

    Returns:
        The settings; their `recipe` is the one that completed them. A task of another package has
        no recipe: the schema's defaults complete it, and `recipe` is what the file says, or the
        file's name.

    Raises:
        ConfigError: The file cannot be read, names no recipe, or holds an unknown or malformed
            setting.
        ContradictingOptions: Its task is not the recipe's.
    """
    table = read_toml(path)
    name = recipe_for(table) if recipe is None else recipe
    if name is None or (name not in RECIPES and table.get("task", "interest") not in _TASKS):
        return RunSettings.parse({"recipe": path.stem, **table})
    return RunSettings.parse(completed(table, name))


def completion(settings: RunSettings) -> str:
    """Which recipe completed a file's settings, for the end of a line."""
    if settings.recipe in RECIPES:
        return f"; what the settings leave out is as in the recipe {settings.recipe!r}"
    return "; what the settings leave out has the defaults of the schema"


def recipe_for(table: Mapping[str, Any]) -> str | None:
    """The recipe of a file's settings: the one that it names, or the private one of its task.

    Args:
        table: The file's content. Parts of the wrong type are ignored here, and refused when the
            settings are parsed.

    Returns:
        None for a task that has no recipe.
    """
    if "recipe" in table:
        return str(table["recipe"])
    task, model, data = (table.get(part) for part in _PARTS)
    source = data.get("source") if isinstance(data, dict) else None
    if task is None:
        task = _TASKS_OF_SOURCES.get(str(source), "interest")
    if task == "interest":
        visits = isinstance(model, dict) and model.get("kind") == "visits"
        return "grocery-rules" if visits else "grocery"
    if task == "next-item":
        # A deployed model of next items is made from a catalogue (`hanse model init`).
        by_texts = source == "own" or (isinstance(data, dict) and "catalogue" in data)
        return "sequences-texts" if by_texts else "sequences"
    return {"review": "reviews", "conversion": "conversion"}.get(str(task))


def completed(table: Mapping[str, Any], recipe: str) -> dict[str, Any]:
    """A file's settings with a recipe's for all that they leave out.

    Tables are completed key by key. `phases` are one plan, `strategy_options` are of one strategy
    and `data` are of one source: they are the recipe's as a whole or not at all.

    Args:
        table: The file's content.
        recipe: Name of a recipe.

    Raises:
        ConfigError: There is no such recipe.
        ContradictingOptions: The file's task is not the recipe's.
    """
    if recipe not in RECIPES:
        raise _no_recipe(recipe, "")
    base = RECIPES[recipe]().model_dump()
    task = table.get("task", base["task"])
    if task != base["task"]:
        raise ContradictingOptions(
            f"task={task!r} contradicts recipe={recipe!r}, whose task is {base['task']!r}",
            hint="leave one of the two out",
        )
    merged = {**base, **table, "recipe": recipe}
    for part in ("model", "training", "privacy", "federation", "compute"):
        given = table.get(part, {})
        # What is no table is refused when the settings are parsed.
        if isinstance(given, dict):
            merged[part] = {**base[part], **given}
    federation, own = merged["federation"], table.get("federation", {})
    another = (
        isinstance(own, dict)
        and own.get("strategy", base["federation"]["strategy"]) != (base["federation"]["strategy"])
    )
    if another and "strategy_options" not in own:
        federation["strategy_options"] = {}
    data = table.get("data", {})
    if (
        isinstance(data, dict)
        and data.get("source", base["data"]["source"]) == (base["data"]["source"])
    ):
        merged["data"] = {**base["data"], **data}
    return merged


def _no_recipe(name: str, more: str) -> ConfigError:
    near = difflib.get_close_matches(name, RECIPES, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ConfigError(
        f"there is no recipe {name!r}", hint=f"{hint}one of {', '.join(RECIPES)}{more}"
    )
