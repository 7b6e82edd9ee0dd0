"""The guard of an enrolled store: the checks of every message before any data is touched.

A store answers the message types of one table (`hanse_client.app.ACTIONS`) and refuses all
others with one constant sentence. A message of these types is checked in this order
(docs/privacy.md, *What a store answers*): the run's code bundle; the manifest's signature and
the store's own policy; the form of the message; what the manifest and the policy still grant;
the round log; every name, shape, setting, split and model against the manifest; the store's
decision to leave; the journal of attempts. No check looks at customers, so that a refusal says
nothing about them.
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
"""Message types that begin an exchange (stage 0); all others continue one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """An exchange that the coordinator ordered and that the terms allow the store to begin."""

    instructions: Instructions
    settings: RunSettings
    arrays: Mapping[str, NDArray]
    header: Header
    kind: str
    """`train`, `evaluate`, or the name of the phase whose statistics are ordered."""
    charge: Charge | None
    """The privacy charge of the upload; None without differential privacy."""
    cosignature: bytes | None
    """The store's signature on the round log's checkpoint; None if the manifest names no log."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Admitted:
    """A message that passed all checks, with `order` at stage 0 and `data` at later stages."""

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
    """Check a message before any customer's data is read.

    Args:
        message: The coordinator's message.
        node: The store.
        answered: The message types that the store answers.
        bundle: The app bundle of the message's run; None on an engine without bundles.

    Returns:
        The message's checked content.

    Raises:
        ProtocolError [not-answered]: The message's type is not on the list.
        PolicyViolation [foreign-code]: The run's bundle is not the one that the manifest names.
        BadManifest: The terms are altered, or not signed by the pinned authority.
        PolicyViolation: The terms go beyond the store's policy, or the message beyond the terms.
        ConfigError: The message lacks an entry, or has one too many or of another type.
        ProtocolError [store-left]: The operator decided to leave before this round.
        BudgetSpent: The exchange would exceed the manifest's grant or the policy's budget.
        RoundLogError [log-forked]: The exchange is not announced in the round log that this store
            knows.
        ProtocolError [attempt-refused]: The attempt, or a later one, was made before.
        OutOfTurn: The store has begun no exchange that the message could continue.
    """
    kind = message.metadata.message_type
    # A constant sentence, which repeats nothing of what the sender wrote.
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
    """Check an order to begin an exchange (stage 0)."""
    manifest = enrolment.manifest
    _records(message, "arrays", "config")
    arrays, config = _arrays(message), _config(message)
    instructions = Instructions.read(dict(config), arrays, kind=kind)
    exchange = SecureExchange(node, enrolment)
    header = instructions.header(manifest.digest())
    exchanged = manifest.schedule.kind(kind, instructions.round)
    charge = _charge(enrolment, exchanged, header, instructions.round)
    # Checked here so that nothing is trained in vain, and a second time when the upload is
    # charged: another process may spend in between.
    if charge is not None:
        budget = enrolment.policy.budget
        node.check_affordable(charge, budget=budget, grant=grant_of(manifest))
    cosignature = Witness(node, enrolment).cosign(instructions)
    settings = _settings(instructions.settings)
    check_instructions(instructions, settings, arrays, manifest)
    # After the check that the run has this round: `check_staying` may record the departure for
    # good, which an invented round number must not bring about.
    check_staying(node.folder, instructions.round)
    # Messages carry the trained parameters only; the frozen rest must be the same everywhere.
    check_base_model(node.settings.base_model, manifest)
    exchange.admit(header)
    return Order(
        instructions=instructions,
        settings=settings,
        arrays=arrays,
        header=header,
        charge=charge,
        cosignature=cosignature,
        kind=exchanged,
    )


def _going_on(message: Message, node: Node, enrolment: Enrolment) -> bytes:
    """Check a message of stages 1 to 4, and return the bytes of the protocol in it."""
    _records(message, "config")
    config = _config(message)
    data = config.get(MESSAGE)
    if set(config) != {MESSAGE} or not isinstance(data, bytes):
        raise ConfigError("the message must carry the bytes of the protocol and nothing else")
    waiting = SecureExchange(node, enrolment).current()
    if waiting is None:
        raise OutOfTurn("this store has no update waiting to be masked")
    check_staying(node.folder, waiting.number)
    return data


def _charge(enrolment: Enrolment, kind: str, header: Header, number: int) -> Charge | None:
    """The cost of an exchange by the manifest; None without differential privacy."""
    # From the manifest alone: a coordinator must not be able to lower what is charged.
    plan = plan_of(enrolment.manifest)
    if plan is None:
        return None
    charge = plan.charge(kind)
    if charge is None:
        raise PolicyViolation(
            "the coordinator asks for evaluation sums, and the manifest lets none leave a store",
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
        raise ConfigError(f"the message must hold the records {list(names)} and no others")


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


# Parsed once a run: every message of a run carries the same text.
@lru_cache(maxsize=4)
def _settings(text: str) -> RunSettings:
    return RunSettings.from_json(text)
