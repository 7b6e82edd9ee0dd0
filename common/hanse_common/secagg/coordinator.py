"""The coordinator's side of secure aggregation: a state machine without I/O.

`receive` takes a store's message of the current stage, `advance` closes the stage and returns
the messages of the next one, `finish` returns the sum. A message that is refused changes
nothing: its sender counts as missing.

The checks here serve the coordinator's own interest in a correct sum. Privacy does not depend
on them: the stores check everything that keeps updates hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from hanse_common.errors import MalformedMessage, OutOfTurn, ProtocolError, RoundFailed, WeakKey
from hanse_common.phases import exchange_name
from hanse_common.secagg.complaints import Complaints
from hanse_common.secagg.keys import KEY_SIZE, ExchangeKey, share_key_u
from hanse_common.secagg.masking import Words, add_masks
from hanse_common.secagg.messages import (
    Confirmation,
    Delivery,
    Hello,
    MaskedVector,
    Message,
    Refusal,
    Roster,
    ShareBundle,
    StoreMessage,
    Survivors,
    Unmasking,
    UnmaskRequest,
)
from hanse_common.secagg.outcome import Aggregate, Phase
from hanse_common.secagg.reach import measure
from hanse_common.secagg.reconstruct import leftover_masks, recover
from hanse_common.secagg.roster import Cohort, check_header, check_hello, check_unique, form_cohort
from hanse_common.secagg.terms import Attempt

_PROBE = ExchangeKey(bytes(KEY_SIZE))
"""Every X25519 key detects a key of small order, because their shared secret is zero."""


class Coordinator:
    """The coordinator in one attempt.

    Args:
        attempt: Header, terms, authority and time.
        excluded: Stores that may not take part, such as those blamed in the attempt before.

    Guarantees:
        - `finish` returns the exact sum of the vectors of `Aggregate.survivors`, or raises.
        - A malformed message of one store does not change how another store is treated.
    """

    def __init__(self, attempt: Attempt, *, excluded: frozenset[str] = frozenset()) -> None:
        self.attempt = attempt
        self.phase = Phase.HELLO
        self.missing: dict[str, tuple[str, ...]] = {}
        self._excluded = excluded
        self._complaints = Complaints(attempt.terms.colluders)
        self._hellos: dict[str, Hello] = {}
        self._cohort: Cohort | None = None
        self._indices: dict[str, int] = {}
        self._awaited: set[int] = set()
        self._arrived: set[int] = set()
        self._bundles: dict[int, ShareBundle] = {}
        self._share_digests: dict[int, bytes] = {}
        self._sharers: tuple[int, ...] = ()
        self._survivors: tuple[int, ...] = ()
        self._sum: Words = np.zeros(attempt.terms.layout.length, np.uint32)
        self._signatures: dict[int, bytes] = {}
        self._reports: dict[int, Unmasking] = {}

    @property
    def waiting_for(self) -> frozenset[str]:
        """Stores whose message of this stage has not arrived; empty while in `HELLO`."""
        if self._cohort is None:
            return frozenset()
        left = self._awaited - self._arrived
        return frozenset(self._cohort.ids(sorted(left))) - self.reasons.keys()

    @property
    def reasons(self) -> Mapping[str, str]:
        """By store that left: its error code, and whom it accuses, as text."""
        return self._complaints.reasons

    @property
    def proven(self) -> Mapping[str, str]:
        """By store that is proven to have broken the protocol: the error code.

        `bad-shares` means that it dealt a share that its holder cannot use and signed it,
        `bad-signature` that it dealt a share with an invalid signature, `false-accusation`
        that it accused a dealer of a share that is correct.
        """
        return self._complaints.proven

    @property
    def suspects(self) -> frozenset[str]:
        """Stores about which more stores complained than are assumed to collude."""
        return self._complaints.suspects

    def receive(self, message: StoreMessage) -> None:
        """Check and record a store's message of the current stage.

        Raises:
            OutOfTurn: It belongs to another stage, or the store has sent one already.
            OutOfTurn [wrong-header]: It belongs to another attempt, manifest or model.
            ProtocolError [bad-roster]: The store is not in the roster, answers another roster,
                or shows a key that another store shows.
            WeakKey: A Hello shows a key of small order, or lacks the proof of possession.
            ProtocolError [bad-vector]: A masked vector has the wrong length.
            MalformedMessage: A list does not have the length that the stage needs.
            ProtocolError: A certificate or signature is invalid.
        """
        if isinstance(message, Hello):
            self._receive_hello(message)
            return
        if isinstance(message, Refusal):
            self._receive_refusal(message)
            return
        index, cohort = self._index_of(message), self._require_cohort()
        if isinstance(message, ShareBundle):
            self._take(Phase.SHARE, index, message, lambda: self._keep_bundle(index, message))
        elif isinstance(message, MaskedVector):
            self._take(Phase.MASK, index, message, lambda: self._add_vector(message))
        elif isinstance(message, Confirmation):
            self._take(
                Phase.CONFIRM, index, message, lambda: self._keep_signature(cohort, index, message)
            )
        elif isinstance(message, Unmasking):
            self._take(Phase.UNMASK, index, message, lambda: self._keep_report(index, message))

    def advance(self) -> dict[str, Message]:
        """Close the current stage.

        Returns:
            By store id, the message of the next stage for every store that takes part in it.

        Raises:
            RoundFailed: Too few stores are left; the message lists who was missing when.
            OutOfTurn: The attempt is in its last stage: call `finish`.
        """
        step = {
            Phase.HELLO: self._close_hellos,
            Phase.SHARE: self._close_shares,
            Phase.MASK: self._close_vectors,
            Phase.CONFIRM: self._close_confirmations,
        }.get(self.phase)
        if step is None:
            raise OutOfTurn(f"attempt is at stage {self.phase.name.lower()}, which ends by finish")
        return step()

    def finish(self) -> Aggregate:
        """Remove the masks and return the sum.

        Raises:
            OutOfTurn: The attempt is at another stage.
            RoundFailed: Fewer stores than the threshold gave their shares.
            BadSum [wrong-share]: A secret does not match its commitment; names the culprit.

        Edge cases:
            A sum that honest stores cannot have made is still returned: see
            `Aggregate.excesses`.
        """
        cohort = self._require_cohort()
        if self.phase is not Phase.UNMASK:
            raise OutOfTurn(f"attempt is at stage {self.phase.name.lower()}, not unmask")
        threshold = self.attempt.terms.threshold(len(cohort))
        self._close(threshold)
        self.phase = Phase.DONE
        recovered = recover(
            cohort,
            sharers=self._sharers,
            survivors=self._survivors,
            threshold=threshold,
            reports=self._reports,
            share_digests=self._share_digests,
        )
        plus, minus = leftover_masks(cohort, self._sharers, self._survivors, recovered)
        add_masks(self._sum, plus=plus, minus=minus)
        # Terms admit no cohort whose sum leaves 31 bits, so two's complement is the exact sum.
        total = self._sum.view(np.int32).astype(np.int64)
        return Aggregate(
            total=total,
            survivors=cohort.ids(self._survivors),
            missing=dict(self.missing),
            liars=recovered.liars,
            roster_digest=cohort.roster_digest,
            survivors_digest=cohort.survivors_digest(self._sharers, self._survivors),
            confirmations={
                cohort.peers[index].store_id: signature
                for index, signature in sorted(self._signatures.items())
            },
            excesses=measure(self.attempt.terms.layout, total, len(self._survivors)),
            proven=dict(self.proven),
        )

    def _receive_hello(self, hello: Hello) -> None:
        name = hello.store_id
        check_header(hello.header, self.attempt.header, f"hello of {name!r}")
        if self.phase is not Phase.HELLO:
            raise OutOfTurn(f"hello of {name!r} comes after the roster was closed")
        if name in self._excluded:
            raise ProtocolError(
                f"{name!r} is excluded from this attempt", code="store-excluded", culprits=(name,)
            )
        check_hello(hello, self.attempt)
        if name in self._hellos:
            raise OutOfTurn(f"{name!r} has sent its hello already")
        if len(self._hellos) >= self.attempt.terms.maximum_cohort:
            raise ProtocolError(
                f"the roster is full; {name!r} can join the next round", code="store-excluded"
            )
        # Every store aborts on a roster with a weak or a repeated key: one Hello of that kind
        # would end the attempt for all, so it is refused before the roster is formed.
        for key in (hello.mask_public, share_key_u(hello.share_public)):
            try:
                _PROBE.agree(key)
            except WeakKey as error:
                raise WeakKey(f"{name!r}: {error.message}", culprits=(name,)) from None
        check_unique([*self._hellos.values(), hello])
        self._hellos[name] = hello

    def _receive_refusal(self, refusal: Refusal) -> None:
        name = refusal.store_id
        if refusal.header_digest != self.attempt.header.digest():
            raise OutOfTurn(
                f"refusal of {name!r} belongs to another attempt",
                code="wrong-header",
                culprits=(name,),
            )
        hello = self._hellos.get(name)
        if hello is None:
            raise ProtocolError(
                f"refusal of {name!r}, which has sent no hello", code="bad-roster", culprits=(name,)
            )
        refusal.check_signature(hello.certificate.public_key)
        # `_close_vectors` drops the bundles: from then on evidence cannot be judged here.
        delivered = {index: self._bundles[index] for index in self._sharers if self._bundles}
        self._complaints.take(refusal, self._cohort, delivered)

    def _take(
        self, phase: Phase, index: int, message: StoreMessage, record: Callable[[], None]
    ) -> None:
        name = message.store_id
        if self.phase is not phase:
            raise OutOfTurn(
                f"{type(message).__name__} of {name!r} comes at stage {self.phase.name.lower()}"
            )
        if index in self._arrived:
            raise OutOfTurn(f"{name!r} has sent its {type(message).__name__} already")
        if index not in self._awaited or name in self.reasons:
            raise OutOfTurn(f"{name!r} was lost at an earlier stage", culprits=(name,))
        # Nothing is recorded before the signature is checked, and a store has arrived only
        # after `record` accepted its message: a refused message can be sent once more.
        message.check_signature(self._require_cohort().peers[index].identity)
        record()
        self._arrived.add(index)

    def _index_of(self, message: StoreMessage) -> int:
        name = message.store_id
        if getattr(message, "header_digest", b"") != self.attempt.header.digest():
            raise OutOfTurn(
                f"{type(message).__name__} of {name!r} belongs to another attempt",
                code="wrong-header",
                culprits=(name,),
            )
        cohort, index = self._require_cohort(), self._indices.get(name)
        if index is None:
            raise ProtocolError(
                f"{name!r} is not in the roster", code="bad-roster", culprits=(name,)
            )
        if getattr(message, "roster_digest", b"") != cohort.roster_digest:
            raise ProtocolError(
                f"{name!r} answers another roster", code="bad-roster", culprits=(name,)
            )
        return index

    def _keep_bundle(self, index: int, bundle: ShareBundle) -> None:
        count = len(self._require_cohort())
        sizes = (len(bundle.sealed), len(bundle.vouched), len(bundle.digests))
        if sizes != (count - 1, count - 1, count):
            raise MalformedMessage(
                f"{bundle.store_id!r} has {sizes} sealed shares, signatures and digests, "
                f"expected {(count - 1, count - 1, count)}",
                culprits=(bundle.store_id,),
            )
        self._bundles[index] = bundle

    def _add_vector(self, message: MaskedVector) -> None:
        words = message.words(self._sum.size)
        np.add(self._sum, words, out=self._sum)

    def _keep_signature(self, cohort: Cohort, index: int, message: Confirmation) -> None:
        sharers_digest = cohort.sharers_digest(self._sharers)
        survivors_digest = cohort.survivors_digest(self._sharers, self._survivors)
        if (message.sharers_digest, message.survivors_digest) != (sharers_digest, survivors_digest):
            raise ProtocolError(
                f"{message.store_id!r} confirms other sharers or survivors",
                code="bad-survivors",
                culprits=(message.store_id,),
            )
        self._signatures[index] = message.signature

    def _keep_report(self, index: int, report: Unmasking) -> None:
        seeds, dropped = len(self._survivors), len(self._sharers) - len(self._survivors)
        if (len(report.seed_shares), len(report.mask_key_shares)) != (seeds, dropped):
            raise MalformedMessage(
                f"{report.store_id!r} gives {len(report.seed_shares)} seed shares and "
                f"{len(report.mask_key_shares)} mask-key shares, expected {seeds} and {dropped}",
                culprits=(report.store_id,),
            )
        self._reports[index] = report

    def _close_hellos(self) -> dict[str, Message]:
        # A store that left after its Hello would only be a drop-out of the roster.
        for name in self.reasons:
            self._hellos.pop(name, None)
        hellos = tuple(hello for _, hello in sorted(self._hellos.items()))
        terms = self.attempt.terms
        if len(hellos) < terms.minimum_cohort:
            self.missing["hello"] = tuple(sorted(terms.stores - self._hellos.keys()))
            raise self._failed(len(hellos), terms.minimum_cohort)
        self._cohort = cohort = form_cohort(hellos, self.attempt.header)
        self._indices = {peer.store_id: i for i, peer in enumerate(cohort.peers)}
        self._awaited = set(range(len(cohort)))
        self.phase = Phase.SHARE
        roster = Roster(header_digest=cohort.header_digest, hellos=hellos)
        return dict.fromkeys(self._indices, roster)

    def _close_shares(self) -> dict[str, Message]:
        cohort = self._require_cohort()
        self._sharers = sharers = self._close(self.attempt.terms.survivors(len(cohort)))
        self.phase = Phase.MASK
        messages: dict[str, Message] = {}
        for index in sharers:
            parts = [self._bundles[d].part(d, index) for d in sharers if d != index]
            messages[cohort.peers[index].store_id] = Delivery(
                header_digest=cohort.header_digest,
                roster_digest=cohort.roster_digest,
                sharers=sharers,
                sealed=tuple(sealed for sealed, _, _ in parts),
                vouched=tuple(vouched for _, vouched, _ in parts),
                digests=tuple(digests for _, _, digests in parts),
            )
        # `recover` needs the signed digests in stage 4, when the bundles are gone.
        self._share_digests = {i: b"".join(b.digests) for i, b in self._bundles.items()}
        return messages

    def _close_vectors(self) -> dict[str, Message]:
        cohort = self._require_cohort()
        self._survivors = self._close(self.attempt.terms.survivors(len(cohort)))
        # Bundles are held until now to judge complaints. There are n of them, each with n
        # shares, which is most of what an attempt holds in memory.
        self._bundles.clear()
        self.phase = Phase.CONFIRM
        message = Survivors(
            header_digest=cohort.header_digest,
            roster_digest=cohort.roster_digest,
            survivors=self._survivors,
        )
        return dict.fromkeys(cohort.ids(self._survivors), message)

    def _close_confirmations(self) -> dict[str, Message]:
        cohort = self._require_cohort()
        threshold = self.attempt.terms.threshold(len(cohort))
        confirmed = self._close(threshold)
        self.phase = Phase.UNMASK
        # Stores require no more signatures than the threshold, and each has to check them all.
        signers = confirmed[:threshold]
        message = UnmaskRequest(
            header_digest=cohort.header_digest,
            roster_digest=cohort.roster_digest,
            signers=signers,
            signatures=tuple(self._signatures[index] for index in signers),
        )
        return dict.fromkeys(cohort.ids(confirmed), message)

    def _close(self, needed: int) -> tuple[int, ...]:
        """Close a stage: record who is missing, and continue with those that answered."""
        cohort = self._require_cohort()
        arrived = tuple(sorted(self._arrived))
        lost = cohort.ids(sorted(self._awaited - self._arrived))
        if lost:
            self.missing[self.phase.name.lower()] = lost
        if len(arrived) < needed:
            raise self._failed(len(arrived), needed)
        self._awaited, self._arrived = set(arrived), set()
        return arrived

    def _failed(self, count: int, needed: int) -> RoundFailed:
        header, stage = self.attempt.header, self.phase.name.lower()
        self.phase = Phase.DONE
        lost = "; ".join(
            f"{name}: " + ", ".join(self._with_reason(store) for store in stores)
            for name, stores in self.missing.items()
        )
        return RoundFailed(
            f"attempt {header.attempt} of {exchange_name(header.round)} has {count} stores at "
            f"stage {stage!r}, needed are {needed}; missing: {lost or 'none that is known'}",
            hint="the model is unchanged; check those stores, then start the next round",
            culprits=tuple(sorted(self.suspects | self.proven.keys())),
        )

    def _with_reason(self, store: str) -> str:
        return f"{store} ({self.reasons[store]})" if store in self.reasons else store

    def _require_cohort(self) -> Cohort:
        if self._cohort is None:
            raise OutOfTurn("the roster is not closed yet")
        return self._cohort

    def __repr__(self) -> str:
        return f"Coordinator({self.attempt.header.round}, {self.phase.name})"
