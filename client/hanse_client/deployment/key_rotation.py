"""Key rotation: new keys wait next to those in use, and replace them with their certificate."""

from __future__ import annotations

from hanse_client.deployment.folder import StoreFolder, make_node_key
from hanse_common.errors import KeyFileError
from hanse_common.identity import StoreKey
from hanse_common.paths import NEXT_SUFFIX, NODE_PUBLIC_FILE


def begin(folder: StoreFolder, *, node_key: bool) -> None:
    """Generate the keys that will replace those in use.

    Args:
        folder: The store's folder.
        node_key: Whether to replace the Flower node's key as well.

    Raises:
        StoreNotReady: The folder contains no store.
        KeyFileError: A new key waits for its certificate already.

    Edge cases:
        A rotation of the store's key alone can be extended to the node's: a store that was revoked
        needs two new keys, and may learn so from the refusal of its request.
    """
    folder.node()
    waiting = folder.store_key.with_name(folder.store_key.name + NEXT_SUFFIX)
    waiting_node = folder.node_key.with_name(folder.node_key.name + NEXT_SUFFIX)
    # A second rotation would overwrite a key whose certificate may be on its way.
    for path in (waiting, waiting_node):
        if path.exists() and not (node_key and path == waiting and not waiting_node.exists()):
            raise KeyFileError(
                f"{path} waits for its certificate already",
                hint="`hanse store enrol` writes its request again; or remove the file",
            )
    if not waiting.exists():
        StoreKey.generate().save(waiting)
    if node_key:
        make_node_key(waiting_node, folder.path / (NODE_PUBLIC_FILE + NEXT_SUFFIX))
