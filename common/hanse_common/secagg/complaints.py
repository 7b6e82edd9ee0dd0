"""What stores say of each other when they leave, and what of it is proven.

A complaint with evidence needs no second one: either the accused dealer is guilty, or the
accuser is. Complaints without it are counted: more than may collude make a suspect.
"""

from __future__ import annotations

from collections.abc import Mapping

from hanse_common.errors import BadShares, BadSignature, ProtocolError
from hanse_common.secagg.dispute import check_accusation, is_vouched
from hanse_common.secagg.messages import Refusal, ShareBundle
from hanse_common.secagg.roster import Cohort

_NAMED = 3
"""Accused stores that a reason names; there may be thousands."""


class Complaints:
    """Reasons, complaints and verdicts of one attempt.

    Args:
        colluders: Stores that may lie together.
    """

    def __init__(self, colluders: int) -> None:
        self.reasons: dict[str, str] = {}
        """Error codes that stores gave when they left, with the stores that they accuse."""
        self.proven: dict[str, str] = {}
        """Stores that are proven to have broken the protocol, by error code."""
        self._colluders = colluders
        self._by_accused: dict[str, set[str]] = {}

    @property
    def suspects(self) -> frozenset[str]:
        """Stores that more others complained about than may collude."""
        return frozenset(who for who, by in self._by_accused.items() if len(by) > self._colluders)

    def take(
        self, refusal: Refusal, cohort: Cohort | None, delivered: Mapping[int, ShareBundle]
    ) -> None:
        """Note a refusal whose signature was checked, and judge what can be judged of it.

        Args:
            refusal: Of a store that sent a Hello.
            cohort: The roster, once it is closed.
            delivered: What the sharers dealt, by roster index, while it is being opened.

        Edge cases:
            A store leaves once: what it says afterwards is not listened to. Evidence that
            comes when nothing was delivered yet, or is kept no longer, is a complaint.
        """
        name = refusal.store_id
        if name in self.reasons:
            return
        accused = [culprit for culprit in refusal.culprits if culprit != name]
        self.reasons[name] = _reason(refusal.code, accused)
        for culprit in accused:
            self._by_accused.setdefault(culprit, set()).add(name)
        # Only those who were delivered something can have found it wrong.
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
                if bundle is None:
                    raise ProtocolError(
                        f"{accusation.dealer!r} dealt nothing to {name!r}", code="false-accusation"
                    )
                check_accusation(cohort, name, accusation, bundle)
            except ProtocolError as error:
                if error.code != "false-accusation":
                    raise
                # The first lie is enough: each costs the coordinator milliseconds.
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
            # A store shows nothing about a share that its dealer did not sign for it. That
            # is the dealer's fault as well: it signed the bundle with the bad signature.
            dealer = cohort.index(culprit)
            sealed, vouched, digests = bundle.part(dealer, holder)
            if not is_vouched(cohort, dealer, holder, sealed, vouched, digests):
                self.proven.setdefault(culprit, BadSignature.code)


def _reason(code: str, accused: list[str]) -> str:
    if not accused:
        return code
    more = f" and {len(accused) - _NAMED} more" if len(accused) > _NAMED else ""
    return f"{code}: accuses {', '.join(accused[:_NAMED])}{more}"
