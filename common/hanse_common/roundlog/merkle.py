"""The Merkle tree over a round log's records, and its proofs as they are sent.

The tree and the checks are those of RFC 9162 (`rfc9162`). A proof is sent as JSON: `path` holds
hashes in hexadecimal, from an entry's own hash through its siblings up to the root's children.
The proof of inclusion is the path of the last record. The proof that a log extends its first n
records is the path of record n + 1, from which `_consistency` takes the RFC's proof; for a log
of n records it is the root alone. `rule`, `subset` and `metadata` follow from the two sizes, and
are there for stores of earlier releases, which do not compute them.

>>> tree = Tree([b"one", b"two", b"three"])
>>> old, new = tree.root(2), tree.root(3)
>>> check_consistency(2, old, 3, new, tree.consistency(2))
>>> check_last(b"three", 3, new, tree.inclusion_of_last())
>>> check_last(b"four", 3, new, tree.inclusion_of_last())
Traceback (most recent call last):
    ...
hanse_common.errors.RoundLogError: the last record of the round log is not the expected one
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from hanse_common.errors import MalformedMessage, RoundLogError
from hanse_common.roundlog.rfc9162 import (
    HASH_SIZE,
    HashTree,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)

_INCLUSION, _CONSISTENCY = "inclusion", "consistency"
# A path has at most 65 hashes, for sizes are below 2^64: 5 KB with the rest.
_MAX_PROOF_SIZE = 16_384
_HASH = re.compile(rf"[0-9a-f]{{{2 * HASH_SIZE}}}", re.ASCII)


class Tree:
    """The prover's side: the tree of a log's records, of which only hashes are held.

    `check_consistency` and `check_last` are the verifier's side.
    """

    def __init__(self, records: Iterable[bytes] = ()) -> None:
        self._tree = HashTree()
        for record in records:
            self.append(record)

    def __len__(self) -> int:
        return len(self._tree)

    def append(self, record: bytes) -> None:
        """Add a record at the end."""
        self._tree.append(record)

    def root(self, size: int | None = None) -> bytes:
        """Return the 32-byte root over the first `size` records; over all if unset."""
        return self._tree.root(size)

    def consistency(self, prior: int) -> str:
        """Return the proof, as JSON, that the tree extends that of its first `prior` records.

        Raises:
            ValueError: Not 1 ≤ prior ≤ number of records.
        """
        size = len(self)
        if not 1 <= prior <= size:
            raise ValueError(f"a log of {prior} records cannot be proven in one of {size}")
        whole = prior == size
        turns = [] if whole else _turns(prior, size)
        return _encode(
            _CONSISTENCY,
            size,
            {"prior_size": prior},
            [self.root()] if whole else self._path(prior),
            rule=[*turns, 0],
            subset=[int(whole), *turns],
        )

    def inclusion_of_last(self) -> str:
        """Return the proof, as JSON, that the last record is in the tree.

        Raises:
            ValueError: There is no record.
        """
        size = len(self)
        path = self._path(size - 1)
        return _encode(_INCLUSION, size, {"index": size}, path, rule=[*_turns(size - 1, size), 0])

    def _path(self, index: int) -> list[bytes]:
        return [self._tree.leaf(index), *self._tree.inclusion(index)]


def check_consistency(
    prior_size: int, prior_root: bytes, size: int, root: bytes, proof: str
) -> None:
    """Check that a tree extends an earlier one.

    Raises:
        RoundLogError [log-forked]: The proof does not verify.
        MalformedMessage: The text is not a proof.
    """
    path = _parse(_CONSISTENCY, proof)
    # Sizes and roots are the caller's; of the proof only the hashes are used.
    hashes = _consistency(prior_size, prior_root, size, path)
    if hashes is None or not verify_consistency(prior_size, prior_root, size, root, hashes):
        raise RoundLogError(
            f"the round log of {size} records does not continue the one of {prior_size} that "
            "was seen before",
            code="log-forked",
        )


def check_last(record: bytes, size: int, root: bytes, proof: str) -> None:
    """Check that a record is the last of a tree.

    Raises:
        RoundLogError [log-forked]: The proof does not verify.
        MalformedMessage: The text is not a proof.
    """
    leaf, *siblings = _parse(_INCLUSION, proof)
    own = leaf_hash(record)
    if leaf != own or not verify_inclusion(own, size - 1, size, root, siblings):
        raise RoundLogError(
            "the last record of the round log is not the expected one", code="log-forked"
        )


def _turns(index: int, size: int) -> list[int]:
    """For each node on the way from an entry to the root, 1 if it is a right child."""
    turns, node, last = [], index, size - 1
    while last:
        if node & 1 or node != last:  # an even last node has no sibling, and moves up as it is
            turns.append(node & 1)
        node, last = node >> 1, last >> 1
    return turns


def _consistency(prior: int, prior_root: bytes, size: int, path: list[bytes]) -> list[bytes] | None:
    """Take the RFC's proof of consistency from the path of the first new record.

    Up to the first left sibling, all hashes are of new records, and together one node of the
    RFC's proof; that sibling ends the earlier tree, and is its root if it is the only one.

    Returns:
        Hashes to verify; None if the path cannot be one of these sizes, or has another root
        than the verifier where the RFC's proof has none.
    """
    if prior == size:
        return path[1:] if path[0] == prior_root else None
    if not 1 <= prior < size:
        return None
    turns = _turns(prior, size)
    if len(path) != len(turns) + 1:
        return None
    first_left = turns.index(1)  # there is one, since the record is not the first
    node = path[0]
    for sibling in path[1 : first_left + 1]:
        node = node_hash(node, sibling)
    left, above = path[first_left + 1], path[first_left + 2 :]
    if sum(turns) > 1:
        return [left, node, *above]
    return [node, *above] if left == prior_root else None


def _encode(kind: str, size: int, place: dict[str, int], path: list[bytes], **bits: Any) -> str:
    metadata = {"algorithm": "sha256", "security": True, "size": size, **place}
    hashes = [one.hex() for one in path]
    return json.dumps({"type": kind, "metadata": metadata, **bits, "path": hashes})


def _parse(kind: str, proof: str) -> list[bytes]:
    """Return the path of a proof, of at least one hash."""
    # Before parsing: the text comes from the coordinator.
    if len(proof) > _MAX_PROOF_SIZE:
        raise MalformedMessage(f"a proof of {len(proof)} characters, at most {_MAX_PROOF_SIZE}")
    try:
        found = json.loads(proof)
    except (ValueError, RecursionError) as error:
        raise MalformedMessage(f"the round log's proof is malformed: {error}") from None
    if not isinstance(found, dict) or found.get("type") != kind:
        raise MalformedMessage(f"the round log's proof is malformed: it is none of {kind}")
    path = found.get("path")
    if not (
        isinstance(path, list)
        and path
        and all(isinstance(one, str) and _HASH.fullmatch(one) for one in path)
    ):
        raise MalformedMessage("the round log's proof is malformed: its path is no list of hashes")
    return [bytes.fromhex(one) for one in path]
