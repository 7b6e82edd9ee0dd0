"""Parameter-efficient adaptations of a frozen transformer: LoRA or bottleneck adapters.

- LoRA (Hu et al. 2021) through `peft`: factors of rank R for every projection of attention
  and MLP. Their product is scaled by two and starts at zero.
- Adapters (Houlsby et al. 2019; one a layer, as Pfeiffer et al. 2021): a bottleneck of
  width R after each MLP, with a residual connection; `peft` has none for these models. Its
  output starts at zero.

An adapted model therefore computes the same as the original until it is trained.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hanse_common.errors import ConfigError, MissingDependency
from hanse_common.trainable import Trainable

_PROJECTIONS = {
    "gpt2": ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
    "bert": (
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    ),
}
"""Family -> the projections of a layer that LoRA adapts; the last one is the MLP's output."""


class _Bottleneck(nn.Module):
    """A layer with a trained bottleneck after it: `y + up(gelu(down(y)))`."""

    def __init__(self, layer: nn.Module, width: int, rank: int) -> None:
        super().__init__()
        self.layer = layer
        self.adapter_down = nn.Linear(width, rank)
        self.adapter_up = nn.Linear(rank, width)

    def forward(self, entered: Tensor) -> Tensor:
        """The layer's output plus the bottleneck's correction of it; same shape."""
        states: Tensor = self.layer(entered)
        amended: Tensor = self.adapter_up(nn.functional.gelu(self.adapter_down(states)))
        return states + amended


def is_adaptation(name: str) -> bool:
    """Whether a parameter of that name belongs to an adaptation."""
    return ".lora_" in name or ".adapter_" in name


def adapt(blocks: nn.Module, family: str, *, width: int, adaptation: str) -> None:
    """Add the parameters of an adaptation to a transformer, in place.

    Args:
        blocks: The transformer.
        family: `gpt2` or `bert`.
        width: Size of its states.
        adaptation: `lora:R` or `adapters:R`.

    Raises:
        ConfigError: It is neither.
        MissingDependency: LoRA needs peft, which is not installed.
    """
    chosen = Trainable.parse(adaptation)
    if chosen.kind == "lora":
        _add_factors(blocks, family, chosen.size)
    elif chosen.kind == "adapters":
        for layer in layers_of(blocks, family):
            path, _, last = _PROJECTIONS[family][-1].rpartition(".")
            parent = layer.get_submodule(path)
            setattr(parent, last, _Bottleneck(getattr(parent, last), width, chosen.size))
    else:
        raise ConfigError(f"{adaptation!r} is no adaptation", hint="use lora:R or adapters:R")


def start_adaptation(blocks: nn.Module, *, seed: int) -> None:
    """Initialise an adaptation so that it has no effect until it is trained.

    Args:
        blocks: An adapted transformer.
        seed: Of the random half of its factors.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        # Sorted: all parameters draw from one generator, so their order decides the values.
        for name, parameter in sorted(blocks.named_parameters()):
            if not is_adaptation(f".{name}"):
                continue
            # One factor zero makes the product zero; both zero would never get a gradient.
            if ".lora_B." in name or ".adapter_up." in name or name.endswith("bias"):
                parameter.zero_()
            else:
                spread = parameter.shape[1] ** -0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)


def layers_of(blocks: nn.Module, family: str) -> list[nn.Module]:
    """The layers of a transformer, in order."""
    return list(blocks.get_submodule("h" if family == "gpt2" else "encoder.layer").children())


def _add_factors(blocks: nn.Module, family: str, rank: int) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"model.trainable='lora:{rank}' needs the package 'peft', which is not installed",
            hint="pip install 'hanse[client]', or use adapters:R",
        ) from error
    # GPT-2 of transformers has Conv1D layers, whose weights are transposed: peft must know.
    conv1d = isinstance(layers_of(blocks, family)[0].get_submodule(_PROJECTIONS[family][0]), Conv1D)
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules=list(_PROJECTIONS[family]),
        fan_in_fan_out=conv1d,
    )
    inject_adapter_in_model(config, blocks)
