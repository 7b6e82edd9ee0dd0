"""The exchanges of the last rounds, as the page shows them, and the one that is under way.

Nothing here derives from customers: sums, such as losses and counts, are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from hanse_common.errors import HanseError
from hanse_common.instructions import CONFIRM, MASK, SHARE, UNMASK, Kind
from hanse_common.manifest import SignedManifest
from hanse_common.paths import MANIFEST_FILE
from hanse_common.roundlog.records import SUMMED
from hanse_server.stage_log import CONNECT, PROTOCOL_STAGES, lost_at, read_stages, split_reason

MOST_ROUNDS = 50
"""Rounds on the page."""
_LONGEST = 300
"""Characters of a reason: it is in the words of a store."""
_HELLO, *_LATER = PROTOCOL_STAGES
_STAGE_OF = {
    **dict.fromkeys(get_args(Kind), _HELLO),  # an exchange's kind is its first message's type
    **dict(zip((SHARE, MASK, CONFIRM, UNMASK), _LATER, strict=True)),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Lost:
    """A store that an exchange went on without.

    Args:
        store: Its id.
        at: The stage of the protocol; empty if the reason names none.
        code: The error code in the reason.
        reason: The reason, in the words of the store or of the coordinator.
    """

    store: str
    at: str
    code: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """A finished exchange.

    Args:
        run: Name of the run.
        round: The training round.
        what: `trained`, or `evaluated` and the split.
        code: Empty if there is a sum, else the code of the error that it was lost to.
        stores: Number of stores in the sum.
        listed: Number of stores that the run's terms name; None if they cannot be read.
        lost: Stores that it went on without.
        attempts: Number of attempts.
        deadlines: Number of stages that lasted until their deadline.
        seconds: Duration.
        ended: Time of its end, ISO 8601.
        noise_share: Measured over promised variance of the noise, if it is measured.
        cut: Factor by which the sum was shortened; None if it was not.
        note: What the coordinator noted.
    """

    run: str
    round: int
    what: str
    code: str
    stores: int
    listed: int | None
    lost: tuple[Lost, ...]
    attempts: int
    deadlines: int
    seconds: float
    ended: str
    noise_share: float | None
    cut: float | None
    note: str

    @property
    def tone(self) -> str:
        """`good`, `warn` if a store is missing in the sum or was lost, `bad` without a sum."""
        missing = self.listed is not None and self.stores < self.listed
        return "bad" if self.code else "warn" if self.lost or missing else "good"

    @property
    def title(self) -> str:
        """The exchange in one line, for a chart."""
        result = f"lost, {self.code}" if self.code else f"{self.stores} stores"
        without = f", without {', '.join(gone.store for gone in self.lost)}" if self.lost else ""
        return f"Round {self.round}: {self.seconds:.1f} s, {result}{without}"


def last_exchanges(runs: Sequence[Path]) -> list[Exchange]:
    """Return the exchanges of the last `MOST_ROUNDS` rounds, the newest first.

    Args:
        runs: The folders of all runs, in the order in which they were last started.
    """
    found: list[Exchange] = []
    for run_dir in reversed(runs):
        lines = [line for line in read_stages(run_dir) if line["stage"] != "done"]
        listed = _listed(run_dir)
        found += [_exchange(run_dir.name, listed, line) for line in reversed(lines)]
        if len(_rounds(found)) >= MOST_ROUNDS:
            break
    kept = _rounds(found)[:MOST_ROUNDS]
    return [one for one in found if (one.run, one.round) in kept]


def _listed(run_dir: Path) -> int | None:
    with suppress(HanseError):
        return len(SignedManifest.load(run_dir / MANIFEST_FILE).unchecked.stores)
    return None


def _rounds(exchanges: Sequence[Exchange]) -> list[tuple[str, int]]:
    return list(dict.fromkeys((one.run, one.round) for one in exchanges))


def _exchange(run: str, listed: int | None, line: Mapping[str, Any]) -> Exchange:
    cut = line["cut"]
    return Exchange(
        run=run,
        round=line["round"],
        what="trained" if line["stage"] == "train" else f"evaluated ({line['split']})",
        code="" if line["outcome"] == SUMMED else line["outcome"],
        stores=line["replies"],
        listed=listed,
        lost=lost_stores(line["refusals"]),
        attempts=line["attempts"],
        deadlines=line["deadlines"],
        seconds=line["seconds"],
        ended=_instant(line["time"]),
        noise_share=line["noise_share"],
        cut=cut if cut is not None and cut < 1 else None,
        note=line["note"],
    )


def lost_stores(refusals: Mapping[str, str]) -> tuple[Lost, ...]:
    """Return the stores of a table of refusals, with their reasons."""
    lost = []
    for store, reason in sorted(refusals.items()):
        at, code = lost_at(reason)
        rest = split_reason(reason)[1]
        short = rest if len(rest) <= _LONGEST else rest[:_LONGEST] + "…"
        lost.append(Lost(store=store, at=at, code=code, reason=short))
    return tuple(lost)


@dataclass(frozen=True, kw_only=True, slots=True)
class UnderWay:
    """The exchange that is under way.

    Args:
        round: The training round; 0 before the first.
        rounds: Rounds of the run.
        run: Name of the run.
        kind: `train` or `evaluate`.
        attempt: Number of the attempt, from 1.
        stage: The stage of the protocol that stores are asked for.
        waiting: Stores that have not answered it.
        answered: Stores that have.
        lost: Stores that refused, or were lost, in this attempt.
        since: Time of the last message, ISO 8601.
    """

    round: int
    rounds: int
    run: str
    kind: str
    attempt: int
    stage: str
    waiting: tuple[str, ...]
    answered: tuple[str, ...]
    lost: tuple[Lost, ...]
    since: str

    @property
    def connecting(self) -> bool:
        """Whether it waits for stores that are away, before anything is sent."""
        return self.stage == CONNECT

    @property
    def stages(self) -> list[tuple[str, str]]:
        """The stages of the protocol, each `done`, `now` or `later`."""
        if self.stage not in PROTOCOL_STAGES:
            return [(name, "later") for name in PROTOCOL_STAGES]
        at = PROTOCOL_STAGES.index(self.stage)
        words = ["done"] * at + ["now"] + ["later"] * (len(PROTOCOL_STAGES) - at - 1)
        return list(zip(PROTOCOL_STAGES, words, strict=True))


def under_way(run: str, rounds: int, progress: Mapping[str, Any]) -> UnderWay | None:
    """Return the exchange that `progress.json` describes; None before the first."""
    if not progress:
        return None
    return UnderWay(
        round=progress["round"],
        rounds=rounds,
        run=run,
        kind=progress["kind"],
        attempt=progress["attempt"],
        stage=stage_name(progress["stage"]),
        waiting=tuple(progress["waiting"]),
        answered=tuple(sorted(progress["answered"])),
        lost=lost_stores(progress["refusals"]),
        since=_instant(progress["time"]),
    )


def stage_name(message_type: str) -> str:
    """Return the protocol's name of the stage that a message type begins; others as they are.

    >>> stage_name("train"), stage_name("query.confirm")
    ('hello', 'confirm')
    """
    return _STAGE_OF.get(message_type, message_type)


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
