"""Parses `model.trainable`, which names the part of the model that is trained.

| | trained parameters |
|---|---|
| `rules` | a few hundred corrections of the simple rules that initialise the heads |
| `heads` | everything but the transformer |
| `top:K` | the heads, the last K transformer layers and the norm after them |
| `lora:R` | the heads, and LoRA factors of rank R for every projection of attention and MLP |
| `adapters:R` | the heads, and a bottleneck of width R after every layer's MLP |
| `all` | everything |

`lora` and `adapters` add parameters to the model, so that a model is built for one of them;
`adaptation` names it. This module does not import torch.

>>> Trainable.parse("lora:4").adaptation
'lora:4'
>>> Trainable.parse("top:2").adaptation is None
True
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from hanse_common.errors import ConfigError

WORDS = ("rules", "heads", "all")
_SIZED = ("top", "lora", "adapters")
OFFERED = f"{', '.join(WORDS)}, top:K, lora:R or adapters:R"
_ADAPTATIONS = ("lora", "adapters")


@dataclass(frozen=True, slots=True)
class Trainable:
    """A parsed value of `model.trainable`.

    Args:
        kind: First part of a row of the table above.
        size: K or R; 0 for kinds without a size.
    """

    kind: str
    size: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a value of `model.trainable`.

        Raises:
            ConfigError: The value is unknown, or its size is not a positive integer.
        """
        kind, colon, number = text.partition(":")
        if not colon and kind in WORDS:
            return cls(kind)
        # `isdecimal` alone accepts digits of other scripts, of which `str` makes ASCII ones.
        if kind not in _SIZED or not (number.isascii() and number.isdecimal()):
            raise ConfigError(f"model.trainable={text!r} is unknown", hint=f"take {OFFERED}")
        if int(number) < 1:
            raise ConfigError(
                f"model.trainable={text!r}: at least 1", hint=f"take {kind}:1, or heads for none"
            )
        return cls(kind, int(number))

    def __str__(self) -> str:
        return f"{self.kind}:{self.size}" if self.size else self.kind

    @property
    def adaptation(self) -> str | None:
        """The adaptation that a model must have been built with; None if any model will do."""
        return str(self) if self.kind in _ADAPTATIONS else None

    def check(self, *, layers: int, width: int) -> None:
        """Check the size against a transformer's shape.

        Args:
            layers: Number of its layers.
            width: Width of its hidden states.

        Raises:
            ConfigError: The size exceeds the number of layers, or the width.
        """
        if self.kind == "top" and self.size > layers:
            raise ConfigError(
                f"model.trainable={str(self)!r}: the transformer has {layers} "
                f"layer{'s' if layers > 1 else ''}",
                hint=f"take top:1 to top:{layers}, or all",
            )
        if self.kind in _ADAPTATIONS and self.size > width:
            raise ConfigError(
                f"model.trainable={str(self)!r}: the transformer is only {width} wide",
                hint=f"take {self.kind}:1 to {self.kind}:{width}; a rank of 2 to 16 is usual",
            )
