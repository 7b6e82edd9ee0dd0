"""The one guard of an enrolled store: what every message passes before any data is touched.

A store answers the message types of one table (`hanse_client.app.ACTIONS`) and refuses all
others in one sentence. A message on the list passes, in this order: the run's code bundle; the
manifest's signature and the store's own policy; the form of the message; what the manifest and
the policy still grant; the round log; every name, shape, setting, split and model in it against
the manifest; the store's decision to leave; the journal of attempts. What a check
refuses says nothing about customers, as no check looks at any.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache

from flwr.app import ArrayRecord, ConfigRecord, Message

from hanse_client.deployment.code_bundle import Bundle, check_bundle
from hanse_client.deployment.leave import check_staying
from hanse_client.enrolment import Enrolment
from hanse_client.node import Node
from hanse_client.rounds.secure_exchange import SecureExchange
from hanse_client.rounds.witness import Witness
from hanse_common.config import RunSettings
from hanse_common.decoding import decoding
from hanse_common.errors import ConfigError, OutOfTurn, PolicyViolation, ProtocolError
from hanse_common.instructions import MESSAGE, Instructions, Kind, NDArray
from hanse_common.manifest_terms import check_base_model, check_instructions, grant_of, plan_of
from hanse_common.privacy.charge import Charge
from hanse_common.secagg import Header

DESCRIBE = "query.describe"
OPENING: Mapping[str, Kind] = {"train": "train", "evaluate": "evaluate"}
"""Message types that begin an exchange, stage 0; the others go on with one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """An exchange that the store may begin: told by the coordinator, allowed by the terms."""

    instructions: Instructions
    settings: RunSettings
    arrays: Mapping[str, NDArray]
    header: Header
    charge: Charge | None
    """What the upload will be charged; None where there is no privacy to account for."""
    cosignature: bytes | None
    """Of the round log's checkpoint; None if the manifest names no log."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Admitted:
    """A message that passed; `order` at stage 0, `data` at the stages after it."""

    node: Node
    enrolment: Enrolment
    order: Order | None = None
    data: bytes = b""

    @property
    def exchange(self) -> SecureExchange:
        """The store's side of secure aggregation."""
        return SecureExchange(self.node, self.enrolment)


def admit(
    message: Message, node: Node, *, answered: Collection[str], bundle: Bundle | None = None
) -> Admitted:
    """Let a message through, or say why not; no customer's data is looked at.

    Args:
        message: From the coordinator.
        node: The store; read from its folder for this message.
        answered: Message types that the store answers at all.
        bundle: The app bundle of the run that the message belongs to; None on an engine that
            has none.

    Raises:
        ProtocolError [not-answered]: The message's type is not on the list.
        PolicyViolation [foreign-code]: The run's bundle is not the one that the manifest names.
        BadManifest: The terms are altered, or signed by somebody else than the authority.
        PolicyViolation: The terms go beyond the store's policy, or the message beyond the terms.
        ConfigError: The message lacks an entry, or has one too many or of another type.
        ProtocolError [store-left]: The store takes part in no round as late as this.
        BudgetSpent: The manifest grants no such exchange any more, or the policy no such cost.
        RoundLogError [log-forked]: The exchange is not announced in the round log that this store
            knows.
        ProtocolError [attempt-refused]: The attempt, or a later one, was made before.
        OutOfTurn: The store has begun no exchange that the message could go on with.
    """
    kind = message.metadata.message_type
    if kind not in answered or node.enrolment is None:
        raise ProtocolError("this store does not answer such messages", code="not-answered")
    enrolment = node.enrolment
    check_bundle(bundle, enrolment.manifest)
    if kind == DESCRIBE:
        _records(message)
        check_staying(node.folder, 0)
        return Admitted(node=node, enrolment=enrolment)
    if kind in OPENING:
        order = _opening(message, node, enrolment, OPENING[kind])
        return Admitted(node=node, enrolment=enrolment, order=order)
    return Admitted(node=node, enrolment=enrolment, data=_going_on(message, node, enrolment))


def _opening(message: Message, node: Node, enrolment: Enrolment, kind: Kind) -> Order:
    """Stage 0: may the store begin this exchange?"""
    manifest = enrolment.manifest
    _records(message, "arrays", "config")
    arrays, config = _arrays(message), _config(message)
    instructions = Instructions.read(dict(config), arrays, kind=kind)
    exchange = SecureExchange(node, enrolment)
    header = instructions.header(manifest.digest())
    charge = _charge(enrolment, kind, header, instructions.round)
    if charge is not None:
        budget = enrolment.policy.budget
        node.check_affordable(charge, budget=budget, grant=grant_of(manifest))
    cosignature = Witness(node, enrolment).cosign(instructions)
    settings = _settings(instructions.settings)
    check_instructions(instructions, settings, arrays, manifest)
    # Only now is the round one that the run has: an invented one must not close the door.
    check_staying(node.folder, instructions.round)
    # Messages carry what is trained; all else must be what every store has.
    check_base_model(node.settings.base_model, manifest)
    exchange.admit(header)
    return Order(
        instructions=instructions,
        settings=settings,
        arrays=arrays,
        header=header,
        charge=charge,
        cosignature=cosignature,
    )


def _going_on(message: Message, node: Node, enrolment: Enrolment) -> bytes:
    """Stages 1 to 4: is there an exchange that they go on with?"""
    _records(message, "config")
    config = _config(message)
    data = config.get(MESSAGE)
    if set(config) != {MESSAGE} or not isinstance(data, bytes):
        raise ConfigError("the message does not carry the bytes of the protocol, and those alone")
    waiting = SecureExchange(node, enrolment).current()
    if waiting is None:
        raise OutOfTurn("this store has no update waiting to be masked")
    check_staying(node.folder, waiting.number)
    return data


def _charge(enrolment: Enrolment, kind: Kind, header: Header, number: int) -> Charge | None:
    """What the manifest says that an exchange costs; what the message says is no matter."""
    plan = plan_of(enrolment.manifest)
    if plan is None:
        return None
    charge = plan.round_charge() if kind == "train" else plan.evaluation_charge()
    if charge is None:
        raise PolicyViolation(
            "the coordinator asks for evaluation sums, the manifest says that none leave a store",
            hint="nothing was evaluated or sent",
        )
    return charge.of(
        run=header.run,
        round=number,
        exchange=header.round,
        attempt=header.attempt,
        manifest_digest=header.manifest_digest,
        instructions_digest=header.model_digest,
    )


def _records(message: Message, *names: str) -> None:
    if set(message.content) != set(names):
        raise ConfigError(f"the message does not hold the records {list(names)}, and those alone")


def _config(message: Message) -> ConfigRecord:
    record = message.content["config"]
    if not isinstance(record, ConfigRecord):
        raise ConfigError("the message carries no configuration")
    return record


def _arrays(message: Message) -> dict[str, NDArray]:
    record = message.content["arrays"]
    if not isinstance(record, ArrayRecord):
        raise ConfigError("the message carries no model")
    with decoding("the message's model", ConfigError):
        return {name: array.numpy() for name, array in record.items()}


@lru_cache(maxsize=4)
def _settings(text: str) -> RunSettings:
    return RunSettings.from_json(text)
