"""The thin app bundle: what Flower calls a FAB, with names of installed modules and no code.

Coordinator and stores run what is installed on their own machines; the bundle only says
which module. Its bytes never change by themselves (nothing in them depends on the time, the
machine or a compressor's version), so that its digest can stand in the manifest and in a
store's policy, and anything else that a SuperLink hands out can be refused unopened.

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
"""Names in the bundle, and of the files beside this one; the first is Flower's to find."""

_CONTENT = ".info/CONTENT"
_DATE = (2024, 10, 1, 0, 0, 0)
_UNIX = 3


def build(client: str = CLIENT) -> bytes:
    """Return the bundle's bytes: the same on every machine.

    Args:
        client: The ClientApp that it names. Another than a real store's is for measurements
            beside it: enrolled stores refuse such a bundle.
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
    # Stored, not deflated: compressors differ between builds of zlib.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            member = zipfile.ZipInfo(name, _DATE)
            member.create_system = _UNIX
            archive.writestr(member, data)
    return buffer.getvalue()


def digest() -> str:
    """Return the bundle's SHA-256 in hexadecimal, as Flower computes it and manifests say it."""
    return hashlib.sha256(build()).hexdigest()
