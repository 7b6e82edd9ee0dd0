"""What makes a node a member of a federation: key, certificate, policy, signed manifest.

    <folder>/store.key       Ed25519 private key, 0600
    <folder>/certificate     the enrolment authority's word for it
    <folder>/policy.toml     this store's own limits
    <folder>/manifest.json   the federation's terms, signed by the authority

A node that has these sends nothing but masked vectors, whatever a coordinator asks for.
"""

from __future__ import annotations

import time
from functools import cached_property
from pathlib import Path

from hanse_common.identity import Certificate, StoreKey
from hanse_common.manifest import Manifest, SignedManifest
from hanse_common.paths import CERTIFICATE_FILE, MANIFEST_FILE, POLICY_FILE, STORE_KEY_FILE
from hanse_common.policy import StorePolicy
from hanse_common.secagg.terms import Attempt, Header


class Enrolment:
    """A store's membership, read from its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def key(self) -> StoreKey:
        """The store's identity.

        Raises:
            KeyFileError: The file is missing, readable by others, or no store key.
        """
        return StoreKey.load(self.folder / STORE_KEY_FILE)

    @cached_property
    def certificate(self) -> Certificate:
        """The authority's certificate of that identity.

        Raises:
            KeyFileError: The file is missing or no certificate.
        """
        return Certificate.load(self.folder / CERTIFICATE_FILE)

    @cached_property
    def policy(self) -> StorePolicy:
        """The store's own limits.

        Raises:
            ConfigError: The file cannot be read, or holds an unknown or malformed setting.
        """
        return StorePolicy.from_toml(self.folder / POLICY_FILE)

    @cached_property
    def manifest(self) -> Manifest:
        """The federation's terms, signed by the pinned authority and within the policy.

        Raises:
            BadManifest: The file is missing, altered, or signed by somebody else.
            PolicyViolation: The terms go beyond the store's own limits.
        """
        return self.policy.check(SignedManifest.load(self.folder / MANIFEST_FILE))

    def attempt(self, header: Header, kind: str) -> Attempt:
        """Return what this store holds of an attempt before any message."""
        return Attempt(
            header=header,
            terms=self.manifest.terms("train" if kind == "train" else "evaluate"),
            authority=bytes.fromhex(self.policy.authority),
            now=int(time.time()),
        )
