"""Everything of Flower outside its public packages that this side uses, in one place.

A new version of Flower is adopted here: a test lists these modules, and another reads each name
with every version that is supported. Names are imported when they are first used, since some
bring the whole SuperLink with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hanse_common._lazy import lazy_exports

if TYPE_CHECKING:
    from flwr.app.message import remove_content_from_message
    from flwr.common.constant import ErrorCode
    from flwr.common.serde import message_from_proto, message_to_proto
    from flwr.proto.fab_pb2 import GetFabRequest
    from flwr.proto.fleet_pb2 import (
        ActivateNodeRequest,
        DeactivateNodeRequest,
        PullMessagesRequest,
        PullMessagesResponse,
        PushMessagesRequest,
    )
    from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
    from flwr.proto.message_pb2 import ObjectTree
    from flwr.proto.node_pb2 import Node
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
    from flwr.supercore.inflatable.inflatable_utils import (
        ObjectPullError,
        ObjectPushError,
        pull_and_inflate_object_from_tree,
        push_objects,
    )
    from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes
    from flwr.supercore.retry import RetryInvoker, RetryState, exponential
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

__all__ = [
    "ActivateNodeRequest",
    "DeactivateNodeRequest",
    "ErrorCode",
    "FleetHttpClient",
    "GetFabRequest",
    "GetRunRequest",
    "Node",
    "NodeAuthHttpInterceptor",
    "ObjectPullError",
    "ObjectPushError",
    "ObjectTree",
    "PullMessagesRequest",
    "PullMessagesResponse",
    "PushMessagesRequest",
    "RetryInvoker",
    "RetryState",
    "RuntimeVersionHttpInterceptor",
    "SendNodeHeartbeatRequest",
    "exponential",
    "get_all_nested_objects",
    "get_object_tree",
    "make_confirm_message_received_fn_protobuf",
    "make_pull_object_fn_protobuf",
    "make_push_object_fn_protobuf",
    "message_from_proto",
    "message_to_proto",
    "no_object_id_recompute",
    "public_key_to_bytes",
    "pull_and_inflate_object_from_tree",
    "push_objects",
    "remove_content_from_message",
]

_INTERNALS: Final = {
    "app.message": ("remove_content_from_message",),
    "common.constant": ("ErrorCode",),
    "common.serde": (
        "message_from_proto",
        "message_to_proto",
    ),
    "proto.fab_pb2": ("GetFabRequest",),
    "proto.fleet_pb2": (
        "ActivateNodeRequest",
        "DeactivateNodeRequest",
        "PullMessagesRequest",
        "PullMessagesResponse",
        "PushMessagesRequest",
    ),
    "proto.heartbeat_pb2": ("SendNodeHeartbeatRequest",),
    "proto.message_pb2": ("ObjectTree",),
    "proto.node_pb2": ("Node",),
    "proto.run_pb2": ("GetRunRequest",),
    "supercore.inflatable.inflatable_object": (
        "get_all_nested_objects",
        "get_object_tree",
        "no_object_id_recompute",
    ),
    "supercore.inflatable.inflatable_protobuf_utils": (
        "make_confirm_message_received_fn_protobuf",
        "make_pull_object_fn_protobuf",
        "make_push_object_fn_protobuf",
    ),
    "supercore.inflatable.inflatable_utils": (
        "ObjectPullError",
        "ObjectPushError",
        "pull_and_inflate_object_from_tree",
        "push_objects",
    ),
    "supercore.interceptors.http.runtime_version": ("RuntimeVersionHttpInterceptor",),
    "supercore.primitives.asymmetric": ("public_key_to_bytes",),
    "supercore.retry": (
        "RetryInvoker",
        "RetryState",
        "exponential",
    ),
    "supernode.fleet_http_client": ("FleetHttpClient",),
    "supernode.node_auth_http_interceptor": ("NodeAuthHttpInterceptor",),
}

__getattr__ = lazy_exports("flwr", _INTERNALS)
