"""Merkle trees of RFC 9162, sections 2.1.1 to 2.1.4: roots, proofs, and their verification.

SHA-256; indices count from 0, as in the RFC. RFC 6962 and the logs of Certificate Transparency
have the same hashes and proofs.

>>> tree = HashTree()
>>> for entry in (b"one", b"two", b"three"):
...     tree.append(entry)
>>> verify_inclusion(leaf_hash(b"two"), 1, 3, tree.root(), tree.inclusion(1))
True
>>> verify_consistency(2, tree.root(2), 3, tree.root(), tree.consistency(2))
True
>>> verify_consistency(1, tree.root(2), 3, tree.root(), tree.consistency(2))
False
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

HASH_SIZE = 32
EMPTY_ROOT = sha256().digest()
"""The root of a tree without entries."""


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of an entry, 32 bytes."""
    return sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of a node from those of its children, 32 bytes."""
    return sha256(b"\1" + left + right).digest()


class HashTree:
    """A growing tree, of which only hashes are held: about two for each entry.

    `_levels[h][i]` is the root of the complete subtree over entries i·2^h to (i + 1)·2^h. An
    appended entry completes one subtree or more, and never changes one: every root and proof,
    also of an earlier size, is made of a logarithmic number of these hashes.
    """

    def __init__(self) -> None:
        self._levels: list[list[bytes]] = [[]]

    def __len__(self) -> int:
        return len(self._levels[0])

    def append(self, entry: bytes) -> None:
        """Add an entry at the end."""
        node, height = leaf_hash(entry), 0
        self._levels[0].append(node)
        while len(self._levels[height]) % 2 == 0:
            node = node_hash(self._levels[height][-2], node)
            height += 1
            if height == len(self._levels):
                self._levels.append([])
            self._levels[height].append(node)

    def leaf(self, index: int) -> bytes:
        """Return the hash of an entry.

        Raises:
            ValueError: There is no such entry.
        """
        self._check(index + 1, at_least=1)
        return self._levels[0][index]

    def root(self, size: int | None = None) -> bytes:
        """Return the root over the first `size` entries; over all if unset.

        Raises:
            ValueError: There are fewer entries.
        """
        size = len(self) if size is None else size
        self._check(size, at_least=0)
        return self._subtree(0, size) if size else EMPTY_ROOT

    def inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """Prove that an entry is in the tree over the first `size` (section 2.1.3.1).

        Returns:
            The siblings on the way from the entry to the root.

        Raises:
            ValueError: There is no such entry in a tree of that size.
        """
        size = len(self) if size is None else size
        self._check(size, at_least=index + 1)
        self._check(index + 1, at_least=1)
        start, end, proof = 0, size, []
        while end - start > 1:
            middle = start + _split(end - start)
            if index < middle:
                proof.append(self._subtree(middle, end))
                end = middle
            else:
                proof.append(self._subtree(start, middle))
                start = middle
        return proof[::-1]

    def consistency(self, first: int, second: int | None = None) -> list[bytes]:
        """Prove that the tree over `second` entries extends that over `first` (2.1.4.1).

        Raises:
            ValueError: Not 1 ≤ first ≤ second ≤ number of entries.
        """
        second = len(self) if second is None else second
        self._check(second, at_least=first)
        self._check(first, at_least=1)
        start, end, proof = 0, second, []
        while first != end:
            middle = start + _split(end - start)
            if first <= middle:
                proof.append(self._subtree(middle, end))
                end = middle
            else:
                proof.append(self._subtree(start, middle))
                start = middle
        # A subtree from the first entry on is the earlier tree, whose root the verifier has.
        if start > 0:
            proof.append(self._subtree(start, end))
        return proof[::-1]

    def _check(self, size: int, *, at_least: int) -> None:
        if not at_least <= size <= len(self):
            raise ValueError(f"a size of {size}, with {len(self)} entries and at least {at_least}")

    def _subtree(self, start: int, end: int) -> bytes:
        """The root over some entries; `start` is a multiple of a power of two ≥ the width."""
        width = end - start
        height = width.bit_length() - 1
        if width == 1 << height:
            return self._levels[height][start >> height]
        middle = start + (1 << height)
        return node_hash(self._subtree(start, middle), self._subtree(middle, end))


def verify_inclusion(
    leaf: bytes, index: int, size: int, root: bytes, proof: Sequence[bytes]
) -> bool:
    """Tell whether a proof shows an entry in a tree (section 2.1.3.2).

    Args:
        leaf: The entry's hash, which the verifier computes.
        index: The entry's place, from 0.
        size: Number of entries of the tree.
        root: The tree's root.
        proof: Hashes from the prover, of any number and length.

    Guarantees:
        True means that every tree of this size and root has this leaf at this place, unless two
        inputs of SHA-256 with the same hash are known.
    """
    if not 0 <= index < size or not _are_hashes([leaf, root, *proof]):
        return False
    node, last, computed = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if node & 1 or node == last:
            computed = node_hash(sibling, computed)
            # The last node of a level has no sibling there if its number is even: it moves up.
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            computed = node_hash(computed, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and computed == root


def verify_consistency(
    first: int, first_root: bytes, second: int, second_root: bytes, proof: Sequence[bytes]
) -> bool:
    """Tell whether a proof shows that one tree extends another (section 2.1.4.2).

    Args:
        first: Number of entries of the earlier tree.
        first_root: Its root.
        second: Number of entries of the later tree.
        second_root: Its root.
        proof: Hashes from the prover, of any number and length.

    Guarantees:
        True means that the first `first` entries of the later tree are those of the earlier
        one, unless two inputs of SHA-256 with the same hash are known.

    Edge cases:
        Every tree extends the empty one, and a tree extends itself; both with an empty proof.
    """
    if not 0 <= first <= second or not _are_hashes([first_root, second_root, *proof]):
        return False
    if first == second or first == 0:
        expected = second_root if first == second else EMPTY_ROOT
        return not proof and first_root == expected
    if not proof:
        return False
    path = list(proof)
    if first & (first - 1) == 0:
        path.insert(0, first_root)
    node, last = first - 1, second - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    earlier = later = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            earlier, later = node_hash(sibling, earlier), node_hash(sibling, later)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            later = node_hash(later, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and (earlier, later) == (first_root, second_root)


def _are_hashes(values: Sequence[bytes]) -> bool:
    return all(len(value) == HASH_SIZE for value in values)


def _split(width: int) -> int:
    """The largest power of two that is smaller than a width > 1."""
    return 1 << ((width - 1).bit_length() - 1)
