"""The store runs its own code: what a coordinator hands out as an app is never installed.

Flower installs the app bundle (FAB) that a SuperLink hands out and puts it first on the path
of imports, so that a bundle with a `torch` folder would be the store's torch. A Hanse store
installs none: it runs `hanse_client.app` as installed here, whatever a bundle holds, and
takes messages only of runs whose bundle is the one that the signed manifest names by its
SHA-256, and the store's policy too if it names one. A bundle is read for one thing: to say
what is wrong with it.

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
"""All that a bundle without code holds."""
_LISTED = 3
_DIGEST, _HOLDS = "bundle-digest", "bundle-holds"


@dataclass(frozen=True, slots=True)
class Bundle:
    """What is known of the app bundle of a run; nothing of it is written, imported or run."""

    digest: str
    """SHA-256 of its bytes, in hexadecimal."""
    holds: str = ""
    """What it would have brought, for people."""

    @classmethod
    def read(cls, data: bytes) -> Bundle:
        """Look at a bundle as it came."""
        return cls(hashlib.sha256(data).hexdigest(), _described(data))

    @classmethod
    def of(cls, context: Context) -> Bundle | None:
        """What `as_config` handed on; None on an engine that has no bundles."""
        digest = context.node_config.get(_DIGEST)
        return None if digest is None else cls(str(digest), str(context.node_config.get(_HOLDS)))

    def as_config(self) -> dict[str, str]:
        """Entries of a node's configuration, for the process that answers."""
        return {_DIGEST: self.digest, _HOLDS: self.holds}


def check_bundle(bundle: Bundle | None, manifest: Manifest) -> None:
    """Refuse a message of a run whose bundle is not the one that the manifest names.

    Args:
        bundle: The run's; None on an engine that has none.
        manifest: Checked against the store's policy, which may name a bundle too.

    Raises:
        PolicyViolation [foreign-code]: Says which digest it has, and which code it would have
            brought; or that the manifest names no bundle, or the engine has none to compare.
    """
    pinned = manifest.fab_digest
    if bundle is None:
        if pinned is None:
            return
        raise PolicyViolation(
            "the manifest names an app bundle, and what runs this store shows none",
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
        # Its list of names alone is read: no member is unpacked, whatever it unpacks to.
        with (
            decoding("the bundle", MalformedMessage),
            zipfile.ZipFile(io.BytesIO(bundle)) as archive,
        ):
            names = sorted(set(archive.namelist()) - THIN)
    except MalformedMessage:
        return "it is no archive"
    if not names:
        return "it holds no code"
    # A stranger's names go to logs and terminals: printable ASCII, and few of them.
    shown = ", ".join(ascii(name[:60]) for name in names[:_LISTED])
    return f"it brings {shown}" + (f" and {len(names) - _LISTED} more" if names[_LISTED:] else "")
