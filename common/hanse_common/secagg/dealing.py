"""A store's computations with the other stores' keys: dealing and opening shares, mask keys.

These functions change the store's state and nothing else; `store.py` decides when to call them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from hanse_common.errors import BadShares, MalformedMessage, OutOfTurn, WeakKey
from hanse_common.identity import StoreKey
from hanse_common.secagg import keys
from hanse_common.secagg.dispute import accuse, is_vouched, open_sealed, vouch
from hanse_common.secagg.keys import ExchangeKey, Secret
from hanse_common.secagg.messages import Accusation, Delivery
from hanse_common.secagg.roster import Cohort
from hanse_common.secagg.shamir import split
from hanse_common.secagg.state import StoreState


@dataclass(frozen=True, kw_only=True, slots=True)
class Dealt:
    """The lists of a store's ShareBundle, each in roster order.

    Args:
        sealed: Encrypted shares for every other store.
        vouched: The dealer's signature over each of them.
        digests: Digests of all shares, including those that the store holds of its own secrets.
    """

    sealed: tuple[bytes, ...]
    vouched: tuple[bytes, ...]
    digests: tuple[bytes, ...]


def deal(
    state: StoreState,
    cohort: Cohort,
    own: int,
    *,
    threshold: int,
    key: StoreKey,
    entropy: Callable[[int], bytes],
) -> Dealt:
    """Agree on secrets with every other store, split mask key and seed, and seal the shares.

    The mask key is wiped, since masking needs only the secrets that it agreed on. The share
    key stays until shares are accepted, for evidence against a store that deals wrongly.

    Args:
        state: Receives the store's own shares and the agreed secrets.
        cohort: The roster.
        own: The store's roster index.
        threshold: Number of shares that determine a secret.
        key: The store's identity, which signs each sealed share.
        entropy: Cryptographic source of random bytes.

    Raises:
        WeakKey: A peer's key has small order.
        OutOfTurn: The keys of this attempt were wiped.
    """
    if state.mask_key is None or state.share_key is None or state.seed is None:
        raise OutOfTurn("the keys of this attempt were wiped")
    header, roster, count = cohort.header_digest, cohort.roster_digest, len(cohort)
    key_shares = split(
        state.mask_key.secret.reveal(), threshold=threshold, count=count, entropy=entropy
    )
    seed_shares = split(state.seed.reveal(), threshold=threshold, count=count, entropy=entropy)
    nonces = entropy(keys.NONCE_SIZE * count)
    sealed, vouched, all_digests = [], [], []
    for index, (key_share, seed_share) in enumerate(zip(key_shares, seed_shares, strict=True)):
        names = cohort.ids((own, index))
        digests = keys.share_digests(key_share, seed_share, header, *names)
        all_digests.append(digests)
        if index == own:
            # A store is a holder of its own secrets too: its shares count for the threshold.
            state.mask_key_shares[own] = Secret(key_share)
            state.seed_shares[own] = Secret(seed_share)
            continue
        peer = cohort.peers[index]
        shared = _agree(state.share_key, peer.share_public, peer.store_id)
        state.channels[index] = Secret(shared)
        state.pairs[index] = Secret(_agree(state.mask_key, peer.mask_public, peer.store_id))
        sealing_key = keys.share_key(shared, header, roster, *names)
        nonce = nonces[keys.NONCE_SIZE * index :][: keys.NONCE_SIZE]
        context = keys.sealing_context(header, roster, digests, *names)
        sealed.append(keys.seal(sealing_key, nonce, key_share + seed_share, context))
        # The signature covers the digests too: the holder can prove what it was dealt.
        vouched.append(vouch(key, context, sealed[-1]))
    # From here on only a threshold of holders can restore this key.
    state.mask_key.wipe()
    state.mask_key = None
    return Dealt(sealed=tuple(sealed), vouched=tuple(vouched), digests=tuple(all_digests))


def open_all(state: StoreState, cohort: Cohort, own: int, delivery: Delivery) -> list[int]:
    """Open the shares that the other stores sealed for this one.

    Args:
        state: Receives the shares.
        cohort: The roster.
        own: The store's roster index, which is one of the delivery's sharers.
        delivery: The message of stage 2.

    Returns:
        Roster indices of the dealers whose shares do not open or do not match their digests.

    Raises:
        MalformedMessage: The lists do not have one element for each dealer.
    """
    dealers = [index for index in delivery.sharers if index != own]
    lists = (delivery.sealed, delivery.vouched, delivery.digests)
    if any(len(each) != len(dealers) for each in lists):
        raise MalformedMessage(
            f"delivery has {tuple(map(len, lists))} sealed shares, signatures and digests for "
            f"{len(dealers)} dealers"
        )
    wrong = []
    for dealer, sealed, digests in zip(dealers, delivery.sealed, delivery.digests, strict=True):
        channel = state.channels[dealer].reveal()
        try:
            key_share, seed_share = open_sealed(channel, cohort, dealer, own, sealed, digests)
        except BadShares:
            # Go on: one refusal should name all dealers that cheated, not the first only.
            wrong.append(dealer)
        else:
            state.mask_key_shares[dealer] = Secret(key_share)
            state.seed_shares[dealer] = Secret(seed_share)
    return wrong


def evidence(
    state: StoreState,
    cohort: Cohort,
    own: int,
    delivery: Delivery,
    wrong: Collection[int],
    *,
    entropy: Callable[[int], bytes],
) -> tuple[Accusation, ...]:
    """Make accusations against the dealers that signed a wrong share.

    Guarantees:
        There is no accusation about a share without its dealer's signature: the coordinator
        may have altered that share, and would open the true one with the evidence.
    """
    if state.share_key is None:
        raise OutOfTurn("the keys of this attempt were wiped")
    dealers = [index for index in delivery.sharers if index != own]
    return tuple(
        accuse(cohort, own, dealer, state.share_key, entropy=entropy)
        for dealer, *part in zip(
            dealers, delivery.sealed, delivery.vouched, delivery.digests, strict=True
        )
        if dealer in wrong and is_vouched(cohort, dealer, own, *part)
    )


def mask_keys(state: StoreState, cohort: Cohort, own: int) -> tuple[list[bytes], list[bytes]]:
    """Derive the keys of the masks that this store adds, and of those it subtracts.

    Guarantees:
        Of each pair of sharers, the one that comes first in the roster adds the mask that
        the other subtracts; the self mask is added.

    Raises:
        OutOfTurn: The keys of this attempt were wiped.
    """
    if state.seed is None:
        raise OutOfTurn("the keys of this attempt were wiped")
    # The context binds U2: stores that were shown different sharers derive unrelated masks,
    # which do not cancel.
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
