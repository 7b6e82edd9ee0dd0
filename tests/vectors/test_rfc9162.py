"""Merkle trees: published vectors, every size up to 64, and a second implementation.

Leaves, roots and proofs are those of Certificate Transparency's tests, as transparency-dev's
`merkle` publishes them (`proof/verify_test.go`, Apache-2.0).
"""

from __future__ import annotations

import json

import pymerkle
import pytest

from hanse_common.roundlog.merkle import Tree, check_consistency, check_last
from hanse_common.roundlog.rfc9162 import (
    EMPTY_ROOT,
    HashTree,
    leaf_hash,
    verify_consistency,
    verify_inclusion,
)
from kits.errors import raises

LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        *("", "00", "10", "2021", "3031", "40414243", "5051525354555657"),
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEAF_1 = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
NODE_2_4 = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
NODE_4_8 = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
LEAF_4 = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
NODE_4_6 = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
NODE_6_8 = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
LEAF_6 = "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f"
INCLUSION = {  # (index, size): proof
    (0, 1): [],
    (0, 8): [LEAF_1, NODE_2_4, NODE_4_8],
    (5, 8): [LEAF_4, NODE_6_8, ROOTS[4]],
    (2, 3): [ROOTS[2]],
    (1, 5): [ROOTS[1], NODE_2_4, LEAF_4],
}
CONSISTENCY = {  # (first, second): proof
    (1, 1): [],
    (1, 8): [LEAF_1, NODE_2_4, NODE_4_8],
    (6, 8): [NODE_4_6, NODE_6_8, ROOTS[4]],
    (2, 5): [NODE_2_4, LEAF_4],
    (6, 7): [NODE_4_6, LEAF_6, ROOTS[4]],
}
OTHER = bytes.fromhex("abacaba000000000000000000000000000000000000000000060061e00123456")
LARGEST = 64


def tree_of(entries) -> HashTree:
    tree = HashTree()
    for entry in entries:
        tree.append(entry)
    return tree


def changed_proofs(proof, *roots):
    """Every way that the published tests change a proof, and every hash left out or doubled."""
    for extra in (b"", OTHER, *roots, *proof[:1]):
        yield [*proof, extra]
        yield [extra, *proof]
    for place, one in enumerate(proof):
        for other in (bytes([one[0] ^ 8]) + one[1:], one[:-1], one + b"\0", OTHER):
            yield [*proof[:place], other, *proof[place + 1 :]]
        yield [*proof[:place], *proof[place + 1 :]]
        yield [*proof[:place], OTHER, *proof[place:]]
    if len(proof) > 1 and proof[0] != proof[1]:
        yield [proof[1], proof[0], *proof[2:]]


def inclusion_refuses_everything_else(tree, index, size):
    leaf, root, proof = tree.leaf(index), tree.root(size), tree.inclusion(index, size)
    assert verify_inclusion(leaf, index, size, root, proof)
    for other in {-1, index - 1, index + 1, index ^ 2, size, 2 * size} - {index}:
        assert not verify_inclusion(leaf, other, size, root, proof)
    for other in (0, size * 2, size // 2):
        # A path does not always tell the size: 0 of 3 and of 4, say. A root does, since it is
        # signed with its size; a proof of another length is refused by itself.
        if len(tree_path(index, other)) != len(proof):
            assert not verify_inclusion(leaf, index, other, root, proof)
    for other in (b"", OTHER, root if root != leaf else OTHER, leaf[:-1]):
        assert not verify_inclusion(other, index, size, root, proof)
    for other in (b"", OTHER, EMPTY_ROOT):
        assert not verify_inclusion(leaf, index, size, other, proof)
    for other in changed_proofs(proof, root):
        assert not verify_inclusion(leaf, index, size, root, other)


def tree_path(index, size):
    """As many things as a proof of inclusion has hashes; none where there is no such entry."""
    if not 0 <= index < size:
        return [None] * 99
    path, start, end = [], 0, size
    while end - start > 1:
        middle = start + (1 << (end - start - 1).bit_length() - 1)
        start, end = (start, middle) if index < middle else (middle, end)
        path.append(middle)
    return path


def consistency_refuses_everything_else(tree, first, second):
    old, new, proof = tree.root(first), tree.root(second), tree.consistency(first, second)
    assert verify_consistency(first, old, second, new, proof)
    if first == second:
        assert proof == []
    for one, other in ((OTHER, new), (old, OTHER), (b"", new), (old, b"")):
        assert not verify_consistency(first, one, second, other, proof)
    assert first == second or not verify_consistency(first, new, second, old, proof)
    assert first == second or not verify_consistency(second, new, first, old, proof)
    for other in {-1, first - 1, first + 1, first ^ 2} - {0, first}:
        assert not verify_consistency(other, old, second, new, proof)
    for other in changed_proofs(proof, old, new):
        assert not verify_consistency(first, old, second, new, other)


def test_roots_are_the_published_ones():
    tree = tree_of(LEAVES)
    assert [tree.root(size).hex() for size in range(9)] == ROOTS
    assert tree_of([]).root() == EMPTY_ROOT


@pytest.mark.parametrize("place", INCLUSION)
def test_proofs_of_inclusion_are_the_published_ones_and_no_other_verifies(place):
    tree = tree_of(LEAVES)
    assert [one.hex() for one in tree.inclusion(*place)] == INCLUSION[place]
    inclusion_refuses_everything_else(tree, *place)


@pytest.mark.parametrize("sizes", CONSISTENCY)
def test_proofs_of_consistency_are_the_published_ones_and_no_other_verifies(sizes):
    tree = tree_of(LEAVES)
    assert [one.hex() for one in tree.consistency(*sizes)] == CONSISTENCY[sizes]
    consistency_refuses_everything_else(tree, *sizes)


@pytest.mark.parametrize(
    ("first", "second", "old", "new", "proof", "expected"),
    [
        (0, 0, EMPTY_ROOT, EMPTY_ROOT, [], True),
        (0, 1, EMPTY_ROOT, OTHER, [], True),
        (1, 1, OTHER, OTHER, [], True),
        (0, 0, EMPTY_ROOT, OTHER, [], False),
        (0, 1, OTHER, OTHER, [], False),
        (1, 0, OTHER, EMPTY_ROOT, [], False),
        (2, 1, OTHER, OTHER, [], False),
        (1, 2, OTHER, OTHER, [], False),
        (0, 1, EMPTY_ROOT, OTHER, [EMPTY_ROOT], False),
        (1, 1, OTHER, OTHER, [EMPTY_ROOT], False),
    ],
)
def test_the_edges_of_consistency(first, second, old, new, proof, expected):
    assert verify_consistency(first, old, second, new, proof) is expected


def test_every_proof_of_every_size_verifies_and_nothing_else_does():
    tree = tree_of(bytes([number]) for number in range(LARGEST))
    for size in range(1, LARGEST + 1):
        for place in range(size):
            inclusion_refuses_everything_else(tree, place, size)
            consistency_refuses_everything_else(tree, place + 1, size)


def test_proofs_of_one_history_do_not_verify_another():
    """The trees differ in one entry: proofs verify before it, and none after."""
    ours = tree_of(bytes([number]) for number in range(17))
    for fork in range(17):
        theirs = tree_of(bytes([number]) if number != fork else b"other" for number in range(17))
        for first in range(1, 17):
            proof = theirs.consistency(first)
            held = verify_consistency(first, ours.root(first), 17, theirs.root(), proof)
            assert held == (first <= fork)


def test_what_is_not_in_a_tree_has_no_proof():
    tree = tree_of(LEAVES)
    for ask in (
        *(lambda: tree.leaf(8), lambda: tree.leaf(-1), lambda: tree.root(9)),
        *(lambda: tree.inclusion(8), lambda: tree.inclusion(3, 3), lambda: tree.inclusion(-1)),
        *(lambda: tree.consistency(0), lambda: tree.consistency(9), lambda: tree.consistency(5, 4)),
        *(lambda: Tree().inclusion_of_last(), lambda: Tree([b"one"]).consistency(0)),
    ):
        with pytest.raises(ValueError, match=r"with|cannot be proven"):
            ask()


def test_sent_proofs_are_those_of_pymerkle_and_either_verifies_the_others():
    """Earlier releases send and check them with it; their logs verify with this code."""
    tree, reference = Tree(), pymerkle.InmemoryTree(algorithm="sha256")
    for size in range(1, LARGEST + 1):
        record = bytes([size])
        tree.append(record)
        reference.append_entry(record)
        root = reference.get_root()
        assert tree.root() == root
        last = tree.inclusion_of_last()
        theirs = reference.prove_inclusion(size, size).serialize()
        assert json.loads(last) == theirs
        check_last(record, size, root, json.dumps(theirs))
        for prior in range(1, size + 1):
            proof = tree.consistency(prior)
            theirs = reference.prove_consistency(prior, size).serialize()
            assert json.loads(proof) == theirs
            check_consistency(prior, tree.root(prior), size, root, json.dumps(theirs))
    parsed = pymerkle.ConsistencyProof.deserialize(json.loads(tree.consistency(21)))
    pymerkle.verify_consistency(
        tree.root(21), root, parsed, prior_size=21, later_size=LARGEST, algorithm="sha256"
    )


@pytest.mark.parametrize("size", [1, 2, 3, 8, 13])
def test_a_sent_proof_with_another_hash_is_refused(size):
    records = [bytes([number]) for number in range(size)]
    tree = Tree(records)
    for prior in range(1, size + 1):
        sent = json.loads(tree.consistency(prior))
        for path in changed_proofs([bytes.fromhex(one) for one in sent["path"]]):
            text = json.dumps({**sent, "path": [one.hex() for one in path]})
            with raises("log-forked", "malformed-message"):
                check_consistency(prior, tree.root(prior), size, tree.root(), text)
    sent = json.loads(tree.inclusion_of_last())
    for path in changed_proofs([leaf_hash(records[-1]), *map(bytes.fromhex, sent["path"][1:])]):
        text = json.dumps({**sent, "path": [one.hex() for one in path]})
        with raises("log-forked", "malformed-message"):
            check_last(records[-1], size, tree.root(), text)
