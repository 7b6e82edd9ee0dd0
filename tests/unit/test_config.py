"""Settings: strict, changeable by dotted names, and every sample is parsed."""

import pytest

from hanse_common.config import RunSettings
from hanse_common.recipes import RECIPES
from hanse_common.run_file import load_recipe
from kits.errors import raises


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_json(name):
    settings = RECIPES[name]()
    assert settings.recipe == name
    assert RunSettings.model_validate_json(settings.model_dump_json()) == settings


def test_the_default_is_twelve_regions_with_shared_noise_at_epsilon_four():
    settings = load_recipe("grocery")
    assert (settings.data.source, settings.data.partition) == ("complete-journey", "regions")
    assert settings.privacy.mode == "distributed"
    assert settings.privacy.target_epsilon == 4


def test_unknown_keys_are_errors_and_list_the_known(tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text("[data]\nsource = 'synthetic'\n[privacy]\nepsilon = 3\n")
    with raises("config", match=r"privacy\.epsilon.*target_epsilon"):
        load_recipe(str(recipe))


def test_a_file_that_is_not_toml_or_not_there(tmp_path):
    (tmp_path / "bad.toml").write_text("rounds = = 3")
    with raises("config", match="TOML"):
        load_recipe(str(tmp_path / "bad.toml"))
    with raises("config"):
        load_recipe(str(tmp_path / "none.toml"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"privacy.target_delta": 1.0}, "privacy.target_delta=1.0"),
        ({"training.local_steps": 0}, "training.local_steps=0"),
        ({"nonsense.key": 1}, "there is no setting 'nonsense.key'"),
        ({"data.path": "/somewhere"}, "goes with data.source = 'stores'"),
    ],
)
def test_bad_changes_name_the_setting(change, message):
    with raises("config") as raised:
        RECIPES["smoke"]().with_changes(change)
    assert message in str(raised.value)


def test_privacy_off_contradicts_a_target():
    with raises("contradicting-options"):
        RECIPES["smoke"]().with_changes({"privacy.mode": "none", "privacy.target_epsilon": 2})
