"""Identifies the signer of a request from its headers, before the gate reads the body.

Flower's nodes sign the time of every request and send their public key along. The SuperLink
checks this again, and also that the node which a body names has this key; but it reads the
body first, whoever sends it.
"""

from __future__ import annotations

import asyncio
import binascii
import logging
import time
from base64 import b64decode
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from hanse_common.errors import HanseError
from hanse_common.identity import KEY_FAULTS
from hanse_server.deployment.admit import members
from hanse_server.deployment.folder import FederationFolder
from hanse_server.flower_internals import (
    FLEET_HTTP_PUBLIC_KEY_HEADER,
    FLEET_HTTP_SIGNATURE_HEADER,
    SYSTEM_TIME_TOLERANCE,
    TIMESTAMP_HEADER,
    TIMESTAMP_TOLERANCE,
)

_SETTLED_SECONDS = 1.0
"""A folder that changed less than this before it was read may have changed again within the
resolution of its time stamp, so it is read once more."""

_log = logging.getLogger(__name__)


class AdmittedNodes:
    """The keys of admitted stores' nodes, as they are in the coordinator's folder now.

    Args:
        folder: The federation's folder; `hanse server admit` and `revoke` change it meanwhile.
    """

    def __init__(self, folder: FederationFolder) -> None:
        self._folder = folder
        self._keys: dict[bytes, ec.EllipticCurvePublicKey] = {}
        self._stamp: int | None = None
        self._read_at = time.time()
        self._reading = asyncio.Lock()

    async def signer(self, headers: Mapping[str, str]) -> bytes | None:
        """Return the public key of the admitted node that signed a request just now.

        Args:
            headers: The request's headers, with names in lower case.

        Returns:
            The key as PEM; None if the signature is missing, wrong, too old, or not by an
            admitted node.
        """
        try:
            pem = b64decode(headers[FLEET_HTTP_PUBLIC_KEY_HEADER], validate=True)
            signature = b64decode(headers[FLEET_HTTP_SIGNATURE_HEADER], validate=True)
            stamp = headers[TIMESTAMP_HEADER]
            signed = stamp.encode("ascii")
            age = (datetime.now(UTC) - datetime.fromisoformat(stamp)).total_seconds()
        except (KeyError, TypeError, ValueError, OverflowError, binascii.Error):
            return None
        # Flower's own bounds: a request that passes here passes the SuperLink's check too.
        if not -SYSTEM_TIME_TOLERANCE < age < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE:
            return None
        # A lookup first: strangers cost a comparison of bytes, not a verification.
        key = await self._find(pem)
        if key is None:
            return None
        try:
            key.verify(signature, signed, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return None
        return pem

    async def _find(self, pem: bytes) -> ec.EllipticCurvePublicKey | None:
        if self._outdated():
            async with self._reading:
                # Again: another request may have read it while this one waited for the lock.
                if self._outdated():
                    await self._read()
        return self._keys.get(pem)

    def _outdated(self) -> bool:
        stamp = _stamp(self._folder.certificates)
        if stamp != self._stamp:
            return True
        settled = self._read_at - (stamp or 0) / 1e9 > _SETTLED_SECONDS
        return not settled and time.time() - self._read_at > _SETTLED_SECONDS

    async def _read(self) -> None:
        # The stamp before the files: a change while they are read leads to another reading.
        self._stamp, self._read_at = _stamp(self._folder.certificates), time.time()
        try:
            # In a thread: a thousand certificates take half a second of files and signatures.
            self._keys = await asyncio.to_thread(_node_keys, self._folder)
        except HanseError as error:
            _log.warning("keeping the stores known so far: %s [%s]", error, error.code)


def _node_keys(folder: FederationFolder) -> dict[bytes, ec.EllipticCurvePublicKey]:
    keys = {}
    for member in members(folder):
        pem = member.request.node_key.encode()
        try:
            key = load_pem_public_key(pem)
        except KEY_FAULTS:
            continue  # one store's unusable key must not lock out the others
        if isinstance(key, ec.EllipticCurvePublicKey):
            keys[pem] = key
    return keys


def _stamp(folder: Path) -> int | None:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return None
