"""The Merkle tree over a round log's records: RFC 9162, section 2.1, by pymerkle.

>>> tree = Tree([b"one", b"two", b"three"])
>>> old, new = tree.root(2), tree.root(3)
>>> check_consistency(2, old, 3, new, tree.consistency(2))
>>> check_last(b"three", 3, new, tree.inclusion_of_last())
>>> check_last(b"four", 3, new, tree.inclusion_of_last())
Traceback (most recent call last):
    ...
hanse_common.errors.RoundLogError: the round log does not hold what it was said to hold: Base hash \
does not match
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pymerkle import (
    ConsistencyProof,
    InclusionProof,
    InmemoryTree,
    InvalidProof,
    verify_consistency,
    verify_inclusion,
)

from hanse_common.errors import MalformedMessage, RoundLogError

ALGORITHM = "sha256"
MAX_PROOF_SIZE = 16_384


class Tree:
    """A log's records, hashed; see `check_consistency` and `check_last` for the other side."""

    def __init__(self, records: Iterable[bytes] = ()) -> None:
        self._tree = InmemoryTree(algorithm=ALGORITHM)
        for record in records:
            self.append(record)

    def __len__(self) -> int:
        return int(self._tree.get_size())

    def append(self, record: bytes) -> None:
        """Add a record at the end."""
        self._tree.append_entry(record)

    def root(self, size: int | None = None) -> bytes:
        """The root over the first `size` records; over all if unset."""
        return bytes(self._tree.get_root(len(self) if size is None else size))

    def consistency(self, prior: int) -> str:
        """Prove, as JSON, that the tree goes on from that of its first `prior` records."""
        return json.dumps(self._tree.prove_consistency(prior, len(self)).serialize())

    def inclusion_of_last(self) -> str:
        """Prove, as JSON, that the last record is in the tree."""
        return json.dumps(self._tree.prove_inclusion(len(self), len(self)).serialize())


def check_consistency(
    prior_size: int, prior_root: bytes, size: int, root: bytes, proof: str
) -> None:
    """Check that a tree goes on from an earlier one.

    Raises:
        RoundLogError [log-forked]: The proof does not show it.
        MalformedMessage: It is no proof.
    """
    parsed = _parse(ConsistencyProof, proof)
    try:
        verify_consistency(
            prior_root, root, parsed, prior_size=prior_size, later_size=size, algorithm=ALGORITHM
        )
    except InvalidProof as error:
        raise RoundLogError(
            f"the round log of {size} records does not go on from the one of {prior_size} that "
            f"was seen before: {error}",
            code="log-forked",
        ) from None


def check_last(record: bytes, size: int, root: bytes, proof: str) -> None:
    """Check that a record is the last of a tree.

    Raises:
        RoundLogError [log-forked]: The proof does not show it.
        MalformedMessage: It is no proof.
    """
    parsed = _parse(InclusionProof, proof)
    try:
        verify_inclusion(
            Tree([record]).root(), root, parsed, index=size, size=size, algorithm=ALGORITHM
        )
    except InvalidProof as error:
        raise RoundLogError(
            f"the round log does not hold what it was said to hold: {error}", code="log-forked"
        ) from None


def _parse(kind: Any, proof: str) -> Any:
    if len(proof) > MAX_PROOF_SIZE:
        raise MalformedMessage(f"a proof of {len(proof)} characters, at most {MAX_PROOF_SIZE}")
    try:
        return kind.deserialize(json.loads(proof))
    except (InvalidProof, ValueError, RecursionError) as error:
        raise MalformedMessage(f"the round log's proof is malformed: {error}") from None
