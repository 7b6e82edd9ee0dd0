"""Shamir's secret sharing over the prime 2^256 + 297 (Shamir 1979).

The prime is the smallest above 2^256, so that every 32-byte secret is a field element. The
Lagrange weights are computed once for a set of stores, and combine the shares of all secrets
that these stores hold.

>>> shares = split(b"k" * 32, threshold=2, count=3)
>>> Weights((1, 3)).combine([shares[0], shares[2]]) == b"k" * 32
True
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from hanse_common.errors import BadSum, MalformedMessage, ProtocolError

PRIME = 2**256 + 297
_SECRET_SIZE = 32
SHARE_SIZE = 33


def split(
    secret: bytes | bytearray,
    *,
    threshold: int,
    count: int,
    entropy: Callable[[int], bytes] = os.urandom,
) -> list[bytes]:
    """Deal shares of a 32-byte secret at the points 1, 2, ..., `count`.

    Args:
        secret: 32 bytes.
        threshold: Number of shares that determine the secret.
        count: Number of shares.
        entropy: Cryptographic source of random bytes.

    Returns:
        `count` shares of 33 bytes, the share of point x at index x - 1.

    Raises:
        ProtocolError [unsafe-terms]: Not `1 <= threshold <= count`, or the secret is not 32 bytes.

    Guarantees:
        Any `threshold - 1` shares are statistically independent of the secret (within
        2^-255: coefficients are 512 random bits reduced modulo the prime).

    Edge cases:
        Python's integers are not constant-time; shares are computed once per attempt and
        only by the secret's owner.
    """
    if len(secret) != _SECRET_SIZE or not 1 <= threshold <= count:
        raise ProtocolError(
            f"cannot split {len(secret)} bytes into {count} shares with threshold {threshold}",
            code="unsafe-terms",
        )
    # 64 bytes for 33: reducing fewer would make small coefficients noticeably more likely.
    coefficients = [int.from_bytes(entropy(64), "big") % PRIME for _ in range(threshold - 1)]
    coefficients.append(int.from_bytes(secret, "big"))
    shares = []
    # Points start at 1: the share at 0 is the secret.
    for x in range(1, count + 1):
        value = 0
        for coefficient in coefficients:
            value = (value * x + coefficient) % PRIME
        shares.append(value.to_bytes(SHARE_SIZE, "big"))
    return shares


def check_share(share: bytes) -> bytes:
    """Return `share` if it is the canonical encoding of a field element.

    Raises:
        MalformedMessage: It is not 33 bytes, or not below the prime.
    """
    if len(share) != SHARE_SIZE or int.from_bytes(share, "big") >= PRIME:
        raise MalformedMessage(f"a share is {SHARE_SIZE} bytes below 2^256 + 297")
    return share


class Weights:
    """Lagrange weights at zero for one set of points.

    Args:
        points: Distinct points in `1..PRIME - 1`, as many as the threshold.

    Raises:
        ProtocolError [unsafe-terms]: The points are empty, repeat, or include zero.
    """

    def __init__(self, points: Sequence[int]) -> None:
        if not points or len(set(points)) != len(points) or any(x % PRIME == 0 for x in points):
            raise ProtocolError(
                f"points {list(points)} are empty, repeat or include zero", code="unsafe-terms"
            )
        self.points = tuple(points)
        self._weights = []
        for x in points:
            numerator = denominator = 1
            for other in points:
                if other != x:
                    numerator = numerator * other % PRIME
                    denominator = denominator * (other - x) % PRIME
            self._weights.append(numerator * pow(denominator, -1, PRIME) % PRIME)

    def combine(self, shares: Sequence[bytes]) -> bytes:
        """Return the secret that the shares at `points`, in that order, determine.

        Raises:
            BadSum [wrong-share]: There are not as many shares as points, or they determine no
                32-byte secret.
            MalformedMessage: A share is not a field element.

        Edge cases:
            Wrong shares usually give a wrong secret and no error: compare the secret with a
            commitment.
        """
        if len(shares) != len(self.points):
            raise BadSum(f"{len(shares)} shares for {len(self.points)} points", code="wrong-share")
        total = 0
        for weight, share in zip(self._weights, shares, strict=True):
            total += weight * int.from_bytes(check_share(share), "big")
        secret = total % PRIME
        # The field has 297 elements that are not 32-byte secrets.
        if secret >= 2 ** (8 * _SECRET_SIZE):
            raise BadSum("shares determine no 32-byte secret", code="wrong-share")
        return secret.to_bytes(_SECRET_SIZE, "big")
