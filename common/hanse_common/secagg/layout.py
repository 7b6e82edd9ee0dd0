"""The layout of a masked vector: named sections of coordinates with declared bounds.

The protocol sums one vector of integers modulo 2^32. The layout says which coordinates are the
model update, the example count and the metrics, and how large one store can make each. It
follows, before anything is masked, that no sum overflows.

>>> layout = Layout((Section("update", 1000, clip=1.0), Section("weight", 1, clip=500.0, scale=1)))
>>> layout.length, layout.largest_cohort()
(1001, 2047)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hanse_common.codec import Writer
from hanse_common.errors import ProtocolError

MODULUS = 2**32
LARGEST_SUM = 2**31 - 1  # sums are signed: half of the modulus for each sign
DEFAULT_SCALE = 2**20
MAX_LENGTH = 2**30 - 1  # words: the length of a message's body is a u32, just short of 4 GiB

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Section:
    """A contiguous range of coordinates that is clipped and scaled together.

    Args:
        name: An identifier, such as `update`.
        length: Number of coordinates.
        clip: Largest L2 norm of one store's values.
        scale: Integer steps per unit.
        headroom: Integer steps by which one store's coordinate may exceed its clipped
            value: room for the noise that the store adds after quantisation.
        noise_variance: Variance of the Skellam noise that one store adds to each integer
            coordinate; 0 without noise.

    Raises:
        ProtocolError [unsafe-terms]: A value is out of range, or one store's bound does not
            fit in 31 bits.
    """

    name: str
    length: int
    clip: float
    scale: int = DEFAULT_SCALE
    headroom: int = 0
    noise_variance: float = 0.0

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ProtocolError(
                f"section name {self.name!r} is not an identifier", code="unsafe-terms"
            )
        if not 1 <= self.length <= MAX_LENGTH:
            raise ProtocolError(
                f"{self.name}.length={self.length} is not in 1..{MAX_LENGTH}", code="unsafe-terms"
            )
        if not 0 < self.clip <= LARGEST_SUM:
            raise ProtocolError(
                f"{self.name}.clip={self.clip} is not in 0..{LARGEST_SUM}", code="unsafe-terms"
            )
        if not 1 <= self.scale <= LARGEST_SUM:
            raise ProtocolError(
                f"{self.name}.scale={self.scale} is not in 1..{LARGEST_SUM}", code="unsafe-terms"
            )
        if not 0 <= self.headroom <= LARGEST_SUM:
            raise ProtocolError(
                f"{self.name}.headroom={self.headroom} is not in 0..{LARGEST_SUM}",
                code="unsafe-terms",
            )
        if not 0 <= self.noise_variance < math.inf:
            raise ProtocolError(
                f"{self.name}.noise_variance={self.noise_variance} is negative or not finite",
                code="unsafe-terms",
            )
        if self.bound > LARGEST_SUM:
            raise ProtocolError(
                f"{self.name}: clip={self.clip} x scale={self.scale} + headroom={self.headroom} "
                f"does not fit in 31 bits",
                code="unsafe-terms",
                hint="lower the scale or the clip",
            )

    @property
    def bound(self) -> int:
        """Largest absolute value of one store's integer coordinate."""
        return math.ceil(self.clip * self.scale) + self.headroom

    @property
    def l2_bound(self) -> float:
        """Largest L2 norm of one store's integers before any noise: the L2 sensitivity."""
        # Rounding moves each coordinate by less than one step, hence a vector by < sqrt(length).
        return self.clip * self.scale + math.sqrt(self.length)


def largest_scale(clip: float, stores: int) -> int:
    """Return the finest power-of-two scale, up to the default, at which no sum overflows.

    Args:
        clip: The section's clip.
        stores: Most stores in a sum.

    Raises:
        ProtocolError [unsafe-terms]: Sums overflow even at a scale of 1.

    >>> largest_scale(16.0, 12) == DEFAULT_SCALE, largest_scale(1000.0, 100)
    (True, 16384)
    """
    # One step less per store, because `Section.bound` rounds up. A power of two makes scaling
    # and its inverse exact in floating point.
    room = (LARGEST_SUM // stores - 1) / clip
    if room < 1:
        raise ProtocolError(
            f"sums of {stores} stores with clip={clip} overflow at every scale",
            code="unsafe-terms",
            hint="lower the clip, or admit fewer stores to a round",
        )
    return int(min(DEFAULT_SCALE, 2 ** math.floor(math.log2(room))))


@dataclass(frozen=True, slots=True)
class Layout:
    """The sections of a vector, in order.

    Raises:
        ProtocolError [unsafe-terms]: There is no section, a name repeats, or the vector is
            longer than `MAX_LENGTH`.
    """

    sections: tuple[Section, ...]

    def __post_init__(self) -> None:
        names = [section.name for section in self.sections]
        if not names or len(set(names)) != len(names):
            raise ProtocolError(
                f"section names {names} are empty or not unique", code="unsafe-terms"
            )
        if self.length > MAX_LENGTH:
            raise ProtocolError(
                f"layout has {self.length} coordinates, at most {MAX_LENGTH}", code="unsafe-terms"
            )

    @property
    def length(self) -> int:
        """Number of coordinates of the vector."""
        return sum(section.length for section in self.sections)

    def largest_cohort(self) -> int:
        """Return the number of stores up to which no sum can overflow."""
        return LARGEST_SUM // max(section.bound for section in self.sections)

    def slices(self) -> dict[str, slice]:
        """Return each section's slice of the vector, by name."""
        places, start = {}, 0
        for section in self.sections:
            places[section.name] = slice(start, start + section.length)
            start += section.length
        return places

    def join(self, parts: Mapping[str, Integers]) -> Integers:
        """Concatenate quantised sections to one vector of shape `(length,)`.

        Raises:
            ProtocolError [bad-vector]: A section is missing, unknown, or of another length.
        """
        if parts.keys() != {section.name for section in self.sections}:
            expected = [section.name for section in self.sections]
            raise ProtocolError(
                f"vector has sections {sorted(parts)}, expected {sorted(expected)}",
                code="bad-vector",
            )
        vector = np.concatenate([parts[section.name] for section in self.sections])
        self.check(vector)
        return vector

    def split(self, vector: Integers) -> dict[str, Integers]:
        """Split a vector, or a sum of vectors, into views of its sections, by name."""
        return {name: vector[place] for name, place in self.slices().items()}

    def check(self, vector: Integers) -> None:
        """Check that one store's vector is within the declared bounds.

        Raises:
            ProtocolError [bad-vector]: It has another shape or type, or a coordinate beyond its
                bound.
        """
        if vector.shape != (self.length,) or not np.issubdtype(vector.dtype, np.signedinteger):
            raise ProtocolError(
                f"vector has shape {vector.shape} and type {vector.dtype}, "
                f"expected ({self.length},) of signed integers",
                code="bad-vector",
            )
        for section, part in zip(self.sections, self.split(vector).values(), strict=True):
            low, high = int(part.min()), int(part.max())
            if low < -section.bound or high > section.bound:
                raise ProtocolError(
                    f"section {section.name!r} has values beyond its bound of {section.bound}",
                    code="bad-vector",
                    hint="quantise with this layout's sections",
                )

    def encode(self) -> bytes:
        """Return canonical bytes, for digests."""
        writer = Writer().u32(len(self.sections))
        for section in self.sections:
            # Hexadecimal floats are exact: no two clips share a decimal rounding.
            writer.text(section.name).u32(section.length).text(float(section.clip).hex())
            writer.u32(section.scale).u32(section.headroom)
            writer.text(float(section.noise_variance).hex())
        return writer.finish()
