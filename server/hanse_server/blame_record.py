"""What a coordinator holds against its stores, as `blame.json` has it; see `blame.py`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from pydantic import Field

from hanse_common.config import Settings
from hanse_common.secagg.terms import Terms
from hanse_server.search import Search

PATIENCE = 2
"""Deadlines that a store may let pass in a row before it is not waited for."""


class Charge(Settings):
    """Why the coordinator goes on without a store."""

    code: str
    round: int
    run: str
    time: float

    @property
    def why(self) -> str:
        """On one line, with the code first."""
        return f"[{self.code}] in round {self.round} of {self.run or 'the run'}"


class Silence(Settings):
    """How long a store has been silent, and whether it is waited for."""

    strikes: int = 0
    """Deadlines that passed for it since it last answered every stage of an exchange."""
    rest: int = 0
    """Exchanges until it may be waited for again."""
    spoke: bool = False
    """Whether it has answered, if late, since it was last waited for."""

    @property
    def waited_for(self) -> bool:
        """Whether an exchange waits for it.

        One that answers late is waited for again, ever more rarely: each deadline that it
        lets pass doubles the rest. So it cannot cost a deadline in every round.
        """
        return self.strikes < PATIENCE or (self.spoke and not self.rest)

    def after_deadline(self) -> Silence:
        """It let a deadline pass."""
        strikes = self.strikes + 1
        rest = 0 if strikes <= PATIENCE else 2 ** (strikes - PATIENCE)
        return Silence(strikes=strikes, rest=rest)

    def after_rest(self) -> Silence:
        """An exchange was made without waiting for it."""
        return self.model_copy(update={"rest": max(0, self.rest - 1)})


class Record(Settings):
    """The file's content, by store."""

    version: Literal[1] = 1
    excluded: dict[str, Charge] = Field(default_factory=dict)
    found: dict[str, Charge] = Field(default_factory=dict)
    """Singled out by a search that goes on: cleared again if sums break without them."""
    silent: dict[str, Silence] = Field(default_factory=dict)
    accused: dict[str, int] = Field(default_factory=dict)
    """How often other stores complained about one."""
    searches: dict[str, Search] = Field(default_factory=dict)
    """By kind of exchange and what is wrong with its sums."""
    notes: dict[str, str] = Field(default_factory=dict)
    """What a search has come to, or why it cannot go on."""

    @property
    def left_out(self) -> dict[str, Charge]:
        """Stores that exchanges go on without, whatever is tested."""
        return {**self.found, **self.excluded}

    def search(self, kind: str, wrong: str) -> Search | None:
        """The search that goes on for what is wrong with sums of a kind, if there is one."""
        return self.searches.get(search_key(kind, wrong))

    def most_absent(self, picked: Collection[str], terms: Terms) -> int:
        """How many more of the stores that a strategy picks the terms would let be absent."""
        count = sum(name not in self.left_out for name in picked)
        return sum(absences(terms, count))

    def rows(self) -> list[dict[str, Any]]:
        """What is held against each store, as plain JSON, by name.

        `excluded`: proven to blame, or convicted by a search. `singled out`: sums broke with
        it, and it is cleared if they break without it. `silent`: asked, and not waited for.
        """
        found = [
            {"store": name, "standing": standing, "why": charge.why, **charge.model_dump()}
            for standing, charges in (("excluded", self.excluded), ("singled out", self.found))
            for name, charge in charges.items()
        ]
        for name, silence in self.silent.items():
            if not silence.waited_for:
                why = f"silent for {silence.strikes} deadlines; it is not waited for"
                found.append({"store": name, "standing": "silent", "why": why})
        return sorted(found, key=lambda row: (row["store"], row["standing"]))


def absences(terms: Terms, present: int) -> tuple[int, int]:
    """How many stores the terms let be absent: from the roster, and then from the sum.

    Args:
        terms: Of the exchange.
        present: Stores that would take part.

    >>> from hanse_common.secagg.layout import Layout, Section
    >>> terms = Terms(layout=Layout((Section("update", 1, clip=1.0),)), maximum_cohort=9)
    >>> absences(terms, 9), absences(terms, 5), absences(terms, 4)
    ((4, 1), (0, 1), (0, 0))
    """
    if present < terms.minimum_cohort:
        return 0, 0
    roster = terms.minimum_cohort
    return present - roster, roster - terms.survivors(roster)


def search_key(kind: str, wrong: str) -> str:
    """Names a search by the kind of exchange and what is wrong with its sums."""
    return f"{kind} {wrong}"
