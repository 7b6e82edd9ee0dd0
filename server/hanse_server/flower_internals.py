"""Everything of Flower outside its public packages that this side uses, in one place.

A new version of Flower is adopted here: a test lists these modules, and another reads each name
with every version that is supported. Names are imported when they are first used, since some
bring the whole SuperLink with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hanse_common._lazy import lazy_exports

if TYPE_CHECKING:
    from flwr.app.exception import AppExitException
    from flwr.app.user_config import UserConfig
    from flwr.common.constant import (
        HEARTBEAT_PATIENCE,
        SYSTEM_TIME_TOLERANCE,
        TIMESTAMP_HEADER,
        TIMESTAMP_TOLERANCE,
    )
    from flwr.common.serde import fab_to_proto, user_config_to_proto
    from flwr.proto.control_pb2 import (
        ListNodesRequest,
        ListRunsRequest,
        RegisterNodeRequest,
        StartRunRequest,
        StopRunRequest,
        UnregisterNodeRequest,
    )
    from flwr.supercore import sql_mixin
    from flwr.supercore.app_utils import start_parent_process_monitor
    from flwr.supercore.constant import (
        FLEET_HTTP_PUBLIC_KEY_HEADER,
        FLEET_HTTP_SIGNATURE_HEADER,
        NodeStatus,
    )
    from flwr.supercore.control import ControlHttpClient
    from flwr.supercore.error import FlowerError
    from flwr.supercore.fab import Fab
    from flwr.supercore.inflatable.inflatable_utils import pull_objects
    from flwr.supercore.run import Run
    from flwr.superlink.cli import flower_superlink
    from flwr.superlink.grid import HttpGrid, http_grid

__all__ = [
    "FLEET_HTTP_PUBLIC_KEY_HEADER",
    "FLEET_HTTP_SIGNATURE_HEADER",
    "HEARTBEAT_PATIENCE",
    "SYSTEM_TIME_TOLERANCE",
    "TIMESTAMP_HEADER",
    "TIMESTAMP_TOLERANCE",
    "AppExitException",
    "ControlHttpClient",
    "Fab",
    "FlowerError",
    "HttpGrid",
    "ListNodesRequest",
    "ListRunsRequest",
    "NodeStatus",
    "RegisterNodeRequest",
    "Run",
    "StartRunRequest",
    "StopRunRequest",
    "UnregisterNodeRequest",
    "UserConfig",
    "fab_to_proto",
    "flower_superlink",
    "http_grid",
    "pull_objects",
    "sql_mixin",
    "start_parent_process_monitor",
    "user_config_to_proto",
]

_INTERNALS: Final = {
    "app.exception": ("AppExitException",),
    "app.user_config": ("UserConfig",),
    "common.constant": (
        "HEARTBEAT_PATIENCE",
        "SYSTEM_TIME_TOLERANCE",
        "TIMESTAMP_HEADER",
        "TIMESTAMP_TOLERANCE",
    ),
    "common.serde": (
        "fab_to_proto",
        "user_config_to_proto",
    ),
    "proto.control_pb2": (
        "ListNodesRequest",
        "ListRunsRequest",
        "RegisterNodeRequest",
        "StartRunRequest",
        "StopRunRequest",
        "UnregisterNodeRequest",
    ),
    "supercore": ("sql_mixin",),
    "supercore.app_utils": ("start_parent_process_monitor",),
    "supercore.constant": (
        "FLEET_HTTP_PUBLIC_KEY_HEADER",
        "FLEET_HTTP_SIGNATURE_HEADER",
        "NodeStatus",
    ),
    "supercore.control": ("ControlHttpClient",),
    "supercore.error": ("FlowerError",),
    "supercore.fab": ("Fab",),
    "supercore.inflatable.inflatable_utils": ("pull_objects",),
    "supercore.run": ("Run",),
    "superlink.cli": ("flower_superlink",),
    "superlink.grid": (
        "HttpGrid",
        "http_grid",
    ),
}

__getattr__ = lazy_exports("flwr", _INTERNALS)
