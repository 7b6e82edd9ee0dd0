"""A run's file is completed by a recipe: the one it names, or the private one of its task."""

import pytest

from hanse_common.config import RunSettings
from hanse_common.recipes import RECIPES
from hanse_common.run_file import completed, load_recipe, read_run_file, recipe_for
from kits.errors import raises

SPLIT = (
    "[data.split]\ntrain_until = 2024-10-14T00:00:00\nvalidate_until = 2024-11-18T00:00:00\n"
    "test_until = 2024-12-23T00:00:00\n"
)
OWN = f'[data]\nsource = "stores"\npath = "shops"\n{SPLIT}'


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.toml"

    def write(text):
        path.write_text(text)
        return path

    return write


def test_own_data_have_the_measured_private_settings_without_a_word(file):
    settings, grocery = read_run_file(file(OWN)), RECIPES["grocery"]()
    for part in ("recipe", "task", "model", "training", "privacy", "federation", "phases"):
        assert getattr(settings, part) == getattr(grocery, part)
    assert settings.transformer_training == grocery.transformer_training


def test_data_are_of_one_source_and_inherited_with_it_alone(file):
    own = read_run_file(file(OWN)).data
    assert (own.source, own.min_items, own.partition) == ("stores", 1, "regions")
    fifty = read_run_file(file('[data]\nsource = "sequences"\npath = "Beauty.txt"\n')).data
    assert (fifty.stores, fifty.min_customers) == (50, 2)


def test_a_file_names_its_recipe_and_keeps_what_it_says(file):
    text = 'recipe = "grocery-rules"\n' + OWN + "[privacy]\ntarget_epsilon = 2.0\n"
    settings, rules = read_run_file(file(text)), RECIPES["grocery-rules"]()
    assert (settings.recipe, settings.model) == ("grocery-rules", rules.model)
    assert settings.privacy == rules.privacy.model_copy(update={"target_epsilon": 2.0})


def test_a_change_names_the_recipe_of_a_file(file):
    path = str(file('recipe = "grocery"\n' + OWN))
    settings = load_recipe(path, {"recipe": "grocery-rules", "federation.rounds": 9})
    assert settings.model.kind == "visits" and settings.federation.rounds == 9
    with raises("contradicting-options", match="is a recipe itself"):
        load_recipe("grocery", {"recipe": "smoke"})


@pytest.mark.parametrize(
    ("table", "recipe"),
    [
        ({}, "grocery"),
        ({"model": {"kind": "visits"}}, "grocery-rules"),
        ({"task": "next-item", "data": {"source": "own"}}, "sequences-texts"),
        ({"data": {"source": "sequences", "path": "a.txt"}}, "sequences"),
        ({"data": {"source": "sequences", "catalogue": "items.tsv"}}, "sequences-texts"),
        ({"data": {"source": "reviews"}}, "reviews"),
        ({"task": "review"}, "reviews"),
        ({"task": "conversion"}, "conversion"),
        ({"task": "weather"}, None),
        ({"model": 3, "data": "x"}, "grocery"),
    ],
)
def test_the_recipe_of_a_file_that_names_none(table, recipe):
    assert recipe_for(table) == recipe


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_completes_itself_to_itself(name):
    settings = RECIPES[name]()
    for exclude_none in (True, False):
        table = settings.model_dump(exclude_none=exclude_none)
        assert RunSettings.parse(completed(table, name)) == settings


def test_options_of_a_strategy_are_not_inherited_by_another(file):
    settings = read_run_file(file(OWN + '[federation]\nstrategy = "FedAvg"\n'))
    assert settings.federation.strategy_options == {}
    assert settings.federation.rounds == RECIPES["grocery"]().federation.rounds


def test_a_recipe_that_there_is_not(file):
    with raises("config", match="did you mean 'grocery'"):
        read_run_file(file('recipe = "grocry"\n' + OWN))
    with raises("config", match="there is no recipe '3'"):
        read_run_file(file("recipe = 3\n" + OWN))


def test_a_recipe_of_another_task(file):
    with raises("contradicting-options", match="whose task is 'interest'"):
        read_run_file(file('recipe = "grocery"\ntask = "review"\n' + OWN))


def test_a_task_of_another_package_has_the_defaults_of_the_schema(file):
    settings = read_run_file(file('task = "weather"\n' + OWN))
    assert (settings.recipe, settings.phases) == ("mine", ())
    assert read_run_file(file('recipe = "w"\ntask = "weather"\n' + OWN)).recipe == "w"


@pytest.mark.parametrize("part", ["model", "training", "federation", "data"])
def test_a_part_of_the_wrong_type_is_named(file, part):
    with raises("config", match=part):
        read_run_file(file(f"{part} = 3\n" + ("" if part == "data" else OWN)))
