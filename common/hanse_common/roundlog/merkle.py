"""The Merkle tree over a round log's records (RFC 9162, section 2.1), computed by pymerkle.

>>> tree = Tree([b"one", b"two", b"three"])
>>> old, new = tree.root(2), tree.root(3)
>>> check_consistency(2, old, 3, new, tree.consistency(2))
>>> check_last(b"three", 3, new, tree.inclusion_of_last())
>>> check_last(b"four", 3, new, tree.inclusion_of_last())
Traceback (most recent call last):
    ...
hanse_common.errors.RoundLogError: the last record of the round log is not the expected one: \
Base hash does not match
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

_ALGORITHM = "sha256"
# pymerkle accepts up to 128 hashes, which are 64 hexadecimal digits each: 9 KB with metadata.
_MAX_PROOF_SIZE = 16_384


class Tree:
    """The prover's side: the tree of a log's records, of which only hashes are held.

    `check_consistency` and `check_last` are the verifier's side.
    """

    def __init__(self, records: Iterable[bytes] = ()) -> None:
        self._tree = InmemoryTree(algorithm=_ALGORITHM)
        for record in records:
            self.append(record)

    def __len__(self) -> int:
        return int(self._tree.get_size())

    def append(self, record: bytes) -> None:
        """Add a record at the end."""
        self._tree.append_entry(record)

    def root(self, size: int | None = None) -> bytes:
        """Return the 32-byte root over the first `size` records; over all if unset."""
        return bytes(self._tree.get_root(len(self) if size is None else size))

    def consistency(self, prior: int) -> str:
        """Return the proof, as JSON, that the tree extends that of its first `prior` records."""
        return json.dumps(self._tree.prove_consistency(prior, len(self)).serialize())

    def inclusion_of_last(self) -> str:
        """Return the proof, as JSON, that the last record is in the tree."""
        return json.dumps(self._tree.prove_inclusion(len(self), len(self)).serialize())


def check_consistency(
    prior_size: int, prior_root: bytes, size: int, root: bytes, proof: str
) -> None:
    """Check that a tree extends an earlier one.

    Raises:
        RoundLogError [log-forked]: The proof does not verify.
        MalformedMessage: The text is not a proof.
    """
    parsed = _parse(ConsistencyProof, proof)
    # Give sizes and algorithm always: for those that are not given, pymerkle trusts the proof,
    # which comes from the coordinator.
    try:
        verify_consistency(
            prior_root, root, parsed, prior_size=prior_size, later_size=size, algorithm=_ALGORITHM
        )
    except InvalidProof as error:
        raise RoundLogError(
            f"the round log of {size} records does not continue the one of {prior_size} that "
            f"was seen before: {error}",
            code="log-forked",
        ) from None


def check_last(record: bytes, size: int, root: bytes, proof: str) -> None:
    """Check that a record is the last of a tree.

    Raises:
        RoundLogError [log-forked]: The proof does not verify.
        MalformedMessage: The text is not a proof.
    """
    parsed = _parse(InclusionProof, proof)
    try:
        # The root of a tree with one record is the record's leaf hash.
        verify_inclusion(
            Tree([record]).root(), root, parsed, index=size, size=size, algorithm=_ALGORITHM
        )
    except InvalidProof as error:
        raise RoundLogError(
            f"the last record of the round log is not the expected one: {error}",
            code="log-forked",
        ) from None


def _parse(kind: Any, proof: str) -> Any:
    # Before parsing: the text comes from the coordinator.
    if len(proof) > _MAX_PROOF_SIZE:
        raise MalformedMessage(f"a proof of {len(proof)} characters, at most {_MAX_PROOF_SIZE}")
    try:
        return kind.deserialize(json.loads(proof))
    except (InvalidProof, ValueError, RecursionError) as error:
        raise MalformedMessage(f"the round log's proof is malformed: {error}") from None
