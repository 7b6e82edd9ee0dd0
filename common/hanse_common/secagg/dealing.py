"""What a store computes for the others: shares dealt and opened, masks agreed.

These functions change the store's state and nothing else; `store.py` decides when.
"""

from __future__ import annotations

from collections.abc import Callable

from hanse_common.errors import BadShares, OutOfTurn, WeakKey
from hanse_common.secagg import keys
from hanse_common.secagg.keys import ExchangeKey, Secret
from hanse_common.secagg.roster import Cohort
from hanse_common.secagg.shamir import SHARE_SIZE, split
from hanse_common.secagg.state import StoreState


def deal(
    state: StoreState,
    cohort: Cohort,
    own: int,
    *,
    threshold: int,
    entropy: Callable[[int], bytes],
) -> tuple[list[bytes], list[bytes]]:
    """Agree with every other store, split mask key and seed, and seal a share of each.

    The mask key itself is wiped: what it agreed on is all that masking needs.

    Returns:
        Sealed shares for the others, and the digests of all shares, in roster order.

    Raises:
        WeakKey: A peer's key has small order.
    """
    if state.mask_key is None or state.share_key is None or state.seed is None:
        raise OutOfTurn("the keys of this attempt were wiped")
    header, roster, count = cohort.header_digest, cohort.roster_digest, len(cohort)
    key_shares = split(
        state.mask_key.secret.reveal(), threshold=threshold, count=count, entropy=entropy
    )
    seed_shares = split(state.seed.reveal(), threshold=threshold, count=count, entropy=entropy)
    nonces = entropy(keys.NONCE_SIZE * count)
    sealed, all_digests = [], []
    for index, (key_share, seed_share) in enumerate(zip(key_shares, seed_shares, strict=True)):
        names = cohort.ids((own, index))
        digests = keys.share_digests(key_share, seed_share, header, *names)
        all_digests.append(digests)
        if index == own:
            state.mask_key_shares[own] = Secret(key_share)
            state.seed_shares[own] = Secret(seed_share)
            continue
        peer = cohort.peers[index]
        shared = _agree(state.share_key, peer.share_public, peer.store_id)
        state.channels[index] = Secret(shared)
        state.pairs[index] = Secret(_agree(state.mask_key, peer.mask_public, peer.store_id))
        key = keys.share_key(shared, header, roster, *names)
        nonce = nonces[keys.NONCE_SIZE * index :][: keys.NONCE_SIZE]
        context = keys.sealing_context(header, roster, digests, *names)
        sealed.append(keys.seal(key, nonce, key_share + seed_share, context))
    state.mask_key.wipe()
    state.share_key.wipe()
    state.mask_key = state.share_key = None
    return sealed, all_digests


def open_shares(
    state: StoreState, cohort: Cohort, own: int, dealer: int, sealed: bytes, digests: bytes
) -> None:
    """Open the shares that a dealer sealed for this store, and keep them.

    Raises:
        BadShares: They do not open, or do not match the digests beside them.
    """
    header, roster, names = cohort.header_digest, cohort.roster_digest, cohort.ids((dealer, own))
    key = keys.share_key(state.channels[dealer].reveal(), header, roster, *names)
    context = keys.sealing_context(header, roster, digests, *names)
    plaintext = keys.unseal(key, sealed, context)
    key_share, seed_share = plaintext[:SHARE_SIZE], plaintext[SHARE_SIZE:]
    if keys.share_digests(key_share, seed_share, header, *names) != digests:
        raise BadShares("shares do not match the digests that their dealer signed")
    state.mask_key_shares[dealer] = Secret(key_share)
    state.seed_shares[dealer] = Secret(seed_share)


def mask_keys(state: StoreState, cohort: Cohort, own: int) -> tuple[list[bytes], list[bytes]]:
    """Derive the keys of the masks that this store adds, and of those it subtracts.

    Guarantees:
        Of each pair of sharers, the one that comes first in the roster adds the mask that
        the other subtracts; the self mask is added.
    """
    if state.seed is None:
        raise OutOfTurn("the keys of this attempt were wiped")
    context = cohort.sharers_digest(state.sharers)
    (name,) = cohort.ids((own,))
    plus = [keys.self_mask_key(state.seed.reveal(), cohort.header_digest, name)]
    minus: list[bytes] = []
    for index in state.sharers:
        if index != own:
            sign = plus if own < index else minus
            shared = state.pairs[index].reveal()
            sign.append(cohort.pair_mask_key(shared, context, own, index))
    return plus, minus


def _agree(key: ExchangeKey, peer: bytes, store_id: str) -> bytes:
    try:
        return key.agree(peer)
    except WeakKey as error:
        raise WeakKey(f"{store_id!r}: {error.message}", culprits=(store_id,)) from None
