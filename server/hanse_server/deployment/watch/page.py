"""The coordinator's page: what each part reads from the federation's folder.

The state is read by the functions of `hanse server status`, `run` and `manifest sign`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hanse_common.errors import HanseError
from hanse_common.manifest import Manifest
from hanse_common.manifest_terms import plan_of
from hanse_common.pages import page_environment
from hanse_common.pages.live.charts import bars, line, width_for
from hanse_common.pages.live.parts import LivePage, Part
from hanse_common.versions import EARLIER
from hanse_server.deployment.alerts import LEAST_NOISE_SHARE
from hanse_server.deployment.attendance import attendance
from hanse_server.deployment.folder import FederationFolder
from hanse_server.deployment.run_state import RunState, all_runs
from hanse_server.deployment.sign import signed_manifest
from hanse_server.deployment.status import Status, StoreRow, read_status
from hanse_server.deployment.watch.advice import advice
from hanse_server.deployment.watch.budget import charged_uploads, granted_uploads
from hanse_server.deployment.watch.certificates import Ending, endings
from hanse_server.deployment.watch.exchanges import (
    MOST_ROUNDS,
    Exchange,
    UnderWay,
    last_exchanges,
    lost_stores,
    stage_name,
    under_way,
)

_STATES = {
    "underway": ("good", "under way"),
    "finished": ("good", "finished"),
    "ended early": ("warn", "ended early"),
    "failed": ("bad", "failed"),
    "recovering": ("warn", "pauses, and goes on by itself"),
    "stopped": ("calm", "stopped"),
    "lost": ("bad", "lost"),
}


def coordinator_page(path: Path) -> LivePage:
    """Return the page of a federation's folder.

    Args:
        path: The coordinator's folder.
    """
    return LivePage(
        title=f"{FederationFolder(path).file.name} – Hanse coordinator",
        product="hanse server watch",
        environment=page_environment("hanse_server", "deployment/watch"),
        parts=lambda: _Reading(path).parts(),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreView:
    """One store on the page: its row of `status`, and what it has charged under the terms."""

    row: StoreRow
    refusal: str
    code: str
    at: str
    charged: int | None
    days: float | None
    """Days until its certificate ends."""

    @property
    def tone(self) -> str:
        """How its connection is: `good`, `warn`, `bad` or `calm`."""
        if self.row.standing != "admitted" or self.row.connection in ("shut out", "other version"):
            return "bad"
        if self.row.connection == "online":
            return "warn" if self.row.blamed else "good"
        return "calm" if self.row.connection == "unknown" else "warn"

    @property
    def release(self) -> str:
        """The release that it runs, as its node named it; empty before it was heard."""
        return EARLIER if self.row.release == "" else self.row.release or ""

    @property
    def stage(self) -> str:
        """The stage that it is asked for, or has answered, by the protocol's name."""
        verb, _, message_type = (self.row.stage or "").rpartition(" ")
        return f"{verb} {stage_name(message_type)}".strip()

    @property
    def connection(self) -> str:
        """Its connection in one or two words."""
        if self.row.standing != "admitted":
            return self.row.standing
        return {"never": "never seen", "unknown": "not known"}.get(
            self.row.connection, self.row.connection
        )


class _Reading:
    """One reading of the folder, which the parts of one update share."""

    def __init__(self, path: Path) -> None:
        self._folder = FederationFolder(path)

    def parts(self) -> list[Part]:
        """The parts in the order of the page."""
        return [
            Part(name="now", title="", template="now.html.j2", read=self._now),
            Part(name="next", title="What to do next", template="next.html.j2", read=self._next),
            Part(
                name="round",
                title="The round under way",
                template="round.html.j2",
                read=self._round,
            ),
            Part(name="stores", title="Stores", template="stores.html.j2", read=self._stores),
            Part(
                name="rounds",
                title=f"The last {MOST_ROUNDS} rounds",
                template="rounds.html.j2",
                read=self._rounds,
            ),
            Part(
                name="terms",
                title="Terms and budget",
                template="terms.html.j2",
                read=self._terms,
                aside=True,
            ),
            Part(
                name="certificates",
                title="Certificates",
                template="certificates.html.j2",
                read=self._certificates,
                aside=True,
            ),
        ]

    @cached_property
    def _status(self) -> Status:
        return read_status(self._folder)

    @cached_property
    def _exchanges(self) -> list[Exchange]:
        return last_exchanges(all_runs(self._folder))

    @cached_property
    def _endings(self) -> list[Ending]:
        return endings(self._folder)

    @cached_property
    def _manifest(self) -> Manifest:
        return signed_manifest(self._folder)

    def _now(self) -> dict[str, Any]:
        status = self._status
        tone, sentence = _sentence(status)
        listed = [row for row in status.stores if row.in_manifest or status.manifest is None]
        online = sum(row.connection == "online" for row in listed)
        shares = [one.noise_share for one in self._exchanges if one.noise_share is not None]
        ends = self._endings
        return {
            "name": status.federation,
            "address": status.address,
            "release": status.release,
            "protocol": status.protocol,
            "up": status.up,
            "tone": tone,
            "sentence": sentence,
            "online": online,
            "listed": len(listed),
            "run": status.run,
            "state": _STATES[status.run.state] if status.run else ("calm", "none yet"),
            "noise": shares[0] if shares else None,
            "least_noise": LEAST_NOISE_SHARE,
            "ending": ends[0] if ends else None,
        }

    def _next(self) -> dict[str, Any]:
        found = advice(self._folder, self._status)
        run = self._status.run
        goes_on = run is not None and run.state == "underway"
        return {"advice": found, "goes_on": goes_on}

    def _round(self) -> dict[str, Any]:
        run = self._status.run
        view: UnderWay | None = None
        if run is not None and run.state == "underway":
            view = under_way(run.name, run.rounds, self._status.progress)
        return {"round": view, "run": run, "left": _left(run, self._exchanges)}

    def _stores(self) -> dict[str, Any]:
        status = self._status
        granted, charged, unreadable = self._uploads()
        days = {one.store: one.days for one in self._endings if one.store}
        views = []
        for row in status.stores:
            (lost,) = lost_stores({row.store: row.refusal}) if row.refusal else (None,)
            views.append(
                StoreView(
                    row=row,
                    refusal=lost.reason if lost else "",
                    code=lost.code if lost else "",
                    at=lost.at if lost else "",
                    charged=charged.get(row.store, 0) if granted and row.in_manifest else None,
                    days=days.get(row.store),
                )
            )
        return {
            "stores": views,
            "granted": granted,
            "unreadable": unreadable,
            "searches": status.searches,
            "folder": str(self._folder.path),
        }

    def _uploads(self) -> tuple[int | None, dict[str, int], str]:
        """What the terms grant, what stores have charged of it, and why that is unknown."""
        if self._status.manifest is None:
            return None, {}, ""
        try:
            charged = charged_uploads(self._folder.path, self._manifest)
        except HanseError as error:
            return None, {}, error.message
        return granted_uploads(self._manifest), charged, ""

    def _rounds(self) -> dict[str, Any]:
        exchanges = self._exchanges
        trained = [one for one in exchanges if one.what == "trained"][::-1]
        return {
            "exchanges": exchanges,
            "bars": bars([(one.seconds, one.tone, one.title) for one in trained]),
            "width": width_for(len(trained)),
            "longest": max((one.seconds for one in trained), default=0.0),
            "no_sum": sum(bool(one.code) for one in trained),
            "with_losses": sum(one.tone == "warn" for one in trained),
            "noise": line(
                [one.noise_share for one in trained],
                low=0.8,
                high=1.2,
                marks={"promised": 1.0, "least": LEAST_NOISE_SHARE},
            ),
            "least_noise": LEAST_NOISE_SHARE,
            "several_runs": len({one.run for one in exchanges}) > 1,
        }

    def _terms(self) -> dict[str, Any]:
        if not self._folder.manifest.exists():
            return {"manifest": None}
        manifest = self._manifest
        plan = plan_of(manifest)
        return {
            "manifest": manifest,
            "digest": manifest.digest().hex(),
            "plan": plan,
            "granted": {
                kind: count for kind in (*manifest.kinds,) if (count := manifest.granted(kind))
            },
            "attendance": attendance(manifest).lines(),
        }

    def _certificates(self) -> dict[str, Any]:
        return {"endings": self._endings}


def _sentence(status: Status) -> tuple[str, str]:
    """The state in one sentence, without figures that change at every update."""
    run = status.run
    ended = run is not None and run.state in ("finished", "ended early", "failed")
    if not status.up and not ended:
        return "bad", "The coordinator is down: no store can connect."
    if status.manifest is None and not ended:
        return "calm", "The coordinator is up. No terms are signed yet."
    if run is None:
        return "calm", "The coordinator is up. No run has been started yet."
    if run.state == "underway":
        number = max(run.round + 1, int(status.progress.get("round", 0)))
        if number > run.rounds:
            return "good", f"Run {run.name} is in its last evaluation."
        return "good", f"Round {number} of {run.rounds} is under way."
    return {
        "finished": ("good", f"Run {run.name} is finished after {run.rounds} rounds."),
        "ended early": ("warn", f"Run {run.name} ended after round {run.round}: budget spent."),
        "failed": ("bad", f"Run {run.name} has failed after round {run.round}."),
        "stopped": ("calm", f"Run {run.name} is stopped after round {run.round}."),
        "recovering": (
            "warn",
            f"Run {run.name} pauses after round {run.round}, and goes on by itself.",
        ),
        "lost": ("bad", f"Run {run.name} was lost with its SuperLink after round {run.round}."),
    }[run.state]


def _left(run: RunState | None, exchanges: Sequence[Exchange]) -> float | None:
    """Seconds until the end of a run at the pace of its last ten rounds; None if unknown."""
    if run is None:
        return None
    seconds: dict[int, float] = {}
    for one in exchanges:
        if one.run == run.name and one.round:
            seconds[one.round] = seconds.get(one.round, 0.0) + one.seconds
    last = [seconds[number] for number in sorted(seconds)[-10:]]
    return sum(last) / len(last) * (run.rounds - run.round) if last else None
