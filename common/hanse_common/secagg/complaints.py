"""Complaints that stores make when they leave an attempt, and the verdicts on them.

One complaint with evidence is enough for a verdict: either the accused dealer is guilty, or
the accuser is. Complaints without evidence are counted, and a store becomes a suspect when
more stores complain about it than may collude.
"""

from __future__ import annotations

from collections.abc import Mapping

from hanse_common.errors import BadShares, BadSignature, ProtocolError
from hanse_common.secagg.dispute import check_accusation, is_vouched
from hanse_common.secagg.messages import Refusal, ShareBundle
from hanse_common.secagg.roster import Cohort

_NAMED = 3
"""Most accused stores that a reason names: a refusal may accuse thousands."""


class Complaints:
    """The reasons, complaints and verdicts of one attempt.

    Args:
        colluders: Number of stores that may lie together.
    """

    def __init__(self, colluders: int) -> None:
        self.reasons: dict[str, str] = {}
        """By store that left: its error code, and whom it accuses, as text."""
        self.proven: dict[str, str] = {}
        """By store that is proven to have broken the protocol: the error code."""
        self._colluders = colluders
        self._by_accused: dict[str, set[str]] = {}

    @property
    def suspects(self) -> frozenset[str]:
        """Stores about which more stores complained than may collude."""
        # Of colluders + 1 complaints at least one comes from an honest store.
        return frozenset(who for who, by in self._by_accused.items() if len(by) > self._colluders)

    def take(
        self, refusal: Refusal, cohort: Cohort | None, delivered: Mapping[int, ShareBundle]
    ) -> None:
        """Record a refusal whose signature was checked, and judge the evidence in it.

        Args:
            refusal: The message of a store that sent a Hello.
            cohort: The roster; None until it is closed.
            delivered: By roster index, the bundles of the sharers; empty except in stage 2.

        Edge cases:
            A store leaves once: its later refusals are ignored. Evidence that arrives before
            the bundles are delivered, or after they are dropped, counts as a complaint.
        """
        name = refusal.store_id
        if name in self.reasons:
            return
        accused = [culprit for culprit in refusal.culprits if culprit != name]
        self.reasons[name] = _reason(refusal.code, accused)
        for culprit in accused:
            self._by_accused.setdefault(culprit, set()).add(name)
        # Only a store that received shares can have evidence about them.
        if cohort is not None and name in cohort.ids(sorted(delivered)):
            self._judge(refusal, accused, cohort, delivered)

    def _judge(
        self,
        refusal: Refusal,
        accused: list[str],
        cohort: Cohort,
        delivered: Mapping[int, ShareBundle],
    ) -> None:
        name = refusal.store_id
        bundles = {cohort.peers[index].store_id: bundle for index, bundle in delivered.items()}
        for accusation in refusal.accusations:
            bundle = bundles.get(accusation.dealer)
            try:
                # No share was relayed from such a dealer, so the evidence must be invented.
                if bundle is None:
                    raise ProtocolError(
                        f"{accusation.dealer!r} dealt nothing to {name!r}", code="false-accusation"
                    )
                check_accusation(cohort, name, accusation, bundle)
            except ProtocolError as error:
                if error.code != "false-accusation":
                    raise
                # One lie convicts. A refusal may hold thousands of accusations, and checking
                # one takes 6 ms, so a liar's others are not checked.
                self.proven[name] = error.code
                return
            self.proven.setdefault(accusation.dealer, BadShares.code)
        if refusal.code != BadShares.code:
            return
        shown = {accusation.dealer for accusation in refusal.accusations}
        holder = cohort.index(name)
        for culprit in accused:
            bundle = bundles.get(culprit)
            if bundle is None or culprit in shown:
                continue
            # A store gives no evidence about a share without its dealer's signature, since the
            # coordinator may have altered it. This coordinator knows that it did not: the
            # dealer signed the bundle that holds the bad signature, and is guilty.
            dealer = cohort.index(culprit)
            sealed, vouched, digests = bundle.part(dealer, holder)
            if not is_vouched(cohort, dealer, holder, sealed, vouched, digests):
                self.proven.setdefault(culprit, BadSignature.code)


def _reason(code: str, accused: list[str]) -> str:
    if not accused:
        return code
    more = f" and {len(accused) - _NAMED} more" if len(accused) > _NAMED else ""
    return f"{code}: accuses {', '.join(accused[:_NAMED])}{more}"
