"""What `SecureGrid` knows of an exchange between its attempts."""

from __future__ import annotations

from dataclasses import dataclass, field

from hanse_common.instructions import Kind
from hanse_server.blame import Plan
from hanse_server.exchange import LEFT_OUT, AttemptResult
from hanse_server.stage_log import StageOutcome


@dataclass(kw_only=True, slots=True)
class ExchangeState:
    """The results of an exchange's attempts so far; the object lives as long as the exchange."""

    kind: Kind
    round: int
    picked: tuple[str, ...]
    attempts: int = 0
    lost: dict[str, str] = field(default_factory=dict)
    """The reason for each store that the last attempt went on without."""
    gone: frozenset[str] = frozenset()
    """Stores that the last attempt lost although they were not left out."""
    roster: tuple[str, ...] = ()
    stages: list[StageOutcome] = field(default_factory=list)
    releases: dict[str, str] = field(default_factory=dict)
    note: str = ""

    def begin(self, number: int, plan: Plan) -> None:
        """Begin an attempt by a plan of whom to ask."""
        self.attempts = number
        self.lost = {name: f"{LEFT_OUT}: {why}" for name, why in plan.not_asked.items()}

    def take(self, result: AttemptResult) -> None:
        """Add the result of an attempt."""
        self.gone = frozenset(name for name, why in result.lost.items() if LEFT_OUT not in why)
        liars = "at stage 'unmask': its shares are not those that were dealt to it"
        self.lost |= {**result.lost, **dict.fromkeys(result.liars, liars)}
        self.roster = result.roster
        self.stages += result.stages
        self.releases |= result.releases
