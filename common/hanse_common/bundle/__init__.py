"""The Flower app bundle (FAB), which names installed modules and holds no code.

Coordinator and stores run the code that is installed on their own machines; the bundle only
names the module. Its bytes do not depend on the time, the machine or a compressor's version.
Therefore the manifest and a store's policy can hold its digest, and a store can refuse any other
bundle from a SuperLink without opening it.

>>> build() == build(), digest() == hashlib.sha256(build()).hexdigest()
(True, True)

The format is Flower's (`flwr.cli.build`, `flwr.cli.install`): a ZIP file whose
`.info/CONTENT` lists path, SHA-256 and size in bits of every other member.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from importlib.resources import files

CLIENT = "hanse_client.app:app"
"""The ClientApp of a real store."""

_MEMBERS = {"pyproject.toml": "app.toml", "LICENSE": "LICENSE"}
"""Names of the members and of their source files in this package; Flower reads the first."""

_CONTENT = ".info/CONTENT"
# A constant date and system: the current ones would change the digest.
_DATE = (2024, 10, 1, 0, 0, 0)
_UNIX = 3


def build(client: str = CLIENT) -> bytes:
    """Return the bundle's bytes: the same on every machine.

    Args:
        client: The ClientApp that the bundle names. Others than a real store's serve
            measurements only: enrolled stores refuse such a bundle.
    """
    here = files(__name__)
    members = {name: (here / source).read_bytes() for name, source in _MEMBERS.items()}
    members["pyproject.toml"] = members["pyproject.toml"].replace(CLIENT.encode(), client.encode())
    lines = [
        f"{name},{hashlib.sha256(data).hexdigest()},{8 * len(data)}"
        for name, data in members.items()
    ]
    members[_CONTENT] = "\n".join(lines).encode()
    buffer = io.BytesIO()
    # Stored, not deflated: builds of zlib compress to different bytes.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            member = zipfile.ZipInfo(name, _DATE)
            member.create_system = _UNIX
            archive.writestr(member, data)
    return buffer.getvalue()


def digest() -> str:
    """Return the bundle's SHA-256 in hexadecimal, as in Flower and in manifests."""
    return hashlib.sha256(build()).hexdigest()
