"""Something that an operator should do, with the command that does it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_TONES = ("bad", "warn", "calm")


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """Something to do.

    Args:
        tone: `bad` if nothing works without it, `warn` if it should be done soon, else `calm`.
        text: What is so, and what to do.
        command: The command line that does it; empty if none does.
    """

    tone: str
    text: str
    command: str = ""


def by_urgency(advice: Iterable[Advice]) -> list[Advice]:
    """Return advice in order, the most urgent first."""
    return sorted(advice, key=lambda one: _TONES.index(one.tone))
