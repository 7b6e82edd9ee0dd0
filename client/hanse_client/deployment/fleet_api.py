"""A store's connection to the coordinator's SuperLink: Flower's Fleet API, with Hanse's errors.

TLS is checked against the invitation's root alone, and every request is signed with the node's
key (Flower's SuperNode authentication). A server that does not answer, or whose certificate
cannot be trusted, is tried again for as long as the operator allows: an expired certificate is
renewed some day. Nothing is sent to it meanwhile. An unknown key is an error at once.
"""

from __future__ import annotations

import logging
import math
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message

from hanse_client.deployment.heartbeat import INTERVAL, beating
from hanse_client.deployment.inbox import bound_answers, first_message, whole_message
from hanse_client.deployment.proxy import Proxy, no_proxy_variables, proxy_for, through
from hanse_client.deployment.stopping import Stop
from hanse_client.deployment.tls_check import (
    LARGEST_AHEAD,
    LARGEST_BEHIND,
    clock_ahead,
    read_period,
    untrusted,
)
from hanse_client.flower_internals import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    FleetHttpClient,
    GetFabRequest,
    GetRunRequest,
    NodeAuthHttpInterceptor,
    ObjectPushError,
    ObjectTree,
    PullMessagesRequest,
    PushMessagesRequest,
    RetryInvoker,
    RetryState,
    RuntimeVersionHttpInterceptor,
    SendNodeHeartbeatRequest,
    exponential,
    get_all_nested_objects,
    get_object_tree,
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
    message_to_proto,
    no_object_id_recompute,
    public_key_to_bytes,
    push_objects,
    remove_content_from_message,
)
from hanse_client.flower_internals import Node as ProtoNode
from hanse_common.addresses import split_address
from hanse_common.errors import FederationError, NotAdmitted, Unreachable, UntrustedServer
from hanse_common.versions import (
    OTHER_VERSION_STATUS,
    VERSION_FIELD,
    Version,
    other_protocol,
    own_version,
)

T = TypeVar("T")

_log = logging.getLogger(__name__)

_LONGEST_WAIT = 20
"""Seconds between two attempts at most."""
_ADMISSION_SECONDS = 75.0
"""Seconds for which activation is retried: the SuperLink takes a node that was killed for
connected until its heartbeats are missing, and refuses the same key meanwhile."""
_PASSING = (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS)
"""HTTP statuses of refusals that may be over soon: the line was too slow, or calls too many."""
_IN_BETWEEN: dict[int, str] = dict.fromkeys(
    (int(httpx.codes.BAD_GATEWAY), int(httpx.codes.GATEWAY_TIMEOUT)),
    "the coordinator never answers so: an ingress in between ends TLS, and cannot reach it",
)
_SECONDS = 30.0
"""Timeout of connecting, and of each wait for bytes: as Flower's client has it."""
_LEAVING_SECONDS = 1.0
"""Timeout of the call by which a node leaves, which may be on a line that is down."""
_CERTIFICATE = "CERTIFICATE_VERIFY_FAILED"


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """The SuperLink's address, and the keys for mutual authentication.

    Args:
        fleet: `host:port`.
        root: PEM root certificates that must have issued its TLS certificate.
        key: The node's private key.
    """

    fleet: str
    root: bytes
    key: ec.EllipticCurvePrivateKey

    @property
    def proxy(self) -> Proxy | None:
        """The proxy in between, by the environment.

        Raises:
            ConfigError: The environment names something else than an HTTP proxy.
        """
        return proxy_for(split_address(self.fleet)[0])


class Fleet:
    """The calls of an activated node; see `connected`."""

    def __init__(self, client: FleetHttpClient, retry: RetryInvoker, address: Address) -> None:
        self._client = client
        self._retry = retry
        self._address = address
        self._node = ProtoNode()
        self.lost = threading.Event()
        """Set by a heartbeat that the SuperLink refused, since it no longer knows this node."""

    @property
    def node_id(self) -> int:
        """The node's number at the SuperLink."""
        return int(self._node.node_id)

    def activate(self) -> None:
        """Register the node at the SuperLink.

        Raises:
            NotAdmitted, UntrustedServer, Unreachable: See `connected`.
        """
        request = ActivateNodeRequest(
            public_key=public_key_to_bytes(self._address.key.public_key()),
            heartbeat_interval=INTERVAL,
        )
        try:
            answer = self._call(self._client.ActivateNode, request)
        except FederationError as error:
            raise NotAdmitted(
                f"{self._address.fleet} does not let this node in",
                hint="is `hanse store join` running twice? has the coordinator admitted this "
                "store's newest request, and not revoked it?",
            ) from error
        self._node = ProtoNode(node_id=answer.node_id)

    def heartbeat(self) -> None:
        """Send one heartbeat, without retries: the next one follows soon."""
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=INTERVAL)
        try:
            _named(lambda: self._client.SendNodeHeartbeat(request), self._address)
        except (NotAdmitted, FederationError):
            self.lost.set()  # this is another thread; the loop sees it and raises the error
        except (Unreachable, UntrustedServer) as error:
            _log.debug("no heartbeat: %s", error)

    def receive(self) -> tuple[Message, ObjectTree] | None:
        """Fetch the next message without its content; None if there is none.

        Raises:
            FederationError: The server's answer is not a message.
        """
        answer = self._call(self._client.PullMessages, PullMessagesRequest(node=self._node))
        return first_message(answer)

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
            FederationError: The content is gone, or is not a message.
        """
        run_id = message.metadata.run_id
        confirm = self._calling(self._client.ConfirmMessageReceived)
        complete = whole_message(
            tree,
            make_pull_object_fn_protobuf(
                self._calling(self._client.PullObject), self._node, run_id
            ),
            make_confirm_message_received_fn_protobuf(confirm, self._node, run_id),
        )
        # A message does not carry its own id, which is the hash of its content. A reply needs it,
        # and Flower has no setter.
        complete.metadata.__dict__["_message_id"] = tree.object_id
        return complete

    def send(self, reply: Message, seconds: float) -> None:
        """Send a reply and its content.

        Args:
            reply: The reply to a received message.
            seconds: The time to report for making it.

        Raises:
            FederationError [run-over]: The run has ended.
            FederationError: The server did not accept the reply.
        """
        reply.metadata.__dict__["_message_id"] = reply.object_id
        run_id = reply.metadata.run_id
        # An object's id is a hash of all below it, computed at each access otherwise.
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
                raise FederationError(f"the server did not accept the reply: {error}") from error

    def leave(self) -> None:
        """Deactivate the node, without retries: the server notices missing heartbeats anyway."""
        self._client._client.timeout = httpx.Timeout(_LEAVING_SECONDS)
        try:
            request = DeactivateNodeRequest(node_id=self._node.node_id)
            _named(lambda: self._client.DeactivateNode(request), self._address)
        except (Unreachable, UntrustedServer, NotAdmitted, FederationError) as error:
            _log.debug("not deactivated: %s", error)

    def _calling(self, method: Callable[[Any], T]) -> Callable[[Any], T]:
        return lambda request: self._call(method, request)

    def _call(self, method: Callable[[Any], T], request: Any) -> T:
        answer: T = self._retry.invoke(lambda: _named(lambda: method(request), self._address))
        return answer


@contextmanager
def connected(
    address: Address,
    *,
    stop: Stop,
    patience: float | None = None,
    report: Callable[[str], None] = _log.warning,
    waiting: Callable[[], None] = lambda: None,
    certificate_ends: Callable[[float], None] = lambda _: None,
) -> Iterator[Fleet]:
    """Connect, activate the node, and send heartbeats until the block ends.

    Args:
        address: The SuperLink's address, with keys.
        stop: Ends every wait when it is set.
        patience: Seconds for which a server that does not answer, or that cannot be trusted, is
            retried; for ever if None.
        report: Called with a line when waiting begins, when its reason changes, and when it ends.
        waiting: Called before each wait.
        certificate_ends: Called with the end of the server's TLS certificate, in Unix seconds,
            when the first connection shows it and when it changes.

    Raises:
        Interrupted: `stop` was set by a signal during activation.
        UntrustedServer: The root did not issue the server's TLS certificate, or that is out of
            date, for `patience` seconds.
        NotAdmitted: The server does not know this node's key.
        ProtocolError [unsupported-version]: The coordinator speaks another protocol version.
        Unreachable: The server did not answer for `patience` seconds.
        ConfigError: The environment names a proxy that cannot be used.
    """
    telling = _Telling(report)

    def wait(seconds: float) -> None:
        waiting()
        stop.wait(seconds)

    def trying(
        error: type[Exception] | tuple[type[Exception], ...], seconds: float | None
    ) -> RetryInvoker:
        return RetryInvoker(
            lambda: exponential(max_delay=_LONGEST_WAIT),
            error,
            max_tries=None,
            max_time=seconds,
            on_backoff=telling.waits,
            on_success=telling.is_back,
            should_giveup=lambda _: stop.is_set(),
            wait_function=wait,
        )

    with _client(address) as client:
        bound_answers(client)  # before the first answer is read
        client._client.event_hooks["response"].append(_Noticing(certificate_ends))
        fleet = Fleet(client, trying((Unreachable, UntrustedServer), patience), address)
        admission = min(_ADMISSION_SECONDS, math.inf if patience is None else patience)
        # Two retry rules: `NotAdmitted` passes only here, after a node was killed.
        with stop.interrupts():
            trying(NotAdmitted, admission).invoke(fleet.activate)
        try:
            with beating(fleet.heartbeat):
                yield fleet
        finally:
            fleet.leave()


def _client(address: Address) -> FleetHttpClient:
    """Make Flower's client, with this module's own HTTP connections.

    Raises:
        ConfigError: The environment names a proxy that cannot be used.
    """
    proxy = address.proxy
    with no_proxy_variables():
        client = FleetHttpClient.from_server_address(
            address.fleet,
            insecure=False,
            root_certificates=address.root,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(address.key, address.key.public_key()),
            ],
        )
    client._client.close()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=address.root.decode("ascii"))
    # Flower's own client takes proxies from the environment by rules of its own, fails on entries
    # of `NO_PROXY` such as `[::1]`, and has no setting for it.
    client._client = httpx.Client(
        verify=context,
        timeout=_SECONDS,
        trust_env=False,
        proxy=None if proxy is None else httpx.Proxy(proxy.url, headers=proxy.headers),
        headers={VERSION_FIELD: own_version().encode()},
    )
    return client


def _named(call: Callable[[], T], address: Address) -> T:
    """Make a call, and translate its errors to Hanse's."""
    try:
        return call()
    except httpx.TransportError as error:
        if _CERTIFICATE in str(error):
            raise untrusted(
                address.fleet, address.root.decode("ascii"), _reason(str(error))
            ) from error
        if (proxy := address.proxy) is not None:
            raise through(proxy, address.fleet, str(error) or type(error).__name__) from error
        raise Unreachable(
            f"{address.fleet} does not answer: {error or type(error).__name__}",
            hint="is the server up, and does a firewall let this machine reach it?",
        ) from error
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        # `Unreachable` is what is retried.
        if error.response.is_server_error or status in _PASSING:
            raise Unreachable(
                f"{address.fleet} answers {status}", hint=_IN_BETWEEN.get(status, "")
            ) from error
        if status == OTHER_VERSION_STATUS:
            theirs = Version.decode(error.response.headers.get(VERSION_FIELD))
            raise other_protocol(theirs, they=address.fleet, we="this store") from error
        if status == httpx.codes.UNAUTHORIZED:
            ahead = clock_ahead(error.response.headers.get("date"))
            if ahead is not None and not -LARGEST_BEHIND <= ahead <= LARGEST_AHEAD:
                raise NotAdmitted(
                    f"this machine's clock is {abs(ahead):.0f} s "
                    f"{'ahead of' if ahead > 0 else 'behind'} that of {address.fleet}, which "
                    "refuses requests with such times",
                    hint="set this machine's clock by NTP",
                ) from error
            raise NotAdmitted(
                f"{address.fleet} does not know this store's node key",
                hint="has the coordinator admitted this store's newest request, and not revoked "
                "it?",
            ) from error
        if status == httpx.codes.FORBIDDEN:
            raise FederationError("the run has ended", code="run-over") from error
        # The server's text in 200 characters of ASCII: it goes to logs and terminals.
        raise FederationError(
            f"{address.fleet} answers {status}: {error.response.text[:200]!a}"
        ) from error
    except ValueError as error:
        raise Unreachable(
            f"{address.fleet} does not answer in Flower's protocol",
            hint="does another server answer at that address?",
        ) from error


def _reason(text: str) -> str:
    """The reason in OpenSSL's message, without its source lines."""
    return text.partition("certificate verify failed: ")[2].partition(" (_ssl")[0] or text


class _Telling:
    """Tells that a call waits for the server: once for each reason in a row."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._told = ""

    def waits(self, state: RetryState) -> None:
        """Called before a wait."""
        error = state.exception
        words = f"{error} [{getattr(error, 'code', 'error')}]"
        if words != self._told:
            self._told = words
            self._report(f"{words}; trying again")

    def is_back(self, state: RetryState) -> None:
        """Called after a success."""
        self._told = ""
        if state.tries > 1:
            self._report(f"the server answers again after {state.elapsed_time:.0f} s")


class _Noticing:
    """A hook of the HTTP client that notices when the server's certificate ends."""

    def __init__(self, ends: Callable[[float], None]) -> None:
        self._ends = ends
        self._last = 0.0

    def __call__(self, response: httpx.Response) -> None:
        """Read the certificate of a response's connection."""
        stream = response.extensions.get("network_stream")
        secure = None if stream is None else stream.get_extra_info("ssl_object")
        if secure is None:
            return
        with suppress(ValueError):
            _, end = read_period(secure)
            if end != self._last:
                self._last = end
                self._ends(end)
