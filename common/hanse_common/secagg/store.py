"""A store's side of secure aggregation: a state machine without I/O.

Each method takes the coordinator's message of one stage and returns the store's reply:
`Store.start` (stage 0), `share` (1), `accept` and `mask` (2), `confirm` (3), `unmask` (4).
Between two of them `encode` and `Store.resume` carry the state over.

A message out of turn, or of another attempt, is refused and changes nothing. A message that
fails any other check ends the attempt: secrets are wiped, and the only further message is a
signed Refusal, with evidence where a share was dealt wrongly.

The protocol is that of Bonawitz et al. 2017, figure 4 (complete graph, active adversary), with
certified identities, a header bound into every derivation, and commitments to every secret.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

import numpy as np

from hanse_common.errors import BadShares, MalformedMessage, OutOfTurn, ProtocolError
from hanse_common.identity import SIGNATURE_SIZE, Certificate, StoreKey
from hanse_common.phases import exchange_name
from hanse_common.secagg import keys
from hanse_common.secagg.dealing import deal, evidence, mask_keys, open_all
from hanse_common.secagg.journal import Journal
from hanse_common.secagg.keys import ExchangeKey, Secret, ShareKey
from hanse_common.secagg.layout import Integers
from hanse_common.secagg.masking import add_masks
from hanse_common.secagg.messages import (
    Accusation,
    Confirmation,
    Delivery,
    Hello,
    MaskedVector,
    Refusal,
    Roster,
    ShareBundle,
    Survivors,
    Unmasking,
    UnmaskRequest,
)
from hanse_common.secagg.roster import Cohort, check_member, check_roster
from hanse_common.secagg.stage import Stage
from hanse_common.secagg.state import StoreState
from hanse_common.secagg.terms import Attempt

_Entropy = Callable[[int], bytes]


class Store:
    """One store in one attempt.

    Guarantees:
        - Nothing about the update leaves before a certified roster of at least
          `minimum_cohort` stores has exchanged shares in this attempt.
        - Per peer at most one share leaves: of its seed or of its mask key, never both.
        - No share leaves before `threshold` survivors have signed one list of survivors
          that holds this store and at least `terms.survivors` of the sharers.
        - After `unmask`, or any failed check, no secret is left, and the journal admits
          no further attempt on a round whose shares were released.
        - No step is taken twice in one attempt, even from a restored state, unless its
          journal and the journal's mark were restored as well.
    """

    def __init__(
        self,
        attempt: Attempt,
        state: StoreState,
        *,
        key: StoreKey,
        journal: Journal,
        entropy: _Entropy = os.urandom,
    ) -> None:
        self.attempt = attempt
        self.journal = journal
        self._state = state
        self._key = key
        self._entropy = entropy
        self._accusations: tuple[Accusation, ...] = ()

    @classmethod
    def start(
        cls,
        attempt: Attempt,
        *,
        key: StoreKey,
        certificate: Certificate,
        journal: Journal,
        entropy: _Entropy = os.urandom,
    ) -> Self:
        """Stage 0: begin an attempt with fresh keys; `hello` is the message to send.

        Args:
            attempt: Header, terms, authority and time, as this store holds them.
            key: The store's identity.
            certificate: The authority's certificate of that identity.
            journal: The attempts so far; store `self.journal` before sending.
            entropy: Cryptographic source of random bytes.

        Raises:
            ProtocolError [attempt-refused]: The journal does not admit the attempt, or the exchange
                was begun as often as the terms allow.
            ProtocolError [bad-certificate]: The certificate is not for this key, or not the
                authority's.
            ExpiredCertificate: The certificate is not valid now.
            ProtocolError [store-excluded]: The manifest does not list this store.
        """
        if certificate.public_key != key.public:
            raise ProtocolError(
                f"certificate of {certificate.store_id!r} is for another key than this store's",
                code="bad-certificate",
                hint="enrol this key, or use the key that was enrolled",
            )
        # Before the journal: an attempt that cannot begin must not count as an opening.
        check_member(certificate, attempt)
        admitted = journal.admit(attempt.header, max_openings=attempt.terms.max_openings)
        mask_key = ExchangeKey(entropy(keys.KEY_SIZE))
        share_key = ShareKey(entropy(keys.KEY_SIZE))
        seed = entropy(keys.KEY_SIZE)
        header_digest = attempt.header.digest()
        hello = Hello(
            header=attempt.header,
            certificate=certificate,
            mask_public=mask_key.public,
            share_public=share_key.public,
            possession=share_key.prove_possession(header_digest, certificate.store_id),
            commitment=keys.seed_commitment(seed, header_digest, certificate.store_id),
        ).sign(key)
        state = StoreState(Stage.GREETED, hello, mask_key, share_key, Secret(seed))
        return cls(attempt, state, key=key, journal=admitted, entropy=entropy)

    @classmethod
    def resume(
        cls,
        attempt: Attempt,
        state: bytes,
        *,
        key: StoreKey,
        journal: Journal,
        charged: bool = False,
        entropy: _Entropy = os.urandom,
    ) -> Self:
        """Continue from an encoded state.

        Args:
            attempt: As for `start`.
            state: The output of `encode`.
            key: The store's identity.
            journal: As it was stored last, after `Journal.caught_up` with its mark.
            charged: Whether the ledger has an entry for this attempt: its vector was
                masked, or was about to be.
            entropy: Cryptographic source of random bytes.

        Raises:
            OutOfTurn [wrong-header]: The state belongs to another attempt.
            ProtocolError [attempt-refused]: The journal has a later attempt or another stage of
                this one, or the ledger has charged a vector that this state would mask.
            MalformedMessage: The bytes are not a store's state.

        Edge cases:
            A crash between the charge and the masked vector looks like a state from a
            backup, and is refused like one: the store is missing in this attempt.
        """
        restored = StoreState.decode(state)
        if restored.hello.header != attempt.header:
            raise OutOfTurn("the stored state belongs to another attempt", code="wrong-header")
        # A finished or aborted state holds no secret, and the journal does not record aborts.
        if restored.stage < Stage.FINISHED:
            journal.check_current(attempt.header, restored.stage)
        # The ledger is a second witness: journal and state may be from one backup.
        if charged and restored.stage < Stage.MASKED:
            raise ProtocolError(
                f"the vector of attempt {attempt.header.attempt} of "
                f"{exchange_name(attempt.header.round)} is charged already, and this state "
                f"would mask it",
                code="attempt-refused",
                hint="no mask is used twice; continue with the next attempt",
            )
        return cls(attempt, restored, key=key, journal=journal, entropy=entropy)

    @property
    def store_id(self) -> str:
        """The store's id."""
        return self._state.hello.store_id

    @property
    def stage(self) -> Stage:
        """The last step that the store completed."""
        return self._state.stage

    @property
    def hello(self) -> Hello:
        """The store's message of stage 0."""
        return self._state.hello

    @property
    def roster_digest(self) -> bytes | None:
        """The roster's digest; None before stage 1."""
        cohort = self._state.cohort
        return None if cohort is None else cohort.roster_digest

    def encode(self) -> bytes:
        """Return the state between stages; secret. Store it before sending the reply."""
        return self._state.encode()

    def share(self, roster: Roster) -> ShareBundle:
        """Stage 1: check every Hello and deal shares of the mask key and the seed.

        Raises:
            OutOfTurn: The store is not at stage 1.
            OutOfTurn [wrong-header]: A Hello is of another attempt, manifest or model.
            ProtocolError [bad-roster]: Ids or keys are not sorted and unique, this store's own
                entry is altered, or a store shows a key that was seen to be replaced.
            ProtocolError [cohort-too-small]: There are fewer stores than the manifest allows.
            WeakKey: A public key has small order, or its store does not prove that it
                holds it.
            ProtocolError: A certificate or signature is invalid.
        """
        self._expect(Stage.GREETED, roster.header_digest)
        with self._abort_on_failure():
            cohort = check_roster(roster.hellos, self.attempt)
            # Compared as a whole: with other keys under this id, the peers would seal their
            # shares for somebody else.
            if self._state.hello not in roster.hellos:
                raise ProtocolError(
                    f"roster lacks {self.store_id!r}'s own hello, or alters it", code="bad-roster"
                )
            # After `check_roster`: only valid certificates may enter the journal.
            self.journal = self.journal.meet(hello.certificate for hello in roster.hellos)
            dealt = deal(
                self._state,
                cohort,
                cohort.index(self.store_id),
                threshold=self.attempt.terms.threshold(len(cohort)),
                key=self._key,
                entropy=self._entropy,
            )
            self._state.cohort = cohort
            self._reach(Stage.SHARED)
            return ShareBundle(
                header_digest=cohort.header_digest,
                roster_digest=cohort.roster_digest,
                store_id=self.store_id,
                sealed=dealt.sealed,
                vouched=dealt.vouched,
                digests=dealt.digests,
            ).sign(self._key)

    def accept(self, delivery: Delivery) -> None:
        """Stage 2, first half: open and check the shares that the others dealt.

        After it returns, charge the round to the ledger, then call `mask`.

        Raises:
            OutOfTurn: The store is not at stage 2.
            OutOfTurn [wrong-header]: The message is of another attempt.
            ProtocolError [bad-roster]: The sharers are not of the roster, or lack this store.
            ProtocolError [cohort-too-small]: There are too few sharers.
            BadShares: Shares do not open or do not match their digests; `culprits` lists
                their dealers (or the coordinator altered them), and `refuse` returns evidence
                against those that signed what they dealt.
        """
        self._expect(Stage.SHARED, delivery.header_digest)
        with self._abort_on_failure():
            cohort, own = self._cohort(delivery.roster_digest)
            sharers = delivery.sharers
            # Decoded indices increase, so the last one is the largest.
            if own not in sharers or sharers[-1] >= len(cohort):
                raise ProtocolError(
                    f"sharers lack {self.store_id!r} or hold an outsider", code="bad-roster"
                )
            self._check_size(len(sharers), "sharers")
            wrong = open_all(self._state, cohort, own, delivery)
            if wrong:
                # Now: leaving this block by an error wipes the share key that proves it.
                self._accusations = evidence(
                    self._state, cohort, own, delivery, wrong, entropy=self._entropy
                )
                names = cohort.ids(wrong)
                raise BadShares(
                    f"shares from {', '.join(names)} do not open or do not match",
                    hint="nothing was sent; the round can go on without them",
                    culprits=names,
                )
            # No share is opened or disputed after this one, so its keys go.
            self._state.wipe_channels()
            self._state.sharers = sharers
            self._reach(Stage.ACCEPTED)

    def mask(self, vector: Integers) -> MaskedVector:
        """Stage 2, second half: add the masks to the vector. Charge the ledger first.

        Args:
            vector: Quantised integers of shape `(terms.layout.length,)`, within the layout's
                bounds.

        Raises:
            OutOfTurn: Shares were not accepted, or a vector was masked already.
            ProtocolError [bad-vector]: Shape, type or bounds are wrong.
        """
        self._expect(Stage.ACCEPTED)
        with self._abort_on_failure():
            self.attempt.terms.layout.check(vector)
            cohort, own = self._cohort()
            plus, minus = mask_keys(self._state, cohort, own)
            # The cast takes negative integers modulo 2^32, as the protocol defines.
            words = vector.astype(np.uint32)
            add_masks(words, plus=plus, minus=minus)
            # Wiped before the vector leaves: this state can mask no second one.
            self._state.wipe_own()
            self._reach(Stage.MASKED)
            return MaskedVector(
                header_digest=cohort.header_digest,
                roster_digest=cohort.roster_digest,
                store_id=self.store_id,
                body=words.astype("<u4", copy=False).tobytes(),
            ).sign(self._key)

    def confirm(self, survivors: Survivors) -> Confirmation:
        """Stage 3: sign one list of survivors, once.

        Raises:
            OutOfTurn: The store is not at stage 3.
            OutOfTurn [wrong-header]: The message is of another attempt.
            ProtocolError [bad-survivors]: The list lacks this store or holds one that did not
                share.
            ProtocolError [cohort-too-small]: There are too few survivors.
        """
        self._expect(Stage.MASKED, survivors.header_digest)
        with self._abort_on_failure():
            cohort, own = self._cohort(survivors.roster_digest)
            if own not in survivors.survivors:
                raise ProtocolError(
                    f"survivors lack {self.store_id!r}, which sent its vector", code="bad-survivors"
                )
            outsiders = set(survivors.survivors) - set(self._state.sharers)
            if outsiders:
                raise ProtocolError(
                    f"survivors hold indices {sorted(outsiders)}, not sharers", code="bad-survivors"
                )
            self._check_size(len(survivors.survivors), "survivors")
            # A second list would let a coordinator ask for both shares of one peer. Two lists
            # have at least 2t - n > C signers in common, so an honest one would sign twice.
            self._state.survivors = survivors.survivors
            self._reach(Stage.CONFIRMED)
            return self._confirmation(cohort, self.store_id).sign(self._key)

    def unmask(self, request: UnmaskRequest) -> Unmasking:
        """Stage 4: release one share per sharer, if enough survivors signed the same list.

        Store `self.journal` before sending the reply. From then on `encode` holds no secret.

        Raises:
            OutOfTurn: The store is not at stage 4.
            OutOfTurn [wrong-header]: The message is of another attempt.
            ProtocolError [too-few-confirmations]: Fewer survivors signed than the threshold.
            BadSignature: A signature is not over this store's view of roster, U2 and U3.
        """
        self._expect(Stage.CONFIRMED, request.header_digest)
        with self._abort_on_failure():
            cohort, _ = self._cohort(request.roster_digest)
            threshold = self.attempt.terms.threshold(len(cohort))
            # As sets, so that a signer that is listed twice does not count twice.
            signers = set(request.signers) & set(self._state.survivors)
            if len(signers) < len(request.signers) or len(signers) < threshold:
                raise ProtocolError(
                    f"{len(signers)} of {len(request.signers)} confirmations are of survivors, "
                    f"threshold is {threshold}",
                    code="too-few-confirmations",
                    hint="no share was released; the round can be tried once more",
                )
            if len(request.signatures) != len(request.signers):
                raise MalformedMessage("there is not one signature for each confirmation")
            # The message is rebuilt from this store's own state: a signature over another
            # roster, U2 or U3 does not verify.
            for index, signature in zip(request.signers, request.signatures, strict=True):
                peer = cohort.peers[index]
                self._confirmation(cohort, peer.store_id, signature).check_signature(peer.identity)
            seed_shares, mask_key_shares = self._state.released_shares()
            reply = Unmasking(
                header_digest=cohort.header_digest,
                roster_digest=cohort.roster_digest,
                store_id=self.store_id,
                seed_shares=seed_shares,
                mask_key_shares=mask_key_shares,
            ).sign(self._key)
            self._reach(Stage.FINISHED)
            self._state.wipe()
            return reply

    def refuse(self, error: ProtocolError) -> Refusal:
        """Leave the attempt: wipe all secrets and return the message for the coordinator.

        If `accept` failed, the message holds the evidence that it made.
        """
        self.abort()
        return Refusal(
            header_digest=self.attempt.header.digest(),
            store_id=self.store_id,
            code=error.code,
            culprits=tuple(sorted(set(error.culprits))),
            accusations=self._accusations,
        ).sign(self._key)

    def abort(self) -> None:
        """Wipe all secrets; every later message is refused."""
        self._state.wipe()
        self._state.stage = Stage.ABORTED

    def __repr__(self) -> str:
        return f"Store({self.store_id!r}, {self.stage.name})"

    def _expect(self, stage: Stage, header_digest: bytes | None = None) -> None:
        # Called outside of `_abort_on_failure`: otherwise a message that is replayed from
        # another attempt would end this one.
        if header_digest is not None and header_digest != self.attempt.header.digest():
            raise OutOfTurn(
                f"message is of another run, round, attempt, manifest or model than "
                f"{self.store_id!r} takes part in",
                code="wrong-header",
            )
        if self.stage is not stage:
            raise OutOfTurn(
                f"{self.store_id!r} has {self.stage.name.lower()}; this message is for one "
                f"that has {stage.name.lower()}"
            )

    def _reach(self, stage: Stage) -> None:
        # The journal first: if it refuses, the state must not have moved.
        self.journal = self.journal.reach(self.attempt.header, stage)
        self._state.stage = stage

    @contextmanager
    def _abort_on_failure(self) -> Iterator[None]:
        try:
            yield
        # An interrupt too: a step that stopped halfway must not be repeated with its secrets.
        except BaseException:
            self.abort()
            raise

    def _cohort(self, roster_digest: bytes | None = None) -> tuple[Cohort, int]:
        cohort = self._state.cohort
        if cohort is None:
            raise OutOfTurn(f"{self.store_id!r} has no roster")
        if roster_digest is not None and roster_digest != cohort.roster_digest:
            raise ProtocolError(
                "message is for another roster than this store was shown",
                code="bad-roster",
                hint="the coordinator showed different rosters to different stores",
            )
        return cohort, cohort.index(self.store_id)

    def _check_size(self, count: int, name: str) -> None:
        cohort, _ = self._cohort()
        needed = self.attempt.terms.survivors(len(cohort))
        if count < needed:
            raise ProtocolError(
                f"{count} {name} in a roster of {len(cohort)}, needed are {needed}",
                code="cohort-too-small",
                hint="nothing was revealed; the round can be tried once more",
            )

    def _confirmation(
        self, cohort: Cohort, store_id: str, signature: bytes = bytes(SIGNATURE_SIZE)
    ) -> Confirmation:
        return Confirmation(
            header_digest=cohort.header_digest,
            roster_digest=cohort.roster_digest,
            sharers_digest=cohort.sharers_digest(self._state.sharers),
            survivors_digest=cohort.survivors_digest(self._state.sharers, self._state.survivors),
            store_id=store_id,
            signature=signature,
        )
