"""Arithmetic on points of edwards25519 (RFC 8032, section 5.1), for the proofs of `dispute.py`.

Python's integers are not constant-time. This is acceptable because the only secret scalar that
is multiplied here is a key of one attempt, which its store has left and is about to wipe: see
`dispute.py`.

>>> encode(multiply(ORDER, BASE)) == encode(NEUTRAL)
True
"""

from __future__ import annotations

from hanse_common.errors import MalformedMessage

Point = tuple[int, int, int, int]
"""Extended homogeneous coordinates X, Y, Z, T: x = X/Z, y = Y/Z, x y = T/Z."""

FIELD = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
"""Order of the subgroup that `BASE` generates; the curve has eight times as many points."""
POINT_SIZE = 32

_D = -121665 * pow(121666, -1, FIELD) % FIELD
_ROOT_OF_MINUS_ONE = pow(2, (FIELD - 1) // 4, FIELD)

NEUTRAL: Point = (0, 1, 1, 0)


def add(one: Point, other: Point) -> Point:
    """Return the sum of two points; the formulas are complete (RFC 8032, section 5.1.4)."""
    x1, y1, z1, t1 = one
    x2, y2, z2, t2 = other
    a = (y1 - x1) * (y2 - x2) % FIELD
    b = (y1 + x1) * (y2 + x2) % FIELD
    c = 2 * t1 * t2 * _D % FIELD
    d = 2 * z1 * z2 % FIELD
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % FIELD, g * h % FIELD, f * g % FIELD, e * h % FIELD


def negate(point: Point) -> Point:
    """Return the inverse of a point."""
    x, y, z, t = point
    return -x % FIELD, y, z, -t % FIELD


def multiply(scalar: int, point: Point) -> Point:
    """Return a multiple of a point by double-and-add.

    Args:
        scalar: Not negative; it need not be below `ORDER`.
        point: Any point of the curve.
    """
    result = NEUTRAL
    # Doubling by `add` is safe: its formulas are complete and hold for equal points as well.
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point = add(point, point)
        scalar >>= 1
    return result


def encode(point: Point) -> bytes:
    """Return y with the lowest bit of x in the highest bit (RFC 8032, section 5.1.2)."""
    x, y, z, _ = point
    inverse = pow(z, -1, FIELD)
    x, y = x * inverse % FIELD, y * inverse % FIELD
    return (y | (x & 1) << 255).to_bytes(POINT_SIZE, "little")


def decode(data: bytes) -> Point:
    """Read a point from its only canonical encoding (RFC 8032, section 5.1.3).

    Raises:
        MalformedMessage: The bytes do not encode a point of the curve, or not canonically.
    """
    y, odd = coordinate(data), data[-1] >> 7
    top, bottom = (y * y - 1) % FIELD, (_D * y * y + 1) % FIELD
    # bottom is never zero: -1/d is not a square.
    square = top * pow(bottom, -1, FIELD) % FIELD
    x = pow(square, (FIELD + 3) // 8, FIELD)
    # FIELD is 5 modulo 8: the power is a root of the square, or a root of minus the square.
    if x * x % FIELD != square:
        x = x * _ROOT_OF_MINUS_ONE % FIELD
    # x = 0 has no odd twin, so the sign bit must be clear: one point has one encoding.
    if x * x % FIELD != square or (x == 0 and odd):
        raise MalformedMessage(f"{data.hex()[:16]}… is not a point of edwards25519")
    if x & 1 != odd:
        x = FIELD - x
    return x, y, 1, x * y % FIELD


def coordinate(data: bytes) -> int:
    """Return the y coordinate of an encoded point, without checking that the point exists.

    Raises:
        MalformedMessage: There are not 32 bytes, or y is not reduced modulo the field's prime.
    """
    y = int.from_bytes(data, "little") & (1 << 255) - 1
    if len(data) != POINT_SIZE or y >= FIELD:
        raise MalformedMessage(f"{data.hex()[:16]}… is not a point in canonical form")
    return y


def montgomery(data: bytes) -> bytes:
    """Convert an encoded point to the u coordinate of curve25519 (RFC 7748, section 4.1).

    Raises:
        MalformedMessage: As for `coordinate`. Whether the point exists is not checked.
    """
    y = coordinate(data)
    # u = (1 + y) / (1 - y). The neutral element has no u; X25519 represents it by zero, which
    # `ExchangeKey.agree` refuses as a key of small order.
    u = (1 + y) * pow(1 - y, -1, FIELD) % FIELD if y != 1 else 0
    return u.to_bytes(POINT_SIZE, "little")


BASE: Point = decode((4 * pow(5, -1, FIELD) % FIELD).to_bytes(POINT_SIZE, "little"))
