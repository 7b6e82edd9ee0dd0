"""What of the model is trained: the words of `model.trainable`, read in one place.

| | what is trained |
|---|---|
| `rules` | the few hundred parameters that amend the simple rules which the heads start from |
| `heads` | everything but the transformer |
| `top:K` | the heads, the last K transformer layers and the norm after them |
| `lora:R` | the heads, and factors of rank R beside every projection of attention and MLP |
| `adapters:R` | the heads, and a bottleneck of width R after every layer's MLP |
| `all` | everything |

`lora` and `adapters` give the model parameters that it would not have without them: it is
made for one of them, and `adaptation` says for which. Needs no torch.

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
SIZED = ("top", "lora", "adapters")
OFFERED = f"{', '.join(WORDS)}, top:K, lora:R or adapters:R"
_ADAPTATIONS = ("lora", "adapters")


@dataclass(frozen=True, slots=True)
class Trainable:
    """One way to choose what is trained.

    Args:
        kind: Of the table above.
        size: K or R; 0 where there is none.
    """

    kind: str
    size: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a word of `model.trainable`.

        Raises:
            ConfigError: It is none.
        """
        kind, colon, number = text.partition(":")
        if not colon and kind in WORDS:
            return cls(kind)
        if kind not in SIZED or not (number.isascii() and number.isdecimal()):
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
        """What a model must have been made for; None if any model will do."""
        return str(self) if self.kind in _ADAPTATIONS else None

    def check(self, *, layers: int, width: int) -> None:
        """Refuse what a transformer of that shape does not have.

        Args:
            layers: How many it has.
            width: Of its states.

        Raises:
            ConfigError: More layers than it has, or a rank above its width.
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
