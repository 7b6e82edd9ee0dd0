r"""Canonical encoding: each value has exactly one encoding, and other bytes are refused.

Integers are big-endian and of fixed width; strings and lists carry a u32 length; fields
come in a fixed order. `Reader` accepts nothing that `Writer` would not have written.

>>> data = Writer().u32(7).text("lübeck").blob(b"\x01\x02").finish()
>>> data.hex(" ", -4)
'00000007 00000007 6cc3bc62 65636b00 00000201 02'
>>> reader = Reader(data)
>>> reader.u32(), reader.text(), reader.blob()
(7, 'lübeck', b'\x01\x02')
>>> reader.end()
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Self, TypeVar

from hanse_common.errors import MalformedMessage

T = TypeVar("T")

DIGEST_SIZE = 32


def digest(label: bytes, *parts: bytes) -> bytes:
    """SHA-256 over a label and parts, each behind its length.

    Args:
        label: Constant name of the purpose; no two purposes share one.
        parts: The bytes to hash, in order.

    Returns:
        32 bytes.

    Guarantees:
        Different sequences of parts are different inputs of the hash.
    """
    hasher = hashlib.sha256()
    for part in (label, *parts):
        # Without lengths, bytes could move from one part to the next and give the same digest.
        hasher.update(len(part).to_bytes(8, "big"))
        hasher.update(part)
    return hasher.digest()


class Writer:
    """Encodes fields in order; `finish` returns the bytes."""

    def __init__(self) -> None:
        self._parts: list[bytes | memoryview] = []

    def u8(self, value: int) -> Self:
        """Append one byte."""
        return self._integer(value, 1)

    def u16(self, value: int) -> Self:
        """Append a 16-bit integer."""
        return self._integer(value, 2)

    def u32(self, value: int) -> Self:
        """Append a 32-bit integer."""
        return self._integer(value, 4)

    def u64(self, value: int) -> Self:
        """Append a 64-bit integer."""
        return self._integer(value, 8)

    def raw(self, value: bytes | memoryview) -> Self:
        """Append bytes of a length that the reader knows."""
        self._parts.append(value)
        return self

    def blob(self, value: bytes | memoryview) -> Self:
        """Append bytes behind their length."""
        return self.u32(len(value)).raw(value)

    def text(self, value: str) -> Self:
        """Append UTF-8 text behind its length in bytes."""
        return self.blob(value.encode())

    def finish(self) -> bytes:
        """Return everything written so far."""
        return b"".join(self._parts)

    def _integer(self, value: int, size: int) -> Self:
        try:
            self._parts.append(value.to_bytes(size, "big"))
        except OverflowError:
            raise MalformedMessage(f"{value} does not fit in {8 * size} bits") from None
        return self


class Reader:
    """Reads the fields of `data` in order.

    Every method raises `MalformedMessage`, and no other error, on bytes that do not fit.

    Args:
        data: The complete encoding.
        name: Name of the encoded value, for error messages.
    """

    def __init__(self, data: bytes, name: str = "message") -> None:
        self._data = data
        self._name = name
        self._position = 0

    def u8(self) -> int:
        """Read one byte."""
        return self.raw(1)[0]

    def u16(self) -> int:
        """Read a 16-bit integer."""
        return int.from_bytes(self.raw(2), "big")

    def u32(self) -> int:
        """Read a 32-bit integer."""
        return int.from_bytes(self.raw(4), "big")

    def u64(self) -> int:
        """Read a 64-bit integer."""
        return int.from_bytes(self.raw(8), "big")

    def raw(self, size: int) -> bytes:
        """Read exactly `size` bytes."""
        start = self._position
        self._advance(size)
        return self._data[start : self._position]

    def blob(self, limit: int = 2**31) -> bytes:
        """Read length-prefixed bytes of at most `limit`."""
        return self.raw(self._blob_size(limit))

    def view(self, limit: int) -> memoryview:
        """Read length-prefixed bytes of at most `limit`, without copying them."""
        size, start = self._blob_size(limit), self._position
        self._advance(size)
        return memoryview(self._data)[start : self._position]

    def text(self, limit: int = 256) -> str:
        """Read length-prefixed UTF-8 text of at most `limit` bytes."""
        try:
            return self.blob(limit).decode()
        except UnicodeDecodeError:
            raise MalformedMessage(f"{self._name} has text that is not UTF-8") from None

    def many(self, read: Callable[[], T], *, size: int, limit: int) -> tuple[T, ...]:
        """Read a counted list.

        Args:
            read: Reads one element.
            size: Fewest bytes of an element; a count that cannot fit is refused at once.
            limit: Largest count.
        """
        count = self.u32()
        # Before reading: a message of a few bytes may announce 2^32 - 1 elements.
        if count > limit or count * size > len(self._data) - self._position:
            raise MalformedMessage(f"{self._name} announces {count} elements, more than it holds")
        return tuple(read() for _ in range(count))

    def expect(self, version: int) -> None:
        """Read a u16 that must be this version."""
        actual = self.u16()
        if actual != version:
            raise MalformedMessage(f"{self._name} has version {actual}, this is version {version}")

    def rest(self) -> bytes:
        """Read all remaining bytes."""
        return self.raw(len(self._data) - self._position)

    def end(self) -> None:
        """Check that no bytes remain."""
        # Bytes after the end would give one value many encodings.
        extra = len(self._data) - self._position
        if extra:
            raise MalformedMessage(f"{self._name} has {extra} bytes after its end")

    def _advance(self, size: int) -> None:
        end = self._position + size
        if end > len(self._data):
            raise MalformedMessage(
                f"{self._name} ends at byte {len(self._data)}, expected {size} bytes "
                f"at byte {self._position}"
            )
        self._position = end

    def _blob_size(self, limit: int) -> int:
        size = self.u32()
        if size > limit:
            raise MalformedMessage(f"{self._name} has a field of {size} bytes, at most {limit}")
        return size
