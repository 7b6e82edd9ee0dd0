"""New keys beside those in use: they take over when their certificate is taken in."""

from __future__ import annotations

from hanse_client.deployment.folder import StoreFolder, make_node_key
from hanse_common.errors import KeyFileError
from hanse_common.identity import StoreKey
from hanse_common.paths import NEXT_SUFFIX, NODE_PUBLIC_FILE


def begin(folder: StoreFolder, *, node_key: bool) -> None:
    """Make the keys that will replace those in use.

    Args:
        folder: The store's.
        node_key: The Flower node's too, not the store's own alone.

    Raises:
        StoreNotReady: There is no store in the folder.
        KeyFileError: A new key waits for its certificate already.
    """
    folder.node()
    waiting = folder.store_key.with_name(folder.store_key.name + NEXT_SUFFIX)
    waiting_node = folder.node_key.with_name(folder.node_key.name + NEXT_SUFFIX)
    for path in (waiting, waiting_node):
        if path.exists():
            raise KeyFileError(
                f"{path} waits for its certificate already",
                hint="`hanse store enrol` writes its request again; or remove the file",
            )
    StoreKey.generate().save(waiting)
    if node_key:
        make_node_key(waiting_node, folder.path / (NODE_PUBLIC_FILE + NEXT_SUFFIX))
