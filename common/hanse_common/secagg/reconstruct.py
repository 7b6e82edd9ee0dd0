"""The coordinator's last step: secrets from shares, each checked against its commitment.

A wrong secret is traced. Every dealer signed a digest of every share: whoever reported a
share that does not match lied, and the others' shares are used; if all match, the dealer
dealt shares of something else.
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
    """Seeds of survivors and mask keys of drop-outs, by roster index; and who lied."""

    seeds: Mapping[int, bytes] = field(repr=False)
    mask_keys: Mapping[int, bytes] = field(repr=False)
    liars: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One secret to recover: whose, of which kind, and where its shares lie in a report."""

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
        threshold: Shares that determine a secret.
        reports: Signed unmaskings by roster index.
        share_digests: By dealer's index: the digests that it signed, for all holders, joined.

    Returns:
        Secrets that all match their commitments.

    Raises:
        BadSum [wrong-share]: A dealer dealt wrong shares, or too few honest reports are left;
            `culprits` names the dealer or the liars.
    """
    dropped = [index for index in sharers if index not in set(survivors)]
    wanted = [_Wanted(dealer, True, place) for place, dealer in enumerate(survivors)]
    wanted += [_Wanted(dealer, False, place) for place, dealer in enumerate(dropped)]
    liars: set[int] = set()
    while True:
        holders = sorted(reports.keys() - liars)[:threshold]
        if len(holders) < threshold:
            names = cohort.ids(sorted(liars))
            raise BadSum(
                f"shares of {', '.join(names)} are not those that were dealt to them, and "
                f"{len(holders)} others are below the threshold of {threshold}",
                code="wrong-share",
                hint="the round is lost; go on with the next one without them",
                culprits=names,
            )
        found, wrong = _try(cohort, wanted, holders, reports)
        if wrong is None:
            return Recovered(
                seeds={want.dealer: found[want] for want in wanted if want.is_seed},
                mask_keys={want.dealer: found[want] for want in wanted if not want.is_seed},
                liars=cohort.ids(sorted(liars)),
            )
        new = _find_liars(cohort, wrong, reports, share_digests[wrong.dealer])
        if not new - liars:
            names = cohort.ids((wrong.dealer,))
            raise BadSum(
                f"{names[0]!r} dealt shares that do not give the "
                f"{'seed' if wrong.is_seed else 'mask key'} it committed to",
                code="wrong-share",
                hint="the round is lost; go on with the next one without that store",
                culprits=names,
            )
        liars |= new


def leftover_masks(
    cohort: Cohort, sharers: tuple[int, ...], survivors: tuple[int, ...], recovered: Recovered
) -> tuple[list[bytes], list[bytes]]:
    """Derive what the plain sum still needs added, and what subtracted, as mask keys.

    That is every survivor's self mask, and every mask between a survivor and a drop-out.
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
    weights = Weights([holder + 1 for holder in holders])
    found: dict[_Wanted, bytes] = {}
    for want in wanted:
        peer = cohort.peers[want.dealer]
        try:
            secret = weights.combine([want.share(reports[holder]) for holder in holders])
        except BadSum:
            return found, want
        if want.is_seed:
            commitment = keys.seed_commitment(secret, cohort.header_digest, peer.store_id)
            matches = commitment == peer.commitment
        else:
            matches = keys.ExchangeKey(secret).public == peer.mask_public
        if not matches:
            return found, want
        found[want] = secret
    return found, None


def _find_liars(
    cohort: Cohort, want: _Wanted, reports: Mapping[int, Unmasking], digests: bytes
) -> set[int]:
    label = keys.SEED_SHARE if want.is_seed else keys.MASK_KEY_SHARE
    liars = set()
    for holder, report in reports.items():
        names = cohort.ids((want.dealer, holder))
        got = keys.share_digest(label, want.share(report), cohort.header_digest, *names)
        start = DIGEST_SIZE * (2 * holder + want.is_seed)
        if got != digests[start : start + DIGEST_SIZE]:
            liars.add(holder)
    return liars
