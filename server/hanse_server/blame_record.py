"""The content of `blame.json`: what a coordinator holds against its stores; see `blame.py`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from pydantic import Field

from hanse_common.secagg.terms import Terms
from hanse_common.settings_files import Settings
from hanse_server.search import Search

PATIENCE = 2
"""Deadlines that a store may let pass in a row before it is not waited for."""


class Charge(Settings):
    """Why a store is left out."""

    code: str
    round: int
    run: str
    time: float

    @property
    def why(self) -> str:
        """The reason on one line, with the code first."""
        return f"[{self.code}] in round {self.round} of {self.run or 'the run'}"


class Silence(Settings):
    """How often a store was silent, and whether exchanges wait for it."""

    strikes: int = 0
    """Deadlines that passed since the store last answered every stage of an exchange."""
    rest: int = 0
    """Exchanges that do not wait for the store, before one may again."""
    spoke: bool = False
    """Whether an answer of the store has arrived, if late, since it was last waited for."""

    @property
    def waited_for(self) -> bool:
        """Whether an exchange waits for the store.

        A store that answers late is waited for again, but more and more rarely: each deadline
        that it lets pass doubles the rest. So it cannot cost every round a deadline.
        """
        return self.strikes < PATIENCE or (self.spoke and not self.rest)

    def after_deadline(self) -> Silence:
        """The state after the store let a deadline pass."""
        strikes = self.strikes + 1
        rest = 0 if strikes <= PATIENCE else 2 ** (strikes - PATIENCE)
        # `spoke` is false again: a late answer earns one exchange that waits, not all of them.
        return Silence(strikes=strikes, rest=rest)

    def after_rest(self) -> Silence:
        """The state after an exchange that did not wait for the store."""
        return self.model_copy(update={"rest": max(0, self.rest - 1)})


class Record(Settings):
    """The file's content, by store.

    The names of its fields are those of the JSON keys on disk.
    """

    version: Literal[1] = 1
    excluded: dict[str, Charge] = Field(default_factory=dict)
    found: dict[str, Charge] = Field(default_factory=dict)
    """Stores that a search has singled out; they are cleared if a sum breaks without them."""
    silent: dict[str, Silence] = Field(default_factory=dict)
    accused: dict[str, int] = Field(default_factory=dict)
    """How often other stores complained about a store."""
    searches: dict[str, Search] = Field(default_factory=dict)
    """Searches by kind of exchange and what is wrong with its sums; see `search_key`."""
    notes: dict[str, str] = Field(default_factory=dict)
    """The state of each search, as one sentence, or why it cannot go on."""

    @property
    def left_out(self) -> dict[str, Charge]:
        """Stores that every exchange leaves out, whatever a search is testing."""
        # An exclusion is proven, so its reason wins over that of a search.
        return {**self.found, **self.excluded}

    def search(self, kind: str, wrong: str) -> Search | None:
        """The search for one fault of the sums of one kind of exchange, if there is one."""
        return self.searches.get(search_key(kind, wrong))

    def most_absent(self, picked: Collection[str], terms: Terms) -> int:
        """How many more of the picked stores may be absent under the terms."""
        count = sum(name not in self.left_out for name in picked)
        return sum(absences(terms, count))

    def rows(self) -> list[dict[str, Any]]:
        """What is held against each store, as plain JSON, in the order of the names.

        The standing is `excluded` (proven to blame, or convicted by a search), `singled out`
        (sums broke with it; it is cleared if one breaks without it) or `silent` (still asked,
        but no stage waits for it).
        """
        rows = [
            {"store": name, "standing": standing, "why": charge.why, **charge.model_dump()}
            for standing, charges in (("excluded", self.excluded), ("singled out", self.found))
            for name, charge in charges.items()
        ]
        for name, silence in self.silent.items():
            if not silence.waited_for:
                why = f"silent for {silence.strikes} deadlines; it is not waited for"
                rows.append({"store": name, "standing": "silent", "why": why})
        return sorted(rows, key=lambda row: (row["store"], row["standing"]))


def absences(terms: Terms, present: int) -> tuple[int, int]:
    """How many stores may be absent under the terms: from the roster, and then from the sum.

    Args:
        terms: The terms of the exchange.
        present: The number of stores that would take part.

    >>> from hanse_common.secagg.layout import Layout, Section
    >>> terms = Terms(layout=Layout((Section("update", 1, clip=1.0),)), maximum_cohort=9)
    >>> absences(terms, 9), absences(terms, 5), absences(terms, 4)
    ((4, 1), (0, 1), (0, 0))
    """
    if present < terms.minimum_cohort:
        return 0, 0
    # The survivors that a sum needs grow with the roster: with the smallest roster that is
    # allowed, most stores may be absent altogether.
    roster = terms.minimum_cohort
    return present - roster, roster - terms.survivors(roster)


def search_key(kind: str, wrong: str) -> str:
    """The key of a search: the kind of exchange and the error code of its broken sums."""
    return f"{kind} {wrong}"
