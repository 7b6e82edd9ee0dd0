"""Who is to blame for lost rounds, kept on disk: `blame.json` in the federation's folder.

Four things outlive a coordinator's process: which stores it goes on without and why, who was
silent, who was complained about, and how far the search for a forged vector has come. A person
reads and changes them with `hanse server blame`, also while a run is underway: every change
reads the file first.

>>> from tempfile import TemporaryDirectory
>>> with TemporaryDirectory() as folder:
...     blame = Blame(Path(folder), run="trial", clock=lambda: 0.0)
...     blame.exclude({"wismar": "wrong-share"}, number=3)
...     again = Blame(Path(folder)).record
>>> again.excluded["wismar"].why
'[wrong-share] in round 3 of trial'
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from hanse_common.durable import locked, write_durably
from hanse_common.errors import FederationError
from hanse_common.paths import BLAME_FILE
from hanse_common.secagg.terms import Terms
from hanse_server.blame_record import Charge, Record, Silence, absences, search_key
from hanse_server.search import Search


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Who takes part in an attempt.

    Args:
        not_asked: Stores that are not even asked, with the reason.
        not_shared: Stores that are asked and left out of the sum before they are charged: where
            the roster may not be smaller, yet the sum may.
        not_waited_for: Stores that are asked, and whose silence ends no stage late.
    """

    not_asked: Mapping[str, str]
    not_shared: frozenset[str]
    not_waited_for: frozenset[str]

    @property
    def left_out(self) -> frozenset[str]:
        """Whoever cannot be in the sum."""
        return frozenset(self.not_asked) | self.not_shared


class Blame:
    """What a coordinator remembers of its stores, across rounds, runs and processes.

    Args:
        folder: Where `blame.json` lies; it is made by the first change. None keeps everything
            in memory.
        run: What the run is called.
        clock: Unix seconds.

    Guarantees:
        Every change is on the disk before it is acted on, and none is lost to another process
        that changes something at the same time.
    """

    def __init__(
        self, folder: Path | None, *, run: str = "", clock: Callable[[], float] = time.time
    ) -> None:
        self._folder = folder
        self._run = run
        self._clock = clock
        self._memory = Record()

    @property
    def record(self) -> Record:
        """What the file says now.

        Raises:
            FederationError: It cannot be read.
        """
        if self._folder is None:
            return self._memory
        path = self._folder / BLAME_FILE
        try:
            return Record.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return Record()
        except (OSError, ValidationError) as error:
            raise FederationError(
                f"cannot read {path}: {type(error).__name__}",
                hint="bring it back, or remove it: every store then takes part again",
            ) from error

    def plan(
        self,
        kind: str,
        asked: Collection[str],
        terms: Terms,
        *,
        gone: Collection[str] = (),
    ) -> Plan:
        """Say whom an attempt goes on without.

        Args:
            kind: Of the exchange.
            asked: Stores that the strategy picked and that can be reached.
            terms: What the sum must hold.
            gone: Stores that were lost to the attempt before: they are asked again, and not
                counted on.

        Guarantees:
            For the sake of a search, never so many are left out that the others, if all of
            them answer, are too few for the smallest admissible sum.
        """
        record = self.record
        out = {name: charge.why for name, charge in record.left_out.items() if name in asked}
        here = [name for name in asked if name not in out]
        silent = record.silent
        deaf = frozenset(n for n in here if n in silent and not silent[n].waited_for)
        present = [name for name in here if name not in deaf and name not in gone]
        at_hello, later = absences(terms, len(present))
        for key in _searching(record, kind):
            search = record.searches[key]
            group = [n for n in search.leave_out(at_hello + later, present=present) if n not in out]
            if group:
                tested = "left out to see whether sums are good without it"
                out |= dict.fromkeys(group[:at_hello], tested)
                return Plan(
                    not_asked=out,
                    not_shared=frozenset(group[at_hello:]),
                    not_waited_for=deaf,
                )
        return Plan(not_asked=out, not_shared=frozenset(), not_waited_for=deaf)

    def exclude(self, culprits: Mapping[str, str], *, number: int) -> None:
        """Go on without stores from now on.

        Args:
            culprits: Code of what each is proven to have done, by store.
            number: The round.
        """
        if not culprits:
            return
        with self._changing() as change:
            change(
                excluded={
                    **{name: self._charge(code, number) for name, code in culprits.items()},
                    **change.before.excluded,
                }
            )

    def readmit(self, store: str) -> bool:
        """Let a store take part again and clear it; say whether anything was held against it."""
        with self._changing() as change:
            before = change.before
            searches = {key: search.without(store) for key, search in before.searches.items()}
            change(
                searches={key: search for key, search in searches.items() if search is not None},
                **{
                    field: {n: v for n, v in getattr(before, field).items() if n != store}
                    for field in ("excluded", "found", "silent", "accused")
                },
            )
            return change.after != before

    def complained(self, accused: Collection[str]) -> None:
        """Note that stores were complained about, without a proof."""
        if accused:
            with self._changing() as change:
                counts = dict(change.before.accused)
                for name in accused:
                    counts[name] = counts.get(name, 0) + 1
                change(accused=counts)

    def heard(
        self, *, silent: Collection[str], complete: Collection[str], late: Collection[str]
    ) -> None:
        """Take in who answered an attempt.

        Args:
            silent: Stores that did not, at some stage, and were waited for until its end.
            complete: Stores that answered everything they were asked.
            late: Stores whose answer to an earlier exchange has come since.
        """
        with self._changing() as change:
            known = {
                name: silence.model_copy(update={"spoke": silence.spoke or name in late})
                for name, silence in change.before.silent.items()
                if name not in complete
            }
            known = {
                name: silence if name in silent else silence.after_rest()
                for name, silence in known.items()
            }
            for name in silent:
                known[name] = known.get(name, Silence()).after_deadline()
            change(silent=known)

    def summed(
        self,
        kind: str,
        participants: Collection[str],
        *,
        wrong: str | None,
        number: int,
        picked: Collection[str],
        terms: Terms,
    ) -> str:
        """Take in whether a sum was good; return what the search has come to, if there is one.

        Args:
            kind: Of the exchange.
            participants: Stores in the sum.
            wrong: Code of what is wrong with it, if anything.
            number: The round.
            picked: Stores that the strategy picked.
            terms: What a sum must hold.
        """
        with self._changing() as change:
            before = change.before
            searches, notes, excluded = (
                dict(before.searches),
                dict(before.notes),
                dict(before.excluded),
            )
            asked = search_key(kind, wrong) if wrong is not None else ""
            if wrong and asked not in searches:
                searches[asked] = Search.begin(participants, _suspicion(before))
            # Of a sum with a forged vector in it nothing else can be said.
            others = [] if wrong == "forged-vector" else _searching(before, kind)
            judged = [asked, *(key for key in others if key != asked)]
            for key in judged:
                if key in before.searches:
                    searches[key] = searches[key].after(participants, broken=key == asked)
            found: dict[str, Charge] = {}
            for key, search in list(searches.items()):
                code = key.partition(" ")[2]
                named = search.convicted or search.singled
                charges = {
                    name: before.found.get(name) or self._charge(code, number) for name in named
                }
                if search.convicted:
                    excluded = {**charges, **excluded}
                else:
                    found |= charges
            change(excluded=excluded, found=found)
            most = change.after.most_absent(picked, terms)
            for key in judged:
                if key in searches:
                    notes[key] = _told(searches[key], most)
            going_on = {key: search for key, search in searches.items() if not search.convicted}
            change(searches=going_on, notes=notes)
            return next((notes[key] for key in judged if key in searches), "")

    def _charge(self, code: str, number: int) -> Charge:
        return Charge(code=code, round=number, run=self._run, time=round(self._clock(), 3))

    @contextmanager
    def _changing(self) -> Iterator[_Change]:
        with nullcontext() if self._folder is None else locked(self._folder):
            change = _Change(self.record)
            yield change
            if change.after == change.before:
                return
            self._memory = change.after
            if self._folder is not None:
                content = change.after.model_dump_json(indent=1) + "\n"
                write_durably(self._folder / BLAME_FILE, content)


class _Change:
    """A record while nobody else can write it."""

    def __init__(self, before: Record) -> None:
        self.before = self.after = before

    def __call__(self, **fields: object) -> None:
        self.after = self.after.model_copy(update=fields)


def _searching(record: Record, kind: str) -> list[str]:
    """The searches for a kind of exchange, forged vectors first."""
    keys = [key for key in record.searches if key.partition(" ")[0] == kind]
    return sorted(keys, key=lambda key: (not key.endswith("forged-vector"), key))


def _suspicion(record: Record) -> dict[str, float]:
    """What else speaks against a store: complaints, and silence."""
    found = {name: float(count) for name, count in record.accused.items()}
    for name, silence in record.silent.items():
        found[name] = found.get(name, 0.0) + 0.5 * silence.strikes
    return found


def _told(search: Search, most: int) -> str:
    """What a search has come to, for people."""
    lost = f"{search.lost} {'round' if search.lost == 1 else 'rounds'} lost"
    if search.convicted:
        return f"found: {', '.join(search.convicted)}; {lost}"
    if most < 1 and not search.singled:
        return f"no store can be left out: the terms allow no absence; {lost}"
    if search.singled and not search.held:
        return f"sums break with {', '.join(search.singled)}, which is left out; {lost}"
    if search.held:
        return f"one of {', '.join(search.held)} is suspected; {lost}"
    who = "several stores break sums, among" if search.several else "one of"
    end = "" if search.queue else "; no sum has broken since all of them took part"
    return f"{who} {', '.join(search.candidates)}; {lost}{end}"
