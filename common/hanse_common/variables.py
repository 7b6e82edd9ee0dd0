"""Environment variables that are set for a while."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables within the block; processes started there inherit them.

    >>> before = dict(os.environ)
    >>> with environment({"HANSE_EXAMPLE": "1"}):
    ...     os.environ["HANSE_EXAMPLE"]
    '1'
    >>> dict(os.environ) == before
    True
    """
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
