"""Check of the app bundle (FAB) of a run; a store never installs one.

Flower's SuperNode installs the bundle that a SuperLink hands out and puts it first on the import
path, so that a bundle with a `torch` folder would replace the store's torch. A Hanse store runs
`hanse_client.app` as installed. It answers only runs whose bundle has the SHA-256 in the signed
manifest, and in the store's policy if that names one. The bundle's list of files is read for the
error message alone.

>>> Bundle.read(b"anything")
Bundle(digest='ee0874170b7f6f32b8c2ac9573c428d35b575270a66b757c2c0185d2bd09718d', holds='it is \
no archive')
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass

from flwr.app import Context

from hanse_common.decoding import decoding
from hanse_common.errors import MalformedMessage, PolicyViolation
from hanse_common.manifest import Manifest

THIN = frozenset({"pyproject.toml", "LICENSE", ".info/CONTENT"})
"""The files of a bundle without code."""
_LISTED = 3
"""Names of files that an error message quotes."""
_DIGEST, _HOLDS = "bundle-digest", "bundle-holds"


@dataclass(frozen=True, slots=True)
class Bundle:
    """Digest and description of a run's app bundle, which is not written, imported or run."""

    digest: str
    """SHA-256 of its bytes, in hexadecimal."""
    holds: str = ""
    """Description of the files in it, for error messages."""

    @classmethod
    def read(cls, data: bytes) -> Bundle:
        """Describe a bundle from its bytes."""
        return cls(hashlib.sha256(data).hexdigest(), _described(data))

    @classmethod
    def of(cls, context: Context) -> Bundle | None:
        """The bundle that `as_config` put into the context; None on an engine without bundles."""
        digest = context.node_config.get(_DIGEST)
        return None if digest is None else cls(str(digest), str(context.node_config.get(_HOLDS)))

    def as_config(self) -> dict[str, str]:
        """Entries of a node's configuration that carry it to the ClientApp's process."""
        return {_DIGEST: self.digest, _HOLDS: self.holds}


def check_bundle(bundle: Bundle | None, manifest: Manifest) -> None:
    """Check that a run's bundle is the one that the manifest names.

    Args:
        bundle: The run's bundle; None on an engine without bundles.
        manifest: The manifest, checked against the store's policy, which may name a bundle too.

    Raises:
        PolicyViolation [foreign-code]: The digests differ, the manifest names no bundle, or the
            engine has none to compare. The message quotes digests and names of files.
    """
    pinned = manifest.fab_digest
    if bundle is None:
        if pinned is None:
            return
        raise PolicyViolation(
            "the manifest names an app bundle, and the engine that runs this store has none",
            code="foreign-code",
            hint="run the store's node with `hanse store join`",
        )
    if pinned is None:
        raise PolicyViolation(
            "the manifest does not name the app bundle",
            code="foreign-code",
            hint="ask the federation for a manifest with fab_digest",
        )
    if bundle.digest != pinned:
        raise PolicyViolation(
            f"the app bundle's SHA-256 is {bundle.digest[:12]}…, the terms name {pinned[:12]}…",
            code="foreign-code",
            hint=f"nothing of it was run; {bundle.holds}",
        )


def _described(bundle: bytes) -> str:
    try:
        # Only the list of names is read. Unpacking a member could fill memory or disk.
        with (
            decoding("the bundle", MalformedMessage),
            zipfile.ZipFile(io.BytesIO(bundle)) as archive,
        ):
            names = sorted(set(archive.namelist()) - THIN)
    except MalformedMessage:
        return "it is no archive"
    if not names:
        return "it holds no code"
    # The names go to logs and terminals: as printable ASCII, so that they hold no control codes.
    shown = ", ".join(ascii(name[:60]) for name in names[:_LISTED])
    return f"it brings {shown}" + (f" and {len(names) - _LISTED} more" if names[_LISTED:] else "")
