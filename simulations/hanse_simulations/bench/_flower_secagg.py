"""Time a round of Flower's SecAgg+, calling the functions that its mod and workflow call."""

from __future__ import annotations

import os
import time

import numpy as np
from flwr.app import ConfigRecord
from flwr.common import bytes_to_ndarray, ndarrays_to_parameters
from numpy.typing import NDArray

from hanse_simulations.flower_internals import (
    Key,
    SecAggPlusState,
    _collect_masked_vectors,
    _setup,
    _share_keys,
    _unmask,
    bytes_to_private_key,
    bytes_to_public_key,
    combine_shares,
    encrypt,
    generate_shared_key,
    get_parameters_shape,
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
    pseudo_rand_gen,
    share_keys_plaintext_concat,
)

MODULUS = 2**32


def flower_seconds(
    *, stores: int, length: int, dropped: int, threshold: int, update: NDArray[np.float64]
) -> tuple[float, float]:
    """CPU-seconds of one client and of the server in a round of Flower's SecAgg+.

    Args:
        stores: Cohort size; the graph is complete, as ours is.
        length: Number of parameters.
        dropped: Number of stores that drop out after sharing.
        threshold: Number of shares that determine a secret.
        update: One store's update, shape `(length,)`.
    """
    config = ConfigRecord(
        {
            Key.SAMPLE_NUMBER: stores,
            Key.SHARE_NUMBER: stores,
            Key.THRESHOLD: threshold,
            Key.CLIPPING_RANGE: 8.0,
            Key.TARGET_RANGE: 2**20,
            Key.MOD_RANGE: MODULUS,
            Key.MAX_WEIGHT: 1000.0,
        }
    )
    peers = [SecAggPlusState(nid=nid) for nid in range(stores)]
    # Only the first client is timed: what a client does depends on how many peers it has.
    for peer in peers[1:]:
        _setup(peer, config)
    client, spent = peers[0], 0.0

    start = time.process_time()
    _setup(client, config)
    spent += time.process_time() - start

    keys = ConfigRecord({str(peer.nid): [peer.pk1, peer.pk2] for peer in peers})
    start = time.process_time()
    _share_keys(client, keys)
    spent += time.process_time() - start

    # The others' messages are made from the client's own shares: decrypting costs the same.
    seed_share, key_share = client.rd_seed_share_dict[0], client.sk1_share_dict[0]
    ciphertexts = []
    for peer in peers[1:]:
        shared = generate_shared_key(
            bytes_to_private_key(peer.sk2), bytes_to_public_key(client.pk2)
        )
        plaintext = share_keys_plaintext_concat(peer.nid, 0, seed_share, key_share)
        ciphertexts.append(encrypt(shared, plaintext))
    delivery = ConfigRecord(
        {Key.CIPHERTEXT_LIST: ciphertexts, Key.SOURCE_LIST: list(range(1, stores))}
    )
    parameters = ndarrays_to_parameters([update])
    start = time.process_time()
    upload = _collect_masked_vectors(client, delivery, 100, parameters)
    spent += time.process_time() - start

    dead = list(range(1, dropped + 1))
    active = [nid for nid in range(stores) if nid not in set(dead)]
    request = ConfigRecord({Key.ACTIVE_NODE_ID_LIST: active, Key.DEAD_NODE_ID_LIST: dead})
    start = time.process_time()
    _unmask(client, request)
    spent += time.process_time() - start

    masked = upload[Key.MASKED_PARAMETERS]
    if not isinstance(masked, list):
        raise TypeError(f"Flower's upload is a {type(masked).__name__}, expected a list")
    return spent, _server_seconds(
        peers, [part for part in masked if isinstance(part, bytes)], active, dead, threshold
    )


def _server_seconds(
    peers: list[SecAggPlusState],
    upload: list[bytes],
    active: list[int],
    dead: list[int],
    threshold: int,
) -> float:
    """`collect_masked_vectors_stage` and `unmask_stage` of Flower's workflow, line by line."""
    stores, client = len(peers), peers[0]
    # All shares of one store stand for those of every other: the cost ignores their values.
    seed_shares, key_shares = _all_shares(client, stores, threshold)
    start = time.process_time()
    vector = None
    for _ in active:
        received = [bytes_to_ndarray(part) for part in upload]
        vector = received if vector is None else parameters_addition(vector, received)
    if vector is None:
        return 0.0
    vector = parameters_mod(vector, MODULUS)
    for nid in range(stores):
        is_active = nid not in set(dead)
        secret = combine_shares((seed_shares if is_active else key_shares)[:threshold])
        shapes = get_parameters_shape(vector)
        if is_active:
            vector = parameters_subtraction(vector, pseudo_rand_gen(secret, MODULUS, shapes))
            continue
        for other in range(stores):
            if other == nid:
                continue
            shared = generate_shared_key(
                bytes_to_private_key(secret), bytes_to_public_key(peers[other].pk1)
            )
            mask = pseudo_rand_gen(shared, MODULUS, shapes)
            combine = parameters_addition if nid > other else parameters_subtraction
            vector = combine(vector, mask)
    parameters_mod(vector, MODULUS)
    return time.process_time() - start


def _all_shares(
    client: SecAggPlusState, stores: int, threshold: int
) -> tuple[list[bytes], list[bytes]]:
    from hanse_simulations.flower_internals import create_shares

    seed = client.rd_seed or os.urandom(32)
    return (
        create_shares(seed, threshold, stores),
        create_shares(client.sk1, threshold, stores),
    )
