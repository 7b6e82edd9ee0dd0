"""Subnormal numbers count as zero wherever a store computes on its customers.

They make a matrix product hundreds of times slower: whoever chooses the model could read off a
store's seconds whom it computes on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def flush_subnormals() -> None:
    """Let them count as zero in this process from now on.

    A thread has the setting of the one that started it: called before torch starts threads of
    its own, it holds for all of them.
    """
    torch.set_flush_denormal(True)


def flushing_subnormals(compute: Callable[P, R]) -> Callable[P, R]:
    """Let them count as zero while a function runs, in the thread that runs it."""

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
    return not bool((torch.full((1,), 1e-20) * 1e-20).any())
