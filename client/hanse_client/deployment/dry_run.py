"""`hanse store join --dry-run`: the messages and the privacy cost of a round, without sending.

The protocol's own encoders write the messages from the signed terms and the store's certificate,
with zeros in place of keys, shares and masked numbers. Nothing is trained, charged or written to
disk, and the server is not contacted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hanse_client.deployment.enrol import check_membership, check_settings
from hanse_client.deployment.folder import StoreFolder
from hanse_client.enrolment import Enrolment
from hanse_common.codec import DIGEST_SIZE
from hanse_common.config import RunSettings
from hanse_common.identity import SIGNATURE_SIZE
from hanse_common.manifest import Manifest
from hanse_common.paths import LEDGER_FILE
from hanse_common.phases import TRAIN
from hanse_common.privacy.accounting import epsilon
from hanse_common.privacy.ledger import Ledger
from hanse_common.privacy.plan import PrivacyPlan
from hanse_common.secagg.keys import KEY_SIZE
from hanse_common.secagg.messages import (
    DIGESTS_SIZE,
    SEALED_SIZE,
    Confirmation,
    Hello,
    MaskedVector,
    ShareBundle,
    StoreMessage,
    Unmasking,
)
from hanse_common.secagg.shamir import SHARE_SIZE
from hanse_common.secagg.terms import Header

_DIGEST = bytes(DIGEST_SIZE)
"""Stands for digests whose value is known in a round only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One message of a round.

    Args:
        stage: Stage of secure aggregation.
        size: Bytes of the protocol's message; Flower adds a few hundred.
        content: Description of its content.
    """

    stage: str
    size: int
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One part of the masked vector.

    Args:
        name: Name of the section, and of its phase if that releases statistics.
        length: Number of coordinates.
        clip: Largest L2 norm of this store's section, in the model's units.
        noise: Standard deviation of the noise that this store adds to each coordinate, in the
            same units; None where noise is added before quantisation, or not at all.
    """

    name: str
    length: int
    clip: float
    noise: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """The messages, the masked vector's sections and the privacy cost of a round."""

    messages: tuple[Part, ...]
    sections: tuple[Section, ...]
    cost: dict[str, Any]


def preview(folder: StoreFolder) -> Preview:
    """Preview a training round with all stores of the manifest.

    Raises:
        StoreNotReady: Something has not come back yet.
        HanseError: See `check_membership`.
    """
    enrolment, settings = check_membership(folder), folder.settings()
    check_settings(folder, settings)
    manifest = enrolment.manifest
    return Preview(
        messages=messages(enrolment, len(manifest.stores)),
        sections=tuple(
            Section(
                name=part.name if phase.name == TRAIN else f"{part.name} of {phase.name}",
                length=part.length,
                clip=part.clip,
                noise=part.noise_variance**0.5 / part.scale if part.noise_variance else None,
            )
            for phase in manifest.schedule.all
            for part in manifest.sections_of(phase.name)
        ),
        cost=_cost(folder, enrolment, settings, manifest),
    )


def messages(enrolment: Enrolment, count: int) -> tuple[Part, ...]:
    """The messages of a training round among `count` stores without drop-outs."""
    manifest, certificate = enrolment.manifest, enrolment.certificate
    header = Header(
        run=0,
        round=3,  # any number: its encoding has a fixed size
        attempt=1,
        manifest_digest=manifest.digest(),
        model_digest=_DIGEST,
    )
    length = max(manifest.terms(phase.name).layout.length for phase in manifest.schedule.all)
    releases = "update, counts and losses"
    if manifest.schedule.statistics:
        releases = "an update, or a sum of statistics; the most of all phases"
    about: dict[str, Any] = {
        "header_digest": _DIGEST,
        "roster_digest": _DIGEST,
        "store_id": certificate.store_id,
    }
    hello = Hello(
        header=header,
        certificate=certificate,
        mask_public=bytes(KEY_SIZE),
        share_public=bytes(KEY_SIZE),
        possession=bytes(SIGNATURE_SIZE),
        commitment=_DIGEST,
    )
    shares = ShareBundle(
        sealed=(bytes(SEALED_SIZE),) * (count - 1),
        vouched=(bytes(SIGNATURE_SIZE),) * (count - 1),
        digests=(bytes(DIGESTS_SIZE),) * count,
        **about,
    )
    # Masked numbers are 32-bit words.
    vector = MaskedVector(body=bytes(4 * length), **about)
    confirmation = Confirmation(sharers_digest=_DIGEST, survivors_digest=_DIGEST, **about)
    unmasking = Unmasking(seed_shares=(bytes(SHARE_SIZE),) * count, mask_key_shares=(), **about)
    return (
        _part("hello", hello, "certificate, fresh public keys, the log cosigned; it has trained"),
        _part("share", shares, f"its secrets in shares, one sealed for each of {count - 1} others"),
        _part("mask", vector, f"{length:,} masked numbers: {releases}; charged"),
        _part("confirm", confirmation, "its signature on who is in the sum"),
        _part("unmask", unmasking, "one share a store, so that the masks of the sum come off"),
    )


def _part(stage: str, message: StoreMessage, content: str) -> Part:
    return Part(stage=stage, size=len(message.encode()), content=content)


def _cost(
    folder: StoreFolder, enrolment: Enrolment, settings: RunSettings, manifest: Manifest
) -> dict[str, Any]:
    plan, policy = PrivacyPlan.from_settings(settings), enrolment.policy
    if plan is None:
        return {"mode": manifest.privacy.mode, "epsilon of a round": None}
    spent = Ledger.open(folder.path / LEDGER_FILE, enrolment.key).spent()
    delta, phases = plan.target_delta, [phase.name for phase in plan.schedule.all]
    steps = {name: charge.steps for name in phases if (charge := plan.charge(name)) is not None}
    step = steps[phases[-1]]
    return {
        "mode": plan.mode,
        "delta": delta,
        **{
            f"epsilon of one round{'' if name == TRAIN else f' of {name}'} alone": epsilon(
                [one], target_delta=delta
            )
            for name, one in steps.items()
        },
        "epsilon spent ever": epsilon(spent, target_delta=delta) if spent else 0.0,
        "epsilon after this round": epsilon([*spent, step], target_delta=delta),
        "epsilon of all rounds": plan.epsilon_after(rounds=manifest.rounds),
        "epsilon with every spare exchange": plan.granted_epsilon,
        "limit of the policy": policy.max_epsilon,
        "rounds of the manifest": manifest.rounds,
    }
