"""Everything of Flower outside its public packages that this side uses, in one place.

A new version of Flower is adopted here: a test lists these modules, and another reads each name
with every version that is supported. Names are imported when they are first used, since some
bring the whole SuperLink with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hanse_common._lazy import lazy_exports

if TYPE_CHECKING:
    from flwr.app.message import make_message
    from flwr.client.mod.secure_aggregation.secaggplus_mod import (
        SecAggPlusState,
        _collect_masked_vectors,
        _setup,
        _share_keys,
        _unmask,
    )
    from flwr.common.constant import (
        NUM_PARTITIONS_KEY,
        PARTITION_ID_KEY,
        SUPERLINK_NODE_ID,
        ErrorCode,
    )
    from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
    from flwr.common.secure_aggregation.crypto.symmetric_encryption import (
        encrypt,
        generate_shared_key,
    )
    from flwr.common.secure_aggregation.ndarrays_arithmetic import (
        get_parameters_shape,
        parameters_addition,
        parameters_mod,
        parameters_subtraction,
    )
    from flwr.common.secure_aggregation.secaggplus_constants import Key
    from flwr.common.secure_aggregation.secaggplus_utils import (
        pseudo_rand_gen,
        share_keys_plaintext_concat,
    )
    from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key
    from flwr.supercore.run import Run
    from flwr.supercore.task_identity import TaskIdentity

__all__ = [
    "NUM_PARTITIONS_KEY",
    "PARTITION_ID_KEY",
    "SUPERLINK_NODE_ID",
    "ErrorCode",
    "Key",
    "Run",
    "SecAggPlusState",
    "TaskIdentity",
    "_collect_masked_vectors",
    "_setup",
    "_share_keys",
    "_unmask",
    "bytes_to_private_key",
    "bytes_to_public_key",
    "combine_shares",
    "create_shares",
    "encrypt",
    "generate_shared_key",
    "get_parameters_shape",
    "make_message",
    "parameters_addition",
    "parameters_mod",
    "parameters_subtraction",
    "pseudo_rand_gen",
    "share_keys_plaintext_concat",
]

_INTERNALS: Final = {
    "app.message": ("make_message",),
    "client.mod.secure_aggregation.secaggplus_mod": (
        "SecAggPlusState",
        "_collect_masked_vectors",
        "_setup",
        "_share_keys",
        "_unmask",
    ),
    "common.constant": (
        "ErrorCode",
        "NUM_PARTITIONS_KEY",
        "PARTITION_ID_KEY",
        "SUPERLINK_NODE_ID",
    ),
    "common.secure_aggregation.crypto.shamir": (
        "combine_shares",
        "create_shares",
    ),
    "common.secure_aggregation.crypto.symmetric_encryption": (
        "encrypt",
        "generate_shared_key",
    ),
    "common.secure_aggregation.ndarrays_arithmetic": (
        "get_parameters_shape",
        "parameters_addition",
        "parameters_mod",
        "parameters_subtraction",
    ),
    "common.secure_aggregation.secaggplus_constants": ("Key",),
    "common.secure_aggregation.secaggplus_utils": (
        "pseudo_rand_gen",
        "share_keys_plaintext_concat",
    ),
    "supercore.primitives.asymmetric": (
        "bytes_to_private_key",
        "bytes_to_public_key",
    ),
    "supercore.run": ("Run",),
    "supercore.task_identity": ("TaskIdentity",),
}

__getattr__ = lazy_exports("flwr", _INTERNALS)
