"""Exponentials and logarithms with the same bits on every machine.

Stores that derive the same table from the same released numbers must agree on every bit of it.
`np.exp` and `np.log` differ in the last bit between processors. The functions here use only
additions, multiplications, divisions and powers of two, element by element, which IEEE 754
rounds in one way.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Doubles: TypeAlias = npt.NDArray[np.float64]

_LN2 = math.log(2.0)
# ln 2 in two parts, as in fdlibm: k * _LN2_HIGH has no rounding error for |k| < 2^11.
_LN2_HIGH, _LN2_LOW = float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33")
_LEAST = -700.0
"""Below it the exponential is 0 here; e^-700 is 10^-304."""


def exp(values: Doubles) -> Doubles:
    """Exponentials of values up to 700, to some 14 digits.

    >>> bool(np.allclose(exp(np.array([-3.0, 0.0, 9.5])), np.exp([-3.0, 0.0, 9.5]), rtol=1e-14))
    True
    >>> exp(np.array([-1e9])).tolist()
    [0.0]
    """
    inside = np.maximum(values, _LEAST)
    power = np.rint(inside / _LN2)
    rest = (inside - power * _LN2_HIGH) - power * _LN2_LOW  # |rest| <= ln(2) / 2
    result = np.ones_like(rest)
    for order in range(13, 0, -1):  # the Taylor series by Horner's rule
        result = 1.0 + result * rest / order
    return np.where(values < _LEAST, 0.0, np.ldexp(result, power.astype(np.int32)))


def log(values: Doubles) -> Doubles:
    """Natural logarithm of positive values, to some 14 digits.

    >>> bool(np.allclose(log(np.array([1e-9, 0.7, 5e8])), np.log([1e-9, 0.7, 5e8]), rtol=1e-14))
    True
    """
    mantissa, power = np.frexp(values)  # in [0.5, 1)
    low = mantissa < math.sqrt(0.5)
    mantissa = np.where(low, mantissa * 2.0, mantissa)
    power = power - low
    ratio = (mantissa - 1.0) / (mantissa + 1.0)  # |ratio| <= 0.172
    square = ratio * ratio
    series = np.zeros_like(ratio)
    for order in range(21, 0, -2):  # 2 artanh(ratio) = 2 (r + r^3 / 3 + r^5 / 5 + ...)
        series = series * square + 1.0 / order
    return power * _LN2_HIGH + (2.0 * ratio * series + power * _LN2_LOW)
