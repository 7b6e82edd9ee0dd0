"""The store's page: what each part reads from the node's folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from hanse_client.deployment.folder import StoreFolder
from hanse_client.deployment.watch.advice import advice
from hanse_client.deployment.watch.state import Event, StoreState, instant
from hanse_common.audit.terms import under
from hanse_common.errors import HanseError
from hanse_common.manifest_terms import grant_of
from hanse_common.pages import page_environment
from hanse_common.pages.live.charts import line
from hanse_common.pages.live.parts import LivePage, Part
from hanse_common.wording import epsilon, epsilon_left

_T = TypeVar("_T")
_QUIET_DAYS = 2.0
"""Days without an exchange after which the page points at it."""


def store_page(path: Path) -> LivePage:
    """Return the page of a store's folder.

    Args:
        path: The folder.

    Raises:
        StoreNotReady: The folder holds no store.
    """
    environment = page_environment("hanse_client", "deployment/watch")
    environment.filters |= {"epsilon": epsilon, "epsilon_left": epsilon_left}
    return LivePage(
        title=f"{StoreFolder(path).node().name} – Hanse store",
        product="hanse store watch",
        environment=environment,
        parts=lambda: _Page(StoreState(path)).parts(),
    )


class _Page:
    """The parts of the page, which share one reading of the folder."""

    def __init__(self, state: StoreState) -> None:
        self._state = state

    def parts(self) -> list[Part]:
        """The parts in the order of the page."""
        return [
            Part(name="now", title="", template="now.html.j2", read=self._now),
            Part(name="next", title="What to do next", template="next.html.j2", read=self._next),
            Part(
                name="leaves",
                title="What leaves the store in a round",
                template="leaves.html.j2",
                read=self._leaves,
            ),
            Part(
                name="events",
                title="The last exchanges",
                template="events.html.j2",
                read=self._events,
            ),
            Part(
                name="costs",
                title="What it costs",
                template="costs.html.j2",
                read=self._costs,
                aside=True,
            ),
            Part(
                name="data",
                title="Data",
                template="data.html.j2",
                read=self._data,
                aside=True,
            ),
            Part(
                name="terms",
                title="Terms and membership",
                template="terms.html.j2",
                read=self._terms,
                aside=True,
            ),
        ]

    def _now(self) -> dict[str, Any]:
        state = self._state
        tone, sentence = _sentence(state)
        return {
            "name": state.name,
            "tone": tone,
            "sentence": sentence,
            "joined": state.joined,
            "budget": _or_none(lambda: state.budget),
            "prepared": _or_none(lambda: state.prepared),
            "days": _or_none(lambda: state.certificate_days),
            "last": next((one for one in _events(state) if one.what == "charged"), None),
        }

    def _next(self) -> dict[str, Any]:
        return {"advice": advice(self._state)}

    def _leaves(self) -> dict[str, Any]:
        return {"round": self._state.round}

    def _events(self) -> dict[str, Any]:
        return {"events": self._state.events}

    def _costs(self) -> dict[str, Any]:
        state = self._state
        budget = state.budget
        charged = [one.epsilon for one in reversed(state.events) if one.what == "charged"]
        limit = budget.get("limit")
        top = max([*(value or 0.0 for value in charged), limit or 0.0], default=0.0)
        return {
            "budget": budget,
            "cost": _or_none(lambda: state.round.cost) or {},
            "line": line(
                charged,
                low=0.0,
                high=1.05 * top or 1.0,
                marks={} if limit is None else {"limit": limit},
            ),
            "limit": limit,
        }

    def _data(self) -> dict[str, Any]:
        return {"data": self._state.prepared, "joined": self._state.joined}

    def _terms(self) -> dict[str, Any]:
        state = self._state
        until = state.certificate_until
        manifest = state.manifest
        grant = grant_of(manifest)
        return {
            "manifest": manifest,
            "digest": manifest.digest().hex(),
            "granted": None if grant is None else sum(grant.exchanges.values()),
            "charged": len(under(state.entries, manifest)),
            "policy": state.folder.membership().policy,
            "until": None if until is None else instant(until),
            "tls_until": state.tls_until,
            "leaving": state.leaving,
        }


def _or_none(read: Callable[[], _T]) -> _T | None:
    """What a function returns; None if it cannot read, as another part of the page says."""
    try:
        return read()
    except HanseError:
        return None


def _events(state: StoreState) -> list[Event]:
    return _or_none(lambda: state.events) or []


def _sentence(state: StoreState) -> tuple[str, str]:
    """The state in one sentence, without figures that change at every update."""
    decided = state.leaving
    if decided is not None and (decided.left or not decided.after_round):
        return "calm", "This store has left the federation."
    if _or_none(state.folder.membership) is None:
        return "calm", "This store is not enrolled yet."
    budget = _or_none(lambda: state.budget)
    if budget is not None and budget.get("rounds left") == 0:
        return "bad", "The budget is spent: the store takes part in no more rounds."
    if not state.joined:
        return "bad", "The node does not run: the store takes part in no round."
    return _activity(state)


def _activity(state: StoreState) -> tuple[str, str]:
    """What a running node does, in one sentence."""
    charged = [one for one in _events(state) if one.what == "charged"]
    if not charged:
        return "good", "The node runs, and waits for its first round."
    quiet = time.time() - datetime.fromisoformat(charged[0].time).timestamp()
    if quiet > _QUIET_DAYS * 86_400:
        return "warn", f"The node runs, but had no exchange for {quiet / 86_400:.0f} days."
    return "good", "The node runs and takes part."
