"""What may be trained, and how many parameters that is, counted on the real model.

| variant | what is trained |
|---|---|
| a number | that many parameters |
| `rules`, `heads`, `all` | as `model.trainable` says |
| `full` | the same as `all` |
| `top:K` | the heads, the last K transformer blocks and the norm after them |
| `lora:R` | the heads, and factors of rank R beside each block's attention projection |

`top` and `lora` are figures to plan with; `model.trainable` does not offer them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from hanse_common.config import ModelSettings
from hanse_common.errors import ConfigError, MissingDependency
from hanse_common.secagg.layout import MAX_LENGTH

if TYPE_CHECKING:
    from hanse_common.model import InterestModel

TRAINABLE: tuple[str, ...] = get_args(ModelSettings.model_fields["trainable"].annotation)
_KNOWN = "a number of parameters, rules, heads, all, full, top:K or lora:R"


@dataclass(frozen=True, slots=True)
class Variant:
    """Something that may be trained.

    Args:
        name: What it is called.
        parameters: How many it trains.
    """

    name: str
    parameters: int

    def __post_init__(self) -> None:
        if not 1 <= self.parameters <= MAX_LENGTH:
            raise ConfigError(
                f"variant {self.name!r} trains {self.parameters} parameters",
                hint=f"at least 1, and at most the {MAX_LENGTH} that a masked sum can hold",
            )

    @property
    def offered(self) -> bool:
        """Whether `model.trainable` offers it, or it is a mere number."""
        return self.name.isdigit() or self.name == "full" or self.name in TRAINABLE


def count_variant(text: str, model: InterestModel | None = None) -> Variant:
    """Read a variant, and count what it trains.

    Args:
        text: As in the table above.
        model: Where it is counted; a plain number needs none.

    Raises:
        ConfigError: There is no such variant, or no model to count it on.

    Edge cases:
        The model is left with another part of it trainable than before.

    >>> count_variant("2_434").parameters
    2434
    """
    kind, _, number = text.partition(":")
    digits = text.replace("_", "").replace(",", "")
    if digits.isdecimal():
        return Variant(digits, int(digits))
    sized = kind in ("top", "lora") and number.isdecimal() and int(number) > 0
    if not sized and text not in ("full", *TRAINABLE):
        raise ConfigError(f"there is no variant {text!r}", hint=f"take {_KNOWN}")
    if model is None:
        raise ConfigError(
            f"variant {text!r} is counted on a model, and none is given",
            hint="name a recipe or a run, give --model FOLDER or --classes N, or say how many "
            "parameters as a number",
        )
    return Variant(text, _count(kind, int(number or 0), model))


def planned_model(settings: ModelSettings, classes: int) -> InterestModel:
    """A model of that shape without weights: enough to be counted.

    Args:
        settings: Its shape; texts are taken to be embedded as by the default encoder.
        classes: How many the heads predict.

    Raises:
        MissingDependency: torch or transformers are not installed.
    """
    _need_torch()
    import torch

    from hanse_common.model import InterestConfig, InterestModel

    config = InterestConfig(
        classes=[f"{number:05}" for number in range(classes)],
        n_layer=settings.n_layer,
        n_head=settings.n_head,
        n_embd=settings.n_embd,
        max_steps=settings.max_steps,
    )
    with torch.device("meta"):
        return InterestModel(config)


def saved_model(folder: Path) -> InterestModel:
    """Read a model's folder, such as `runs/NAME/model`.

    Raises:
        ConfigError: It holds no interest model.
        MissingDependency: torch or transformers are not installed.
    """
    _need_torch()
    from hanse_common.model import InterestModel

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


def _count(kind: str, number: int, model: InterestModel) -> int:
    if kind in TRAINABLE:
        return _trained(model, kind)
    if kind == "full":
        return _trained(model, "all")
    blocks = _blocks(model)
    heads = _trained(model, "heads")
    if kind == "top":
        if not 1 <= number <= len(blocks):
            raise ConfigError(
                f"variant 'top:{number}': the transformer has {len(blocks)} blocks",
                hint=f"take top:1 to top:{len(blocks)}, or full",
            )
        parts = (*blocks[-number:], model.visits.blocks.ln_f)
        return heads + sum(int(p.numel()) for part in parts for p in part.parameters())
    return heads + number * sum(sum(shape) for shape in _attention_shapes(model))


def _trained(model: InterestModel, part: str) -> int:
    names = set(model.train_only(part))  # type: ignore[arg-type]
    return sum(int(p.numel()) for name, p in model.named_parameters() if name in names)


def _blocks(model: InterestModel) -> list[Any]:
    return list(model.visits.blocks.h)


def _attention_shapes(model: InterestModel) -> Iterator[tuple[int, int]]:
    """Of each block's projection to queries, keys and values; a LoRA pair adds rank x (a + b)."""
    for block in _blocks(model):
        first, second = block.attn.c_attn.weight.shape
        yield int(first), int(second)
