"""Error codes as labels: what a peer wrote becomes one of a known, small set.

A store's reason for refusing is the store's text. Taken over as a label it could fill a
monitoring system, or carry words that have no place there.

>>> code_in("[weak-key] public key 00… has small order"), code_in("no reply in time")
('weak-key', 'no-reply')
>>> code_in("[please-page-everybody]"), code_in("ValueError: Ada bought 7")
('other', 'internal')
>>> code_in("DataError: customer 'Ada' bought twice")
'data'
"""

from __future__ import annotations

import re
from functools import cache

from hanse_common.errors import families

NO_REPLY, INTERNAL, OTHER = "no-reply", "internal", "other"
_CODE = re.compile(r"\[([a-z-]+)\]")
_KIND = re.compile(r"([A-Za-z]\w*): ")


@cache
def known_codes() -> frozenset[str]:
    """Return the code of every error."""
    return frozenset(families())


@cache
def _by_class() -> dict[str, str]:
    return {family.__name__: family.code for family in families().values()}


def code_in(reason: str) -> str:
    """The code of a reason that begins with one in brackets, or with an exception's name."""
    found = _CODE.match(reason)
    if found:
        code = found[1]
        return code if code in known_codes() or code == INTERNAL else OTHER
    if reason == "no reply in time":
        return NO_REPLY
    named = _KIND.match(reason)
    return _by_class().get(named[1], INTERNAL) if named else OTHER
