"""Small parameters beside a frozen transformer: LoRA factors or bottleneck adapters.

- LoRA (Hu et al. 2021) through `peft`: factors of rank R beside every projection of
  attention and MLP. Their product is scaled by two and starts at zero.
- Adapters (Houlsby et al. 2019; one a layer, as Pfeiffer et al. 2021): a bottleneck of
  width R after each MLP, with a way around it; `peft` has none for these models. It starts
  as nothing.

So an adapted model answers as the one it was made of until it is trained.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hanse_common.errors import ConfigError, MissingDependency
from hanse_common.trainable import Trainable

PROJECTIONS = {
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
"""By family, what LoRA goes beside within a layer; the last one is the MLP's way out."""


class Bottleneck(nn.Module):
    """A layer with a trained bottleneck after it: `y + up(gelu(down(y)))`."""

    def __init__(self, layer: nn.Module, width: int, rank: int) -> None:
        super().__init__()
        self.layer = layer
        self.adapter_down = nn.Linear(width, rank)
        self.adapter_up = nn.Linear(rank, width)

    def forward(self, entered: Tensor) -> Tensor:
        """Run the layer, then amend what it says."""
        states: Tensor = self.layer(entered)
        amended: Tensor = self.adapter_up(nn.functional.gelu(self.adapter_down(states)))
        return states + amended


def is_adaptation(name: str) -> bool:
    """Whether a parameter of that name is there for adaptation only."""
    return ".lora_" in name or ".adapter_" in name


def adapt(blocks: nn.Module, family: str, *, width: int, adaptation: str) -> None:
    """Put an adaptation's parameters into a transformer, in place.

    Args:
        blocks: The transformer.
        family: `gpt2` or `bert`.
        width: Of its states.
        adaptation: `lora:R` or `adapters:R`.

    Raises:
        ConfigError: It is neither.
        MissingDependency: LoRA is asked for, and peft is not installed.
    """
    chosen = Trainable.parse(adaptation)
    if chosen.kind == "lora":
        _add_factors(blocks, family, chosen.size)
    elif chosen.kind == "adapters":
        for layer in layers_of(blocks, family):
            path, _, last = PROJECTIONS[family][-1].rpartition(".")
            parent = layer.get_submodule(path)
            setattr(parent, last, Bottleneck(getattr(parent, last), width, chosen.size))
    else:
        raise ConfigError(f"{adaptation!r} adapts nothing", hint="take lora:R or adapters:R")


def start_adaptation(blocks: nn.Module, *, seed: int) -> None:
    """Set an adaptation's parameters so that it changes nothing until it is trained.

    Args:
        blocks: An adapted transformer.
        seed: Of the half that is random.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(blocks.named_parameters()):
            if not is_adaptation(f".{name}"):
                continue
            if ".lora_B." in name or ".adapter_up." in name or name.endswith("bias"):
                parameter.zero_()
            else:
                spread = parameter.shape[1] ** -0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)


def layers_of(blocks: nn.Module, family: str) -> list[nn.Module]:
    """A transformer's layers, the first one first."""
    return list(blocks.get_submodule("h" if family == "gpt2" else "encoder.layer").children())


def _add_factors(blocks: nn.Module, family: str, rank: int) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"model.trainable='lora:{rank}' needs the package 'peft', which is not installed",
            hint="pip install 'hanse[client]', or take adapters:R",
        ) from error
    plain = isinstance(layers_of(blocks, family)[0].get_submodule(PROJECTIONS[family][0]), Conv1D)
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules=list(PROJECTIONS[family]),
        fan_in_fan_out=plain,
    )
    inject_adapter_in_model(config, blocks)
