"""Noise comes from ChaCha20 as others know it, and is the distribution that it should be."""

import hashlib

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from scipy.stats import kstest

from hanse_common.privacy.randomness import KEY_SIZE, fresh_key, keystream, repeatable_key

KEYS = [
    *(bytes(32), bytes(range(32)), b"\xff" * 32),
    *(hashlib.sha256(bytes([i])).digest() for i in range(20)),
]


def chacha20(key, size):
    """Keystream from block 0 with a nonce of zeros."""
    return Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(size))


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.hex()[:8])
def test_the_keystream_is_chacha20_over_many_blocks(key):
    words = keystream(key).integers(2**32, size=16 * 40, dtype=np.uint32)
    assert words.astype("<u4").tobytes() == chacha20(key, 64 * 40)


def test_sixty_four_bit_draws_use_the_same_stream():
    key = fresh_key()
    words = keystream(key).integers(2**64, size=100, dtype=np.uint64)
    assert words.astype("<u8").tobytes() == chacha20(key, 800)


def test_gaussian_draws_are_gaussian():
    draws = keystream(repeatable_key(7, 1)).normal(3.0, 2.0, 200_000)
    standard = (draws - 3.0) / 2.0
    assert abs(standard.mean()) < 5 / np.sqrt(draws.size)
    assert abs(standard.var() - 1) < 5 * np.sqrt(2 / draws.size)
    assert abs((standard**3).mean()) < 5 * np.sqrt(15 / draws.size)
    assert abs((standard**4).mean() - 3) < 5 * np.sqrt(96 / draws.size)
    assert kstest(standard, "norm").pvalue > 1e-4


def test_draws_one_after_the_other_are_uncorrelated():
    draws = keystream(repeatable_key(7, 2)).normal(size=100_000)
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 5 / np.sqrt(draws.size)


def test_every_purpose_has_a_key_of_its_own():
    purposes = [(1, 11), (11, 1), (1, 1, 1), (111,), (1,), ()]
    keys = {repeatable_key(seed, *purpose) for seed in (1, 11, 111) for purpose in purposes}
    # (1, 11, 1) can be read as seed 1 and purpose (11, 1) only: numbers are kept apart.
    assert len(keys) == len({(seed, *purpose) for seed in (1, 11, 111) for purpose in purposes})
    assert all(len(key) == KEY_SIZE for key in keys)


def test_fresh_keys_differ():
    assert len({fresh_key() for _ in range(100)}) == 100
