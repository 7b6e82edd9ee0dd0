"""A client of the SuperLink's Control API, for nodes' keys and for runs.

Flower 1.41 serves its Control, Fleet and Runtime APIs on one HTTPS port, as protobuf bodies
of `POST /v1/<api>/<call>`, and its Control API authenticates no caller. So the SuperLink
listens on loopback only (`superlink.py`), where this client connects to it and checks the
certificate that `init` made for this machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Self, TypeVar

import httpx

from hanse_common import bundle
from hanse_common.errors import DeploymentError, SuperLinkDown
from hanse_common.flower import connecting_to_loopback
from hanse_common.paths import LOOPBACK_ROOT_FILE
from hanse_server.deployment.folder import FederationFolder
from hanse_server.flower_internals import (
    ControlHttpClient,
    Fab,
    FlowerError,
    ListNodesRequest,
    ListRunsRequest,
    NodeStatus,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
    fab_to_proto,
    user_config_to_proto,
)

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, kw_only=True, slots=True)
class RegisteredNode:
    """A node whose key the SuperLink knows."""

    node_id: int
    store_id: str
    public_key: bytes
    status: str
    """`registered` (never seen), `online` or `offline`."""
    last_seen: datetime | None
    """The time of its last heartbeat, as far as Flower knows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowerRun:
    """A run in the SuperLink's records."""

    run_id: int
    status: str
    """`pending`, `starting`, `running` or `finished`."""
    outcome: str
    """`completed`, `failed` or `stopped`, once finished."""
    details: str


class Control(AbstractContextManager["Control"]):
    """A connection to the SuperLink of a federation's folder.

    Args:
        folder: The federation's folder.

    Raises:
        SuperLinkDown: The root of the loopback certificate is missing.
    """

    def __init__(self, folder: FederationFolder) -> None:
        self._address = f"127.0.0.1:{folder.file.superlink.port}"
        try:
            root = (folder.tls / LOOPBACK_ROOT_FILE).read_bytes()
        except OSError as error:
            raise SuperLinkDown(
                f"cannot read {folder.tls / LOOPBACK_ROOT_FILE}: {error.strerror}",
                hint="`hanse server init` made it; put it back",
            ) from error
        with connecting_to_loopback():
            self._client = ControlHttpClient.from_server_address(
                self._address, insecure=False, root_certificates=root, interceptors=()
            )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def nodes(self) -> list[RegisteredNode]:
        """Return the nodes that are registered, in the order of their stores' ids.

        Raises:
            SuperLinkDown: It does not answer.
        """
        answer = self._call(lambda: self._client.ListNodes(ListNodesRequest()))
        nodes = [
            RegisteredNode(
                node_id=node.node_id,
                store_id=node.name,
                public_key=node.public_key,
                status=node.status,
                last_seen=_last_seen(node.status, node.online_until, node.heartbeat_interval),
            )
            for node in answer.nodes_info
            # Flower still lists nodes after they were unregistered.
            if node.status != NodeStatus.UNREGISTERED
        ]
        return sorted(nodes, key=lambda node: node.store_id)

    def register(self, store_id: str, node_key: str) -> None:
        """Register a node's key under its store's id, so that the node may connect.

        Raises:
            SuperLinkDown: The SuperLink does not answer.
            DeploymentError [superlink-failed]: It refuses the key, such as one that was
                unregistered before.
        """
        request = RegisterNodeRequest(public_key=node_key.encode(), name=store_id)
        self._call(lambda: self._client.RegisterNode(request))

    def unregister(self, node_id: int) -> None:
        """Shut a node out permanently: Flower never accepts its key again.

        Raises:
            SuperLinkDown: The SuperLink does not answer.
            DeploymentError [superlink-failed]: It knows no such node.
        """
        self._call(lambda: self._client.UnregisterNode(UnregisterNodeRequest(node_id=node_id)))

    def start(self, config: Mapping[str, str | int | float], *, client: str = bundle.CLIENT) -> int:
        """Start a run of the thin bundle.

        Args:
            config: The run config that the ServerApp reads.
            client: The ClientApp that Flower's own SuperNodes load. A store's node runs the
                one that is installed there, and refuses a bundle that names another.

        Returns:
            Flower's id of the run.

        Raises:
            SuperLinkDown: The SuperLink does not answer.
            DeploymentError [superlink-failed]: It does not start the run.
        """
        code = bundle.build(client)
        fab = Fab(hashlib.sha256(code).hexdigest(), code, {})
        request = StartRunRequest(
            fab=fab_to_proto(fab), override_config=user_config_to_proto(dict(config))
        )
        answer = self._call(lambda: self._client.StartRun(request))
        if not answer.HasField("run_id"):
            raise DeploymentError(
                "the SuperLink started no run and gave no reason", code="superlink-failed"
            )
        return int(answer.run_id)

    def stop(self, run_id: int) -> None:
        """Stop a run.

        Raises:
            SuperLinkDown: The SuperLink does not answer.
            DeploymentError [superlink-failed]: There is no such run, or it has finished.
        """
        self._call(lambda: self._client.StopRun(StopRunRequest(run_id=run_id)))

    def runs(self, limit: int = 20) -> list[FlowerRun]:
        """Return the latest runs, the last started first.

        Raises:
            SuperLinkDown: The SuperLink does not answer.
        """
        answer = self._call(lambda: self._client.ListRuns(ListRunsRequest(limit=limit)))
        dated = [
            (
                run.pending_at,
                FlowerRun(
                    run_id=run.run_id,
                    status=run.status.status,
                    outcome=run.status.sub_status,
                    details=run.status.details,
                ),
            )
            for run in answer.run_dict.values()
        ]
        # By the time stamps alone: Flower's ids of runs are random.
        return [run for _, run in sorted(dated, key=lambda pair: pair[0], reverse=True)]

    def _call(self, call: Callable[[], ResultT]) -> ResultT:
        try:
            return call()
        except httpx.TransportError as error:
            raise SuperLinkDown(
                f"no SuperLink answers at {self._address}: {error}",
                hint="start it with `hanse server up`",
            ) from error
        except httpx.HTTPStatusError as error:
            answer = FlowerError.from_json(error.response.text)
            reason = answer.message if answer else error.response.text[:200]
            raise DeploymentError(
                f"the SuperLink refuses: {reason}", code="superlink-failed"
            ) from error


def _last_seen(status: str, online_until: float, heartbeat_interval: float) -> datetime | None:
    """The time of a node's last heartbeat, computed from the time until which it counts."""
    # While a node is online, Flower stores the time at which it will count as offline, and cuts
    # it to the present when the node signs off.
    from hanse_server.flower_internals import HEARTBEAT_PATIENCE

    if status == NodeStatus.REGISTERED or online_until <= 0:
        return None
    ago = HEARTBEAT_PATIENCE * heartbeat_interval if status == NodeStatus.ONLINE else 0
    return datetime.fromtimestamp(online_until - ago, UTC)
