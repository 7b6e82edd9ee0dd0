"""Real values to integers and back: L2 clip, scale, unbiased rounding (Bonawitz et al. 2019).

>>> import numpy as np
>>> section = Section("update", 3, clip=1.0, scale=2**20)
>>> integers = quantize(np.array([0.5, -0.25, 0.0]), section)
>>> dequantize(integers, section)
array([ 0.5 , -0.25,  0.  ])
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hanse_common.errors import BadVector
from hanse_common.secagg.layout import Floats, Integers, Section
from hanse_common.secagg.masking import KEY_SIZE, Keystream

_CHUNK = 2**16


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
        BadVector: Another length or type, or a value that is not finite.

    Guarantees:
        - Every coordinate is within `section.bound` less its headroom, whatever comes in.
        - Rounding is unbiased to 2^-32 of a step, and driven by an AES-256-CTR keystream.
        - The L2 norm of the result is at most `section.l2_bound`.

    Edge cases:
        Values whose norm exceeds the clip are scaled down as a whole, so an update times
        1000 counts as much as any other. A norm that overflows float64 is handled.
    """
    if values.shape != (section.length,) or values.dtype.kind not in "fiu":
        raise BadVector(
            f"section {section.name!r} has shape {values.shape} and type {values.dtype}, "
            f"expected ({section.length},) of real numbers"
        )
    real = values.astype(np.float64)
    largest = float(np.abs(real).max())
    if not np.isfinite(largest):
        raise BadVector(
            f"section {section.name!r} holds NaN or infinity",
            hint="training diverged: lower the learning rate; nothing was sent",
        )
    real *= _clip_factor(real, largest, section.clip) * section.scale
    limit = section.bound - section.headroom
    result = np.empty(section.length, np.int64)
    noise = Keystream(entropy(KEY_SIZE))
    for start in range(0, section.length, _CHUNK):
        scaled = real[start : start + _CHUNK]
        floor = np.floor(scaled)
        # 2^32 (x - floor x) is exact: the keystream word is below it with that probability.
        up = noise.take(scaled.size) < (scaled - floor) * 2.0**32
        part = result[start : start + _CHUNK]
        part[:] = floor
        part += up
        np.clip(part, -limit, limit, out=part)
    return result


def dequantize(integers: Integers, section: Section) -> Floats:
    """Turn integers, or a sum of them, back into real numbers."""
    return integers / np.float64(section.scale)


def _clip_factor(real: Floats, largest: float, clip: float) -> float:
    if largest == 0.0:
        return 1.0
    # Dividing by the largest first keeps the squares finite.
    return min(1.0, clip / largest / float(np.linalg.norm(real / largest)))
