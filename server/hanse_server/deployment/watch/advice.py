"""What the coordinator's operator should do next, as sentences with commands to copy."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from hanse_common.pages.live.advice import Advice, by_urgency
from hanse_common.paths import (
    AUTHORITY_KEY_FILE,
    INVITATION_FILE,
    REQUEST_SUFFIX,
    SUPERLINK_LOG_FILE,
)
from hanse_server.deployment.alerts import coordinator_events
from hanse_server.deployment.folder import FederationFolder
from hanse_server.deployment.run_state import RunState
from hanse_server.deployment.status import Status

_DOCTOR = "hanse store doctor --folder FOLDER"


def advice(federation: FederationFolder, status: Status) -> list[Advice]:
    """Return what to do next, the most urgent first."""
    folder = federation.path
    found = [
        *(Advice(tone="bad", text=f"This page is not complete: {e}") for e in status.unreadable),
        *_link(folder, status),
        *_terms(folder, status),
        *_run(federation, status),
        *_stores(folder, status),
        *_events(federation, status.run),
    ]
    return by_urgency(found)


def command(folder: Path, *words: str) -> str:
    """Return a command line of `hanse server` on a folder.

    >>> command(Path("/var/lib/my hanse"), "up")
    "hanse server up --folder '/var/lib/my hanse'"
    """
    return shlex.join(["hanse", "server", *words, "--folder", str(folder)])


def _link(folder: Path, status: Status) -> Iterator[Advice]:
    if not status.up:
        done = status.run is not None and status.run.state in ("finished", "ended early")
        yield Advice(
            tone="calm" if done else "bad",
            text="No store can connect until the coordinator is up. A run that was interrupted "
            "then goes on by itself.",
            command=command(folder, "up"),
        )


def _terms(folder: Path, status: Status) -> Iterator[Advice]:
    sign = command(folder, "manifest", "sign", "--authority-key", AUTHORITY_KEY_FILE)
    if status.manifest is None:
        if len(status.stores) < 3:
            yield Advice(
                tone="calm",
                text=f"Hand {INVITATION_FILE} to the stores, and admit those that answer; three "
                "stores are the least.",
                command=command(
                    folder, "admit", f"STORE{REQUEST_SUFFIX}", "--authority-key", "KEY"
                ),
            )
        else:
            yield Advice(tone="warn", text="No terms are signed yet. Sign them.", command=sign)
        return
    new = [row.store for row in status.stores if row.standing == "admitted" and not row.in_manifest]
    if new:
        yield Advice(
            tone="calm",
            text=f"The signed terms do not name {_names(new)}, so it takes no part. To include "
            "it, sign terms again and hand them out.",
            command=sign,
        )
    gone = [row.store for row in status.stores if row.standing == "revoked" and row.in_manifest]
    if gone:
        yield Advice(
            tone="warn",
            text=f"The signed terms still name {_names(gone)}, which is revoked. Sign terms "
            "without it, or every round lacks its share of the noise.",
            command=sign,
        )


def _run(federation: FederationFolder, status: Status) -> Iterator[Advice]:
    folder = federation.path
    run = status.run
    if run is None:
        if status.up and status.manifest is not None:
            yield Advice(
                tone="calm",
                text="Once the stores of the terms are online, start the first run.",
                command=command(folder, "run"),
            )
    elif run.state == "stopped":
        yield Advice(
            tone="calm",
            text=f"Run {run.name} was stopped after round {run.round}. It goes on from there.",
            command=command(folder, "resume", "--name", run.name),
        )
    elif run.state == "failed":
        yield Advice(
            tone="bad",
            text=f"Run {run.name} failed after round {run.round}. {_failure(run)}",
            command=command(folder, "resume", "--name", run.name),
        )
    elif run.state == "recovering":
        yield Advice(tone="warn", text=f"Run {run.name} pauses. {_failure(run)}")
    elif run.state == "ended early":
        yield Advice(
            tone="warn",
            text=f"The budget of the terms is spent: run {run.name} ended after round {run.round}, "
            "with a complete model. To go on, sign terms that continue from it.",
            command=command(folder, "manifest", "sign", "--continue-from", run.name),
        )
    elif run.state == "finished":
        model = shlex.join(
            [
                *("hanse", "model", "export", run.folder),
                *("--base", str(federation.resolve(federation.file.model))),
                *("--output", str(folder / f"trained-{run.name}")),
            ]
        )
        yield Advice(
            tone="calm",
            text=f"Run {run.name} is finished. Make the model that stores can use, where "
            "hanse[client] is installed.",
            command=model,
        )


def _stores(folder: Path, status: Status) -> Iterator[Advice]:
    listed = [row for row in status.stores if row.in_manifest and row.standing == "admitted"]
    away = [row.store for row in listed if row.connection in ("offline", "never")]
    if status.up and away:
        yield Advice(
            tone="warn" if status.run and status.run.state == "underway" else "calm",
            text=f"{_names(away)} {'is' if len(away) == 1 else 'are'} not connected. Ask for the "
            "result of this command there.",
            command=_DOCTOR,
        )
    shut_out = [row.store for row in listed if row.connection == "shut out"]
    if status.up and shut_out:
        yield Advice(
            tone="warn",
            text=f"The SuperLink does not know the key of {_names(shut_out)}. `hanse server down` "
            "and `hanse server up` register all admitted stores again.",
            command=f"{command(folder, 'down')} && {command(folder, 'up', '--detach')}",
        )
    for row in listed:
        if row.upgrade:
            yield Advice(tone="bad", text=f"{row.upgrade}.")
    blamed = [row for row in status.stores if row.blamed and row.standing != "revoked"]
    for row in blamed:
        yield Advice(
            tone="warn",
            text=f"{row.store} is {row.blamed}. Once it is in order again, readmit it.",
            command=command(folder, "blame", "--readmit", row.store),
        )


def _events(federation: FederationFolder, run: RunState | None) -> Iterator[Advice]:
    """What the operator is told of by `[notify]` too, with the command for it."""
    folder = federation.path
    goes_on = ("--continue-from", run.name) if run else ()
    commands = {
        "tls-near-end": command(folder, "tls", "renew"),
        "certificate-near-end": command(folder, "admit", f"STORE{REQUEST_SUFFIX}", "--replace"),
        "grant-near-end": command(folder, "manifest", "sign", *goes_on),
        "process-crashed": shlex.join(
            ["tail", "-n", "100", str(federation.state / SUPERLINK_LOG_FILE)]
        ),
        "store-lost": _DOCTOR,
        "noise-missing": _DOCTOR,
    }
    more = {
        "certificate-near-end": " Ask it for a new request (`hanse store enrol`), and admit that.",
        "process-crashed": " Its last lines say why.",
        "store-lost": " Ask for the result of this command there.",
        "noise-missing": " Have every store check its release of Hanse.",
    }
    for event in coordinator_events(federation):
        if event.kind in commands:  # `_run` says more of a run that failed
            yield Advice(
                tone="bad" if event.step == 0 else "warn",
                text=f"{event.sentence}.{more.get(event.kind, '')}",
                command=commands[event.kind],
            )


def _failure(run: RunState) -> str:
    table = {key: str(run.failure.get(key) or "") for key in ("code", "message", "hint")}
    if not table["message"]:
        return ""
    hint = table["hint"]
    # Hints begin in lower case, because an error prints them in brackets.
    sentence = f" {hint[0].upper()}{hint[1:]}." if hint else ""
    return f"The reason: {table['message']} [{table['code']}].{sentence}"


def _names(stores: Sequence[str]) -> str:
    most = 6
    if len(stores) > most:
        return f"{', '.join(stores[:most])} and {len(stores) - most} more"
    return " and ".join(filter(None, (", ".join(stores[:-1]), stores[-1])))
