"""Quantisation of real vectors: L2 clip, scale, unbiased rounding (Bonawitz et al. 2019).

>>> import numpy as np
>>> section = Section("update", 3, clip=1.0, scale=2**20)
>>> integers = quantize(np.array([0.5, -0.25, 0.0]), section)
>>> dequantize(integers, section)
array([ 0.5 , -0.25,  0.  ])
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hanse_common.errors import ProtocolError
from hanse_common.secagg.layout import Floats, Integers, Section
from hanse_common.secagg.masking import KEY_SIZE, Keystream

_CHUNK = 2**13
"""Values that are processed at a time, so that the buffers stay in the first-level cache."""


def quantize(
    values: NDArray[Any], section: Section, *, entropy: Callable[[int], bytes] = os.urandom
) -> Integers:
    """Clip, scale and round one section of one store's vector.

    Args:
        values: Real numbers, shape `(section.length,)`.
        section: Clip and scale.
        entropy: Cryptographic source of random bytes.

    Returns:
        Integers of shape `(section.length,)`.

    Raises:
        ProtocolError [bad-vector]: Length or type is wrong, or a value is not finite.

    Guarantees:
        - Every coordinate is within `section.bound` less its headroom, for all inputs.
        - Rounding is unbiased to 2^-32 of a step, and driven by an AES-256-CTR keystream.
        - The L2 norm of the result is at most `section.l2_bound`.

    Edge cases:
        Values whose norm exceeds the clip are scaled down together, so an update times 1000
        counts as much as any other. A norm that overflows float64 is handled.
    """
    if values.shape != (section.length,) or values.dtype.kind not in "fiu":
        raise ProtocolError(
            f"section {section.name!r} has shape {values.shape} and type {values.dtype}, "
            f"expected ({section.length},) of real numbers",
            code="bad-vector",
        )
    values, factor = _clip_factor(values, section)
    limit = section.bound - section.headroom
    result = np.empty(section.length, np.int64)
    scaled, floor, up = np.empty(_CHUNK), np.empty(_CHUNK), np.empty(_CHUNK, bool)
    # The key is fresh for each section: rounding must not be predictable from another vector.
    noise = Keystream(entropy(KEY_SIZE))
    for start in range(0, section.length, _CHUNK):
        chunk = values[start : start + _CHUNK]
        x, down, is_up = scaled[: chunk.size], floor[: chunk.size], up[: chunk.size]
        np.multiply(chunk, factor * section.scale, out=x, dtype=np.float64)
        np.floor(x, out=down)
        # 2^32 (x - floor x) is exact, and a uniform 32-bit word is below it with probability
        # x - floor x, to within 2^-32.
        np.subtract(x, down, out=x)
        np.multiply(x, 2.0**32, out=x)
        np.less(noise.take(chunk.size), x, out=is_up)
        np.add(down, is_up, out=down)
        # A coordinate at the clip may exceed the limit by an error of the norm's last bits.
        np.clip(down, -limit, limit, out=down)
        result[start : start + _CHUNK] = down
    return result


def dequantize(integers: Integers, section: Section) -> Floats:
    """Convert integers, or a sum of them, to real numbers of the same shape."""
    return integers / np.float64(section.scale)


def _clip_factor(values: NDArray[Any], section: Section) -> tuple[NDArray[Any], float]:
    """Return values and the factor that clips them to the section's norm.

    Values whose squares overflow are themselves divided by the largest first. Putting that
    into the factor would make it subnormal, and processors that flush such numbers read zero.
    """
    square = 0.0
    # Overflow is expected here, and handled below.
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, values.size, _CHUNK):
            chunk = values[start : start + _CHUNK].astype(np.float64)
            square += float(np.einsum("i,i->", chunk, chunk))
    if math.isfinite(square):
        return values, 1.0 if square == 0.0 else min(1.0, section.clip / math.sqrt(square))
    real = values.astype(np.float64)
    largest = float(np.abs(real).max())
    if not math.isfinite(largest):
        raise ProtocolError(
            f"section {section.name!r} holds NaN or infinity",
            code="bad-vector",
            hint="training diverged: lower the learning rate (nothing was sent)",
        )
    real /= largest
    return real, section.clip / math.sqrt(float(np.einsum("i,i->", real, real)))
