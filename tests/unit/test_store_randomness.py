"""What a store's generator is used for: one enumeration, and a stream of its own for each use."""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

import hanse_client
from hanse_client.node import Node, Randomness
from hanse_common.privacy.randomness import keystream

CLIENT = Path(hanse_client.__file__).parent
SEED, WORDS = 7, 64


@pytest.fixture
def node(tmp_path):
    table = {"name": "riga", "histories": "none", "base_model": "none", "seed": SEED}
    (tmp_path / "node.json").write_text(json.dumps(table))
    return Node(tmp_path)


def words(generator: np.random.Generator) -> bytes:
    return generator.integers(2**64, size=WORDS, dtype=np.uint64).tobytes()


def syntax_trees():
    for path in sorted(CLIENT.rglob("*.py")):
        yield path.relative_to(CLIENT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def test_the_numbers_of_the_uses_are_these():
    """A number is part of every key, so that another one would change every simulation."""
    assert {use.name: use.value for use in Randomness} == {
        "EXAMPLES": 0,
        "SAMPLE": 1,
        "STEP_NOISE": 2,
        "RELEASE_NOISE": 3,
        "ROUNDING": 4,
        "EXACTNESS_CHECK": 5,
    }


def test_every_use_has_a_stream_of_its_own_in_every_round_and_attempt(node):
    uses = list(itertools.product(Randomness, (0, 1, 2, 3, 11, 12), (1, 2)))
    streams = [words(node.generator(number, use, attempt=again)) for use, number, again in uses]
    assert len(set(streams)) == len(uses) == 6 * 6 * 2
    # No stream is a shifted copy of another either: no word of one is a word of any other.
    found = [np.frombuffer(stream, np.uint64) for stream in streams]
    assert len(np.unique(np.concatenate(found))) == len(uses) * WORDS


@pytest.mark.parametrize("use", Randomness)
def test_the_stream_of_a_use_is_the_one_that_figures_rest_on(node, use):
    first, second = (
        keystream(hashlib.sha256(purpose.encode()).digest())
        for purpose in (f"{SEED}/3/{use.value}", f"{SEED}/3/{use.value}/2")
    )
    assert words(node.generator(3, use)) == words(first)
    assert words(node.generator(3, use, attempt=2)) == words(second)


def test_a_store_draws_by_the_enumeration_and_in_no_other_way():
    named, elsewhere = set(), set()
    for path, tree in syntax_trees():
        for item in ast.walk(tree):
            if isinstance(item, ast.Attribute) and ast.unparse(item.value) == "Randomness":
                named.add(item.attr)
            if isinstance(item, ast.Call) and ast.unparse(item.func).endswith(".generator"):
                use = ast.unparse(item.args[1])
                assert use.startswith("Randomness.") or use == "use", (path, use)
            if isinstance(item, ast.ImportFrom) and str(item.module).endswith("randomness"):
                elsewhere.add(path)
    assert named == {use.name for use in Randomness}
    assert elsewhere == {"node.py"}, "keys are made in one place"
