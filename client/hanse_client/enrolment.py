"""A store's membership in a federation: key, certificate, policy, signed manifest.

    <folder>/store.key       the store's Ed25519 private key, 0600
    <folder>/certificate     the enrolment authority's certificate of that key
    <folder>/policy.toml     this store's own limits
    <folder>/manifest.json   the federation's terms, signed by the authority

A node that has these files sends masked vectors only, whatever a coordinator asks for.
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
        """The store's signing key.

        Raises:
            KeyFileError: The file is missing, readable by others, or not a store key.
        """
        return StoreKey.load(self.folder / STORE_KEY_FILE)

    @cached_property
    def certificate(self) -> Certificate:
        """The authority's certificate of that key.

        Raises:
            KeyFileError: The file is missing or not a certificate.
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
            BadManifest: The file is missing, altered, or not signed by the authority.
            PolicyViolation: The terms go beyond the store's own limits.
        """
        # The only way to the manifest: unsigned or too weak terms are never returned.
        return self.policy.check(SignedManifest.load(self.folder / MANIFEST_FILE))

    def attempt(self, header: Header, kind: str) -> Attempt:
        """Return this store's view of an attempt, before any message of it."""
        return Attempt(
            header=header,
            # From the store's own manifest, never from what the coordinator sent.
            terms=self.manifest.terms(kind),
            authority=bytes.fromhex(self.policy.authority),
            now=int(time.time()),
        )
