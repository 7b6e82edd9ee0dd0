"""The version of an installation: the protocol that it speaks, and its release.

A store's node sends both with each request to its coordinator and with each Hello; the
coordinator's gateway answers with its own. Parties of one protocol version work together,
whatever their releases are. A party that sends none is older than this field, and speaks
protocol version 1.

>>> Version.decode("1 0.1.0")
Version(protocol=1, release='0.1.0')
>>> print(Version.decode(None))
protocol version 1 (an earlier release of Hanse)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

from hanse_common.errors import ProtocolError
from hanse_common.secagg.terms import VERSION

VERSION_FIELD = "hanse-version"
"""The HTTP header, and the field beside a Hello, that hold an encoded version."""
VERSION_PATH = "/v1/hanse/version"
"""The path at which a gateway answers an admitted node's GET with the coordinator's version."""
OTHER_VERSION_STATUS = 426
"""HTTP status (RFC 9110, *Upgrade Required*) for a node of another protocol version."""
EARLIER = "earlier"
"""Stands for the release of a party that did not name it."""
_TEXT = re.compile(r"([0-9]{1,5}) ([A-Za-z0-9.+!_-]{1,64})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Version:
    """The version of one party.

    Args:
        protocol: Version of the messages of secure aggregation.
        release: The package's version; empty if the party did not name it.
    """

    protocol: int
    release: str

    def __str__(self) -> str:
        return f"protocol version {self.protocol} ({self.release_name})"

    @property
    def release_name(self) -> str:
        """The release in words."""
        return f"Hanse {self.release}" if self.release else "an earlier release of Hanse"

    def encode(self) -> str:
        """Return the text that is sent."""
        return f"{self.protocol} {self.release}"

    @classmethod
    def decode(cls, text: object) -> Version:
        """Read what another party sent; anything else counts as not sent.

        Args:
            text: The received value, of any type and length.
        """
        found = _TEXT.fullmatch(text) if isinstance(text, str) else None
        return cls(int(found[1]), found[2]) if found else _UNNAMED


_UNNAMED = Version(1, "")


@lru_cache(maxsize=1)
def own_version() -> Version:
    """The version of this installation."""
    try:
        release = version("hanse")
    except PackageNotFoundError:  # run from a source tree that is not installed
        release = "0"
    return Version(VERSION, release)


def other_protocol(theirs: Version, *, they: str, we: str) -> ProtocolError:
    """Return the error about a party of another protocol version; its hint says who upgrades.

    Args:
        theirs: The other party's version.
        they: The other party, for the message.
        we: This party, for the message.

    >>> str(other_protocol(Version(0, "0.0.9"), they="store 'riga'", we="this coordinator"))
    "store 'riga' speaks protocol version 0 (Hanse 0.0.9), and this coordinator protocol version \
1 (Hanse 0.1.0) (upgrade store 'riga' to Hanse 0.1.0, with the constraints.txt of that release)"
    """
    own = own_version()
    behind, ahead = (we, theirs) if own.protocol < theirs.protocol else (they, own)
    return ProtocolError(
        f"{they} speaks {theirs}, and {we} {own}",
        code="unsupported-version",
        hint=f"upgrade {behind} to {ahead.release_name}, with the constraints.txt of that release",
    )
