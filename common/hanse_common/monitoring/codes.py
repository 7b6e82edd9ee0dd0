"""Maps a peer's reason for refusing to one of a small set of error codes, for use as a label.

The reason is a store's own text. As a label it could create any number of time series in a
monitoring system, or carry text that must not get there.

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

NO_REPLY = "no reply in time"
AWAY = "its node was not connected when the round began"
"""Reasons in the coordinator's own words, for stores that said nothing."""
_SILENT = {NO_REPLY: "no-reply", AWAY: "away"}
_INTERNAL, OTHER = "internal", "other"
_CODE = re.compile(r"\[([a-z-]+)\]")
_KIND = re.compile(r"([A-Za-z]\w*): ")


@cache
def known_codes() -> frozenset[str]:
    """Return the codes of all errors."""
    return frozenset(families())


@cache
def _by_class() -> dict[str, str]:
    return {family.__name__: family.code for family in families().values()}


def code_in(reason: str) -> str:
    """Return the code of a reason that starts with one in brackets, or with an exception's name.

    Args:
        reason: A refusal, as a store wrote it or as the coordinator noted it.
    """
    bracketed = _CODE.match(reason)
    if bracketed:
        code = bracketed[1]
        return code if code in known_codes() or code == _INTERNAL else OTHER
    if reason in _SILENT:
        return _SILENT[reason]
    named = _KIND.match(reason)
    return _by_class().get(named[1], _INTERNAL) if named else OTHER
