"""What the store's operator should do next, as sentences with commands to copy."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from hanse_client.deployment.alerts import notify_settings, store_events
from hanse_client.deployment.watch.state import StoreState
from hanse_common.errors import HanseError, StoreNotReady
from hanse_common.pages.live.advice import Advice, by_urgency

_FEW_ROUNDS = 10


def advice(state: StoreState) -> list[Advice]:
    """Return what to do next, the most urgent first.

    Edge cases:
        What cannot be read gives no advice here; the part of the page that shows it says so.
    """
    folder = state.folder.path
    try:
        state.folder.membership()
    except StoreNotReady as error:
        return [
            Advice(
                tone="calm",
                text=f"{error.message}. {error.hint}.",
                command=command(folder, "enrol"),
            )
        ]
    found: list[Advice] = []
    for sentences in (_node, _data, _budget, _events, _refused):
        try:
            found += sentences(state)
        except HanseError:
            continue
    return by_urgency(found)


def command(folder: Path, *words: str) -> str:
    """Return a command line of `hanse store` on a folder."""
    return shlex.join(["hanse", "store", *words, "--folder", str(folder)])


def _node(state: StoreState) -> Iterator[Advice]:
    folder = state.folder.path
    decided = state.leaving
    if decided is not None:
        after = f"after round {decided.after_round}" if decided.after_round else "at once"
        yield Advice(
            tone="calm",
            text=f"This store has left the federation {after}. This takes the decision back."
            if decided.left or not decided.after_round
            else f"This store leaves {after}. This takes the decision back.",
            command=command(folder, "leave", "--stay"),
        )
    elif not state.joined:
        yield Advice(
            tone="bad",
            text="The node does not run, so the store takes part in no round.",
            command=command(folder, "join"),
        )


def _data(state: StoreState) -> Iterator[Advice]:
    reason = state.prepared.reason
    if not reason:
        return
    if state.joined:
        yield Advice(
            tone="warn",
            text=f"The data have to be prepared again: {reason}. The node does it before the next "
            "round; if this sentence stays, this command shows why.",
            command=command(state.folder.path, "doctor"),
        )
    else:
        yield Advice(
            tone="warn",
            text=f"The data have to be prepared again: {reason}.",
            command=command(state.folder.path, "data", "prepare"),
        )


def _budget(state: StoreState) -> Iterator[Advice]:
    left = state.budget.get("rounds left")
    if left is None or left >= _FEW_ROUNDS:
        return
    yield Advice(
        tone="warn" if left else "bad",
        text=("The budget is spent. " if not left else f"The budget lasts for {left} more rounds. ")
        + "To go on, raise max_epsilon or set budget_renews in policy.toml, which is a decision "
        "about people's privacy; or leave.",
        command=command(state.folder.path, "budget"),
    )


def _events(state: StoreState) -> Iterator[Advice]:
    """What the operator is told of by `[notify]` too, with the command for it."""
    folder = state.folder.path
    commands = {
        "certificate-near-end": command(folder, "enrol"),
        "tls-near-end": "hanse server tls renew",
        "budget-near-end": command(folder, "budget"),
    }
    more = {
        "certificate-near-end": " Write a request for another one, and send it to the coordinator.",
        "tls-near-end": " Ask the coordinator to run this command there.",
    }
    for event in store_events(state.folder, notify_settings(state.folder)):
        if event.kind in commands:  # `_refused` says more of refusals
            yield Advice(
                tone="bad" if event.step == 0 else "warn",
                text=f"{event.sentence}.{more.get(event.kind, '')}",
                command=commands[event.kind],
            )


def _refused(state: StoreState) -> Iterator[Advice]:
    refused = state.refused_today
    if refused:
        codes = ", ".join(sorted({one.code for one in refused}))
        yield Advice(
            tone="warn",
            text=f"In the last 24 hours the store refused {len(refused)} messages ({codes}). The "
            "full texts are in its log.jsonl, which stays at the store.",
            command=command(state.folder.path, "doctor"),
        )
