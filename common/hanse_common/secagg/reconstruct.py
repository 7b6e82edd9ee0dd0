"""Reconstruction of secrets from shares, each checked against its commitment (stage 4).

A wrong secret is traced to its cause. Every dealer signed a digest of every share. A store
that reports a share that does not match lied, and the other stores' shares are used instead;
if all shares match, the dealer dealt shares of another secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hanse_common.codec import DIGEST_SIZE
from hanse_common.errors import BadSum
from hanse_common.secagg import keys
from hanse_common.secagg.messages import Unmasking
from hanse_common.secagg.roster import Cohort
from hanse_common.secagg.shamir import Weights


@dataclass(frozen=True, slots=True)
class Recovered:
    """Seeds of survivors and mask keys of drop-outs by roster index, and the ids of liars."""

    seeds: Mapping[int, bytes] = field(repr=False)
    mask_keys: Mapping[int, bytes] = field(repr=False)
    liars: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One secret to recover: its dealer, its kind, and the position of its shares in a report."""

    dealer: int
    is_seed: bool
    place: int

    def share(self, report: Unmasking) -> bytes:
        return (report.seed_shares if self.is_seed else report.mask_key_shares)[self.place]


def recover(
    cohort: Cohort,
    *,
    sharers: tuple[int, ...],
    survivors: tuple[int, ...],
    threshold: int,
    reports: Mapping[int, Unmasking],
    share_digests: Mapping[int, bytes],
) -> Recovered:
    """Recover every secret that the sum needs.

    Args:
        cohort: The roster.
        sharers: U2.
        survivors: U3.
        threshold: Number of shares that determine a secret.
        reports: By roster index, the signed Unmasking.
        share_digests: By dealer's index, the digests that it signed for all holders, joined.

    Returns:
        Secrets that all match their commitments.

    Raises:
        BadSum [wrong-share]: A dealer dealt wrong shares, or too few honest reports are left;
            `culprits` names the dealer or the liars.
    """
    # The order of `Unmasking`: seeds of U3, then mask keys of the other sharers.
    dropped = [index for index in sharers if index not in set(survivors)]
    wanted = [_Wanted(dealer, True, place) for place, dealer in enumerate(survivors)]
    wanted += [_Wanted(dealer, False, place) for place, dealer in enumerate(dropped)]
    liars: set[int] = set()
    # Every pass returns, raises or finds at least one more liar, so there are at most n passes.
    while True:
        holders = sorted(reports.keys() - liars)[:threshold]
        if len(holders) < threshold:
            names = cohort.ids(sorted(liars))
            raise BadSum(
                f"shares of {', '.join(names)} are not those that were dealt to them, and "
                f"{len(holders)} others are below the threshold of {threshold}",
                code="wrong-share",
                hint="the round is lost; start the next one without them",
                culprits=names,
            )
        secrets, wrong = _try(cohort, wanted, holders, reports)
        if wrong is None:
            return Recovered(
                seeds={want.dealer: secrets[want] for want in wanted if want.is_seed},
                mask_keys={want.dealer: secrets[want] for want in wanted if not want.is_seed},
                liars=cohort.ids(sorted(liars)),
            )
        new = _find_liars(cohort, wrong, reports, share_digests[wrong.dealer])
        # All shares used are those that the dealer signed: the fault is the dealer's.
        if not new - liars:
            names = cohort.ids((wrong.dealer,))
            raise BadSum(
                f"{names[0]!r} dealt shares that do not give the "
                f"{'seed' if wrong.is_seed else 'mask key'} it committed to",
                code="wrong-share",
                hint="the round is lost; start the next one without that store",
                culprits=names,
            )
        liars |= new


def leftover_masks(
    cohort: Cohort, sharers: tuple[int, ...], survivors: tuple[int, ...], recovered: Recovered
) -> tuple[list[bytes], list[bytes]]:
    """Derive the keys of the masks that did not cancel in the sum.

    These are every survivor's self mask, and every mask between a survivor and a drop-out.

    Returns:
        Keys of the masks to add to the sum, and keys of those to subtract.
    """
    plus: list[bytes] = []
    minus = [
        keys.self_mask_key(seed, cohort.header_digest, cohort.peers[index].store_id)
        for index, seed in recovered.seeds.items()
    ]
    context = cohort.sharers_digest(sharers)
    for dropped, private in recovered.mask_keys.items():
        mask_key = keys.ExchangeKey(private)
        for index in survivors:
            shared = mask_key.agree(cohort.peers[index].mask_public)
            key = cohort.pair_mask_key(shared, context, index, dropped)
            # The survivor added this mask if it comes first, else subtracted it.
            (minus if index < dropped else plus).append(key)
    return plus, minus


def _try(
    cohort: Cohort, wanted: list[_Wanted], holders: list[int], reports: Mapping[int, Unmasking]
) -> tuple[dict[_Wanted, bytes], _Wanted | None]:
    """Combine the holders' shares; stop at the first secret that misses its commitment."""
    # The same holders for all secrets: the Lagrange weights are computed once.
    weights = Weights([holder + 1 for holder in holders])
    secrets: dict[_Wanted, bytes] = {}
    for want in wanted:
        peer = cohort.peers[want.dealer]
        try:
            secret = weights.combine([want.share(reports[holder]) for holder in holders])
        except BadSum:
            return secrets, want
        if want.is_seed:
            commitment = keys.seed_commitment(secret, cohort.header_digest, peer.store_id)
            matches = commitment == peer.commitment
        else:
            matches = keys.ExchangeKey(secret).public == peer.mask_public
        if not matches:
            return secrets, want
        secrets[want] = secret
    return secrets, None


def _find_liars(
    cohort: Cohort, want: _Wanted, reports: Mapping[int, Unmasking], digests: bytes
) -> set[int]:
    label = keys.SEED_SHARE if want.is_seed else keys.MASK_KEY_SHARE
    liars = set()
    for holder, report in reports.items():
        names = cohort.ids((want.dealer, holder))
        got = keys.share_digest(label, want.share(report), cohort.header_digest, *names)
        # Per holder two digests: that of the mask-key share, then that of the seed share.
        start = DIGEST_SIZE * (2 * holder + want.is_seed)
        if got != digests[start : start + DIGEST_SIZE]:
            liars.add(holder)
    return liars
