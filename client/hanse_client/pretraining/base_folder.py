"""The folder of a base for forecasts by category, and the base that ships with the package.

<folder>/config.json         the model's shape, the version of the base, names of its inputs
<folder>/model.safetensors   its weights

A base is only of use with the token inputs that it learnt from, in their order and scale. So
it carries a version, and one of another version is refused.

>>> shipped_base().config.base_version == BASE_VERSION
True
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, Final

from transformers.utils import logging

from hanse_client.model.config import CategoryConfig
from hanse_client.model.pretrained import MODEL_ERRORS
from hanse_client.tasks.interest.category_model import CategoryModel
from hanse_client.tasks.interest.category_tokens import INPUTS
from hanse_common.decoding import decoding, json_object
from hanse_common.durable import write_durably
from hanse_common.errors import ConfigError
from hanse_common.paths import BASES_FOLDER, CONFIG_FILE

BASE_VERSION: Final = 1
"""To be raised, and the shipped base made again, whenever a token input changes its meaning or
scale, or the model its computations: a base would then still load, and forecast nonsense."""
SHIPPED_BASE: Final = Path(__file__).parent / BASES_FOLDER / "shoppers"
"""The folder of the base that ships with the package."""
_AGAIN = "make it again: hanse model pretrain shoppers --output BASE"


def write_base(model: CategoryModel, folder: Path) -> None:
    """Write a base's configuration and weights into an existing folder.

    Raises:
        OSError: The folder cannot be written.
    """
    model.config.base_version = BASE_VERSION
    model.config.token_inputs = list(INPUTS)
    model.save_pretrained(folder)
    # In full: a default that changes later must not change the shape of a base that exists.
    names = [name for name in inspect.signature(CategoryConfig).parameters if name != "kwargs"]
    table = {name: getattr(model.config, name) for name in names}
    table = {**model.config.to_diff_dict(), **table}
    write_durably(folder / CONFIG_FILE, json.dumps(table, indent=2, sort_keys=True) + "\n")


def read_base(folder: Path) -> CategoryModel:
    """Read a base that `hanse model pretrain shoppers` wrote, in evaluation mode.

    Raises:
        ConfigError: There is no base in the folder, or it is damaged.
        ConfigError [base-version]: It is of another version.
    """
    with decoding(folder / CONFIG_FILE, ConfigError, hint=_AGAIN):
        table = json_object((folder / CONFIG_FILE).read_bytes())
    kind = table.get("model_type")
    if kind != CategoryConfig.model_type:
        raise ConfigError(
            f"{folder} holds a model of the family {kind!r}, not {CategoryConfig.model_type!r}",
            hint=f'a text model goes with model.kind="visits"; for a base, {_AGAIN}',
        )
    version = table.get("base_version")
    if version != BASE_VERSION or table.get("token_inputs") != list(INPUTS):
        raise ConfigError(
            f"the base in {folder} is of version {version!r}, but this program reads version "
            f"{BASE_VERSION} with its {len(INPUTS)} token inputs",
            code="base-version",
            hint=f"leave it out to use the base that ships with the program, or {_AGAIN}",
        )
    loud = logging.get_verbosity()
    try:
        logging.set_verbosity_error()
        with decoding(folder, ConfigError, *MODEL_ERRORS, hint=_AGAIN):
            loaded: Any = CategoryModel.from_pretrained(
                folder, local_files_only=True, output_loading_info=True
            )
            model, report = loaded
    finally:
        logging.set_verbosity(loud)
    wrong = sorted({*report["missing_keys"], *report["unexpected_keys"]})
    if wrong:
        raise ConfigError(f"{folder} lacks weights, or has others: {wrong[0]}", hint=_AGAIN)
    base: CategoryModel = model.eval()
    return base


def shipped_base() -> CategoryModel:
    """Read the base that ships with the package: pre-trained on made-up shoppers alone."""
    return read_base(SHIPPED_BASE)
