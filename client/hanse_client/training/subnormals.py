"""Flushing of subnormal floating-point numbers to zero, against a timing channel.

Subnormal numbers make a matrix product hundreds of times slower. A coordinator could choose a
model that yields them for certain customers only, and see from a store's response time whether
it has such customers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def flush_subnormals() -> None:
    """Flush subnormal numbers to zero in this process from now on.

    Call it before torch starts threads of its own.
    """
    # A thread inherits the setting of the thread that starts it, so that later threads have it.
    torch.set_flush_denormal(True)


def flushing_subnormals(compute: Callable[P, R]) -> Callable[P, R]:
    """Flush subnormal numbers to zero while the function runs, in the thread that runs it."""

    @functools.wraps(compute)
    def flushed(*args: P.args, **kwargs: P.kwargs) -> R:
        before = _are_flushed()
        torch.set_flush_denormal(True)
        try:
            return compute(*args, **kwargs)
        finally:
            torch.set_flush_denormal(before)

    return flushed


def _are_flushed() -> bool:
    # torch has no getter: the product is 1e-40, a subnormal number of float32.
    return not bool((torch.full((1,), 1e-20) * 1e-20).any())
