"""The versions that stores' nodes named last, for `hanse server status`.

The gateway learns them with every request of an admitted node, before and between runs, and
also from a node that it then refuses because it speaks another version of the protocol.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

from hanse_common.decoding import json_file
from hanse_common.durable import write_durably
from hanse_common.paths import NODE_VERSIONS_FILE
from hanse_common.versions import Version, other_protocol, own_version

_log = logging.getLogger(__name__)


class NodeVersions:
    """The last version of each node, by the digest of its key, in a file.

    Args:
        state: The folder for files of running processes.
    """

    def __init__(self, state: Path) -> None:
        self._path = state / NODE_VERSIONS_FILE
        self._known = {
            key: text for key, text in json_file(self._path).items() if isinstance(text, str)
        }

    def heard(self, key: bytes, version: Version) -> None:
        """Record a version; the file is written only if it is another one than before.

        Args:
            key: The node's public key as PEM; of an admitted store, so that there are few.
            version: The version that it named.
        """
        name, text = _name(key), version.encode()
        if self._known.get(name) == text:
            return
        self._known[name] = text
        if version.protocol != own_version().protocol:
            they, we = "a store's node", "this coordinator"
            _log.warning("refused: %s", other_protocol(version, they=they, we=we))
        try:
            # Without fsync: what is lost in a crash is heard again with the next request.
            write_durably(self._path, json.dumps(self._known) + "\n", sync=False)
        except OSError as error:  # a full disk must not refuse a store's requests
            _log.warning("cannot write %s: %s", self._path, error.strerror)

    def of(self, key: bytes) -> Version | None:
        """The version that a node named last; None if it never sent a request."""
        text = self._known.get(_name(key))
        return None if text is None else Version.decode(text)


def _name(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()
