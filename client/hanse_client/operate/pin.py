"""The store runs its own code: what a coordinator hands out as an app is never installed.

Flower installs the app bundle (FAB) that a SuperLink hands out and puts it first on the path
of imports, so that a bundle with a `torch` folder would be the store's torch. A Hanse store
installs none: it runs `hanse_client.app` as installed here, whatever a bundle holds, and
takes messages only of runs whose bundle is the one that the signed manifest names by its
SHA-256, and the store's policy too if it names one. A bundle is read for one thing: to say
what is wrong with it.

>>> check(b"anything", pinned="00" * 32)
Traceback (most recent call last):
    ...
hanse_common.errors.ForeignCode: the app bundle's SHA-256 is ee0874170b7f…, the terms name \
000000000000… (nothing of it was run; it is no archive)
"""

from __future__ import annotations

import hashlib
import io
import zipfile

from hanse_client.enrolment import Enrolment
from hanse_common.decoding import decoding
from hanse_common.errors import ForeignCode

THIN = frozenset({"pyproject.toml", "LICENSE", ".info/CONTENT"})
"""All that a bundle without code holds."""
_LISTED = 3


def pinned_digest(enrolment: Enrolment) -> str:
    """The SHA-256 of the only bundle that this store takes messages under.

    Raises:
        ForeignCode: The manifest names none.
        PolicyViolation: The policy names another.
    """
    named = enrolment.manifest.fab_digest
    if named is None:
        raise ForeignCode(
            "the manifest does not name the app bundle",
            hint="ask the federation for a manifest with fab_digest",
        )
    return named


def check(bundle: bytes, *, pinned: str) -> None:
    """Refuse a bundle that is not the pinned one.

    Args:
        bundle: As it came.
        pinned: SHA-256 in hexadecimal.

    Raises:
        ForeignCode: Says which digest it has, and which code it would have brought.

    Guarantees:
        The bundle is not written to disk, and nothing of it is imported or executed.
    """
    found = hashlib.sha256(bundle).hexdigest()
    if found != pinned:
        raise ForeignCode(
            f"the app bundle's SHA-256 is {found[:12]}…, the terms name {pinned[:12]}…",
            hint=f"nothing of it was run; {_described(bundle)}",
        )


def _described(bundle: bytes) -> str:
    try:
        # Its list of names alone is read: no member is unpacked, whatever it unpacks to.
        with decoding("the bundle", ForeignCode), zipfile.ZipFile(io.BytesIO(bundle)) as archive:
            names = sorted(set(archive.namelist()) - THIN)
    except ForeignCode:
        return "it is no archive"
    if not names:
        return "it holds no code"
    # A stranger's names go to logs and terminals: printable ASCII, and few of them.
    shown = ", ".join(ascii(name[:60]) for name in names[:_LISTED])
    return f"it brings {shown}" + (f" and {len(names) - _LISTED} more" if names[_LISTED:] else "")
