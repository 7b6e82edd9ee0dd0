"""A store's connection to the coordinator's SuperLink: Flower's Fleet API, with our errors.

TLS is checked against the invitation's root alone, and every request is signed with the
node's key (Flower's SuperNode authentication). Whatever can pass is tried again, for as long
as the operator allows; a wrong certificate or an unknown key is said at once.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node as ProtoNode
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError, push_objects
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.retry import RetryInvoker, RetryState, exponential
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from hanse_client.deployment.heartbeat import INTERVAL, beating
from hanse_client.deployment.inbox import bound_answers, first_message, whole_message
from hanse_common.errors import FederationError, NotAdmitted, Unreachable, UntrustedServer

T = TypeVar("T")

log = logging.getLogger(__name__)

_LONGEST_WAIT = 20
_ADMISSION_SECONDS = 75.0
"""A node that was killed counts as connected for a while, and is not let in a second time."""
_PASSING = (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS)
"""Refusals that may be over soon: a line that was too slow, too much at once."""
_CERTIFICATE = "CERTIFICATE_VERIFY_FAILED"


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """Where the SuperLink is, and how it and this node prove who they are.

    Args:
        fleet: `host:port`.
        root: PEM certificates that its TLS certificate is checked by.
        key: The node's.
    """

    fleet: str
    root: bytes
    key: ec.EllipticCurvePrivateKey


class Fleet:
    """An activated node's calls; see `connected`."""

    def __init__(self, client: FleetHttpClient, retry: RetryInvoker, address: Address) -> None:
        self._client = client
        self._retry = retry
        self._address = address
        self._node = ProtoNode()
        self.lost = threading.Event()
        """Set when the SuperLink no longer knows this node."""

    @property
    def node_id(self) -> int:
        """What Flower calls the node."""
        return int(self._node.node_id)

    def activate(self) -> None:
        """Say that the node is here.

        Raises:
            NotAdmitted, UntrustedServer, Unreachable: See `connected`.
        """
        request = ActivateNodeRequest(
            public_key=public_key_to_bytes(self._address.key.public_key()),
            heartbeat_interval=INTERVAL,
        )
        try:
            found = self._call(self._client.ActivateNode, request)
        except FederationError as error:
            raise NotAdmitted(
                f"{self._address.fleet} does not let this node in",
                hint="is `hanse store join` running twice? has the coordinator admitted this "
                "store's newest request, and not revoked it?",
            ) from error
        self._node = ProtoNode(node_id=found.node_id)

    def heartbeat(self) -> None:
        """Say that the node is still here; a server that cannot hear it hears the next one."""
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=INTERVAL)
        try:
            _named(lambda: self._client.SendNodeHeartbeat(request), self._address)
        except (NotAdmitted, FederationError):
            self.lost.set()  # the loop says why, and ends
        except (Unreachable, UntrustedServer) as error:
            log.debug("no heartbeat: %s", error)

    def receive(self) -> tuple[Message, ObjectTree] | None:
        """Take the next message, without its content; None if there is none.

        Raises:
            FederationError: What the server hands out is no message.
        """
        found = self._call(self._client.PullMessages, PullMessagesRequest(node=self._node))
        return first_message(found)

    def bundle(self, run_id: int) -> bytes:
        """The bytes of a run's app bundle.

        Raises:
            FederationError [run-over]: The run has ended.
        """
        run = self._call(self._client.GetRun, GetRunRequest(node=self._node, run_id=run_id)).run
        request = GetFabRequest(node=self._node, hash_str=run.fab_hash, run_id=run_id)
        return bytes(self._call(self._client.GetFab, request).fab.content)

    def content(self, message: Message, tree: ObjectTree) -> Message:
        """Fetch a message's content.

        Raises:
            FederationError [run-over]: The run has ended.
            FederationError: The content is gone, or no message.
        """
        run_id = message.metadata.run_id
        confirm = self._calling(self._client.ConfirmMessageReceived)
        whole = whole_message(
            tree,
            make_pull_object_fn_protobuf(
                self._calling(self._client.PullObject), self._node, run_id
            ),
            make_confirm_message_received_fn_protobuf(confirm, self._node, run_id),
        )
        # A message does not carry its own id, which is the hash of its content.
        whole.metadata.__dict__["_message_id"] = tree.object_id
        return whole

    def send(self, reply: Message, seconds: float) -> None:
        """Send a reply and its content.

        Args:
            reply: To a message that was received.
            seconds: What making it took.

        Raises:
            FederationError [run-over]: The run has ended.
            FederationError: The server did not take it.
        """
        reply.metadata.__dict__["_message_id"] = reply.object_id
        run_id = reply.metadata.run_id
        with no_object_id_recompute():
            bare = remove_content_from_message(reply) if reply.has_content() else reply
            announced = self._call(
                self._client.PushMessages,
                PushMessagesRequest(
                    node=self._node,
                    messages_list=[message_to_proto(bare)],
                    message_object_trees=[get_object_tree(reply)],
                    clientapp_runtime_list=[seconds],
                ),
            )
            push = self._calling(self._client.PushObject)
            try:
                push_objects(
                    get_all_nested_objects(reply),
                    make_push_object_fn_protobuf(push, self._node, run_id, announced.session_id),
                    object_ids_to_push=set(announced.objects_to_push),
                )
            except ObjectPushError as error:
                raise FederationError(f"the reply was not taken: {error}") from error

    def leave(self) -> None:
        """Say that the node is gone; a server that cannot hear it finds out by itself."""
        try:
            request = DeactivateNodeRequest(node_id=self._node.node_id)
            _named(lambda: self._client.DeactivateNode(request), self._address)
        except (Unreachable, UntrustedServer, NotAdmitted, FederationError) as error:
            log.debug("not deactivated: %s", error)

    def _calling(self, method: Callable[[Any], T]) -> Callable[[Any], T]:
        return lambda request: self._call(method, request)

    def _call(self, method: Callable[[Any], T], request: Any) -> T:
        found: T = self._retry.invoke(lambda: _named(lambda: method(request), self._address))
        return found


@contextmanager
def connected(
    address: Address, *, stop: threading.Event, patience: float | None = None
) -> Iterator[Fleet]:
    """Connect, activate the node, and keep it alive until the block ends.

    Args:
        address: Of the SuperLink.
        stop: Ends every wait.
        patience: Seconds for which a server that does not answer is tried; without an end
            if None.

    Raises:
        UntrustedServer: Its certificate is not vouched for by the root.
        NotAdmitted: It does not know this node's key.
        Unreachable: It did not answer for `patience` seconds.
    """

    def wait(seconds: float) -> None:
        stop.wait(seconds)

    def trying(error: type[Exception], seconds: float | None) -> RetryInvoker:
        return RetryInvoker(
            lambda: exponential(max_delay=_LONGEST_WAIT),
            error,
            max_tries=None,
            max_time=seconds,
            on_backoff=_say_waiting,
            on_success=_say_back,
            should_giveup=lambda _: stop.is_set(),
            wait_function=wait,
        )

    with FleetHttpClient.from_server_address(
        address.fleet,
        insecure=False,
        root_certificates=address.root,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            NodeAuthHttpInterceptor(address.key, address.key.public_key()),
        ],
    ) as client:
        bound_answers(client)
        fleet = Fleet(client, trying(Unreachable, patience), address)
        admission = min(_ADMISSION_SECONDS, math.inf if patience is None else patience)
        trying(NotAdmitted, admission).invoke(fleet.activate)
        try:
            with beating(fleet.heartbeat):
                yield fleet
        finally:
            fleet.leave()


def _named(call: Callable[[], T], address: Address) -> T:
    """Make a call whose errors say what is wrong and what to do."""
    try:
        return call()
    except httpx.TransportError as error:
        if _CERTIFICATE in str(error):
            raise UntrustedServer(
                f"the TLS certificate of {address.fleet} is not to be trusted: "
                f"{_reason(str(error))}",
                hint="compare invitation.json with the coordinator's; somebody may be in between",
            ) from error
        raise Unreachable(
            f"{address.fleet} does not answer: {error or type(error).__name__}",
            hint="is the server up, and does a firewall let this machine reach it?",
        ) from error
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if error.response.is_server_error or status in _PASSING:
            raise Unreachable(f"{address.fleet} answers {status}") from error
        if status == httpx.codes.UNAUTHORIZED:
            raise NotAdmitted(
                f"{address.fleet} does not know this store's node key, or its clock differs",
                hint="check this machine's clock; has the coordinator admitted this store's newest "
                "request, and not revoked it?",
            ) from error
        if status == httpx.codes.FORBIDDEN:
            raise FederationError("the run has ended", code="run-over") from error
        raise FederationError(
            f"{address.fleet} answers {status}: {error.response.text[:200]!a}"
        ) from error
    except ValueError as error:
        raise Unreachable(
            f"{address.fleet} answers with something else than Flower's protocol",
            hint="does another server answer at that address?",
        ) from error


def _reason(text: str) -> str:
    """OpenSSL's words without its source lines."""
    return text.partition("certificate verify failed: ")[2].partition(" (_ssl")[0] or text


def _say_waiting(state: RetryState) -> None:
    if state.tries == 1:
        log.warning("%s; trying again", state.exception)


def _say_back(state: RetryState) -> None:
    if state.tries > 1:
        log.warning("the server answers again after %.0f s", state.elapsed_time)
