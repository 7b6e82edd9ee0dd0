"""Count the trained parameters of a variant on the real model.

| variant | what is trained |
|---|---|
| a number | that many parameters |
| `full` | the same as `all` |
| anything else | as `model.trainable` says (`hanse_common.trainable`), by the model's own choice |
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hanse_common.config import ModelSettings
from hanse_common.errors import ConfigError, MissingDependency
from hanse_common.secagg.layout import MAX_LENGTH
from hanse_common.trainable import OFFERED, Trainable

if TYPE_CHECKING:
    from hanse_client.tasks.interest import InterestModel

_KNOWN = f"a number of parameters, full, {OFFERED}"


@dataclass(frozen=True, slots=True)
class Variant:
    """A choice of trained parameters.

    Args:
        name: Its name on the command line.
        parameters: Number of parameters that it trains.
    """

    name: str
    parameters: int

    def __post_init__(self) -> None:
        if not 1 <= self.parameters <= MAX_LENGTH:
            raise ConfigError(
                f"variant {self.name!r} trains {self.parameters} parameters",
                hint=f"at least 1, and at most the {MAX_LENGTH} that a masked sum can hold",
            )


def count_variant(text: str, model: InterestModel | None = None) -> Variant:
    """Parse a variant and count the parameters that it trains.

    Args:
        text: The variant, as in the table above.
        model: The model to count on; a plain number needs none.

    Raises:
        ConfigError: There is no such variant, or no model to count it on.

    >>> count_variant("2_434").parameters
    2434
    """
    digits = text.replace("_", "").replace(",", "")
    if digits.isdecimal():
        return Variant(digits, int(digits))
    try:
        chosen = Trainable.parse("all" if text == "full" else text)
    except ConfigError as error:
        raise ConfigError(f"there is no variant {text!r}", hint=f"take {_KNOWN}") from error
    if model is None:
        raise ConfigError(
            f"variant {text!r} is counted on a model, and none is given",
            hint="name a recipe or a run, give --model FOLDER or --classes N, or say how many "
            "parameters as a number",
        )
    return Variant(text, _count(chosen, model))


def planned_model(settings: ModelSettings, classes: int) -> InterestModel:
    """Make a model of a given shape without weights, enough to count its parameters.

    Args:
        settings: The shape; texts are assumed to be embedded by the default encoder.
        classes: Number of classes that the heads predict.

    Raises:
        MissingDependency: torch or transformers are not installed.
    """
    _need_torch()
    import torch

    from hanse_client.tasks.interest import InterestConfig, InterestModel

    config = InterestConfig(
        kind=settings.kind,
        classes=[f"{number:05}" for number in range(classes)],
        n_layer=settings.n_layer,
        n_head=settings.n_head,
        n_embd=settings.n_embd,
        max_steps=settings.max_steps,
        backbone=settings.backbone,
    )
    if settings.kind == "visits" and settings.checkpoint is not None:
        from hanse_client.model.pretrained import read_checkpoint

        read_checkpoint(settings.checkpoint).shape(config)
    with torch.device("meta"):  # shapes only: no memory is taken and nothing is initialised
        return InterestModel(config)


def saved_model(folder: Path) -> InterestModel:
    """Read a model's folder, such as `runs/NAME/model`.

    Raises:
        ConfigError: It holds no interest model.
        MissingDependency: torch or transformers are not installed.
    """
    _need_torch()
    from hanse_client.tasks.interest import InterestModel

    try:
        return InterestModel.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(
            f"{folder} holds no interest model", hint="give a folder like runs/NAME/model"
        ) from error


def _need_torch() -> None:
    from importlib.util import find_spec

    for name in ("torch", "transformers"):
        if find_spec(name) is None:
            raise MissingDependency(
                f"parameters are counted on the real model, and {name!r} is not installed",
                hint="pip install 'hanse[client]', or say how many as --variant NUMBER",
            )


def _count(chosen: Trainable, model: InterestModel) -> int:
    """Trained parameters of a model made for that choice, whatever `model` was made for."""
    import torch

    from hanse_client.tasks.interest import InterestModel

    # Adapters are created by the constructor, so a copy of the config is changed, not the model.
    config = copy.deepcopy(model.config)
    config.adaptation = chosen.adaptation
    if config.kind == "visits":
        chosen.check(layers=config.n_layer, width=config.n_embd)
    with torch.device("meta"):
        made = InterestModel(config)
    made.train_only(str(chosen))
    return sum(int(p.numel()) for p in made.parameters() if p.requires_grad)
