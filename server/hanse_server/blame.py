"""Records which stores are to blame for lost rounds, in the federation's `blame.json`.

Four things outlive a coordinator's process: which stores are excluded and why, which were
silent, which were complained about, and the state of the search for a store that breaks sums
(docs/protocol.md, "One bad store"). A person reads and changes them with `hanse server blame`,
also while a run is underway: every change reads the file first.

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

from hanse_common.durable import write_durably
from hanse_common.errors import FederationError
from hanse_common.locks import locked
from hanse_common.paths import BLAME_FILE
from hanse_common.secagg.terms import Terms
from hanse_server.blame_record import Charge, Record, Silence, absences, search_key
from hanse_server.search import Search


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Which stores take part in an attempt.

    Args:
        not_asked: Stores that are sent nothing, with the reason.
        not_shared: Stores that join the roster and are left out of the sum before they are
            charged: the roster has to have its minimum size, while the sum may be smaller.
        not_waited_for: Stores that are asked, and whose silence does not prolong a stage.
    """

    not_asked: Mapping[str, str]
    not_shared: frozenset[str]
    not_waited_for: frozenset[str]

    @property
    def left_out(self) -> frozenset[str]:
        """Stores that cannot be in the sum."""
        return frozenset(self.not_asked) | self.not_shared


class Blame:
    """What a coordinator remembers of its stores, across rounds, runs and processes.

    Args:
        folder: The folder of `blame.json`, which the first change creates. None keeps
            everything in memory.
        run: The run's name.
        clock: Returns Unix seconds.

    Guarantees:
        Every change is on the disk before it is acted on. Two processes that change the file
        at the same time lose neither change.
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
        """The content of the file now.

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
        picked: Collection[str],
        terms: Terms,
        *,
        gone: Collection[str] = (),
    ) -> Plan:
        """Decide which stores an attempt goes on without.

        Args:
            kind: The exchange's kind.
            picked: Stores that the strategy picked and that can be reached.
            terms: The smallest roster and sum of the exchange.
            gone: Stores that the previous attempt lost. They are asked again; the plan does
                not count on their answer.

        Guarantees:
            A search never leaves out so many stores that the others, if all of them answer,
            are too few for the smallest admissible sum.
        """
        record = self.record
        out = {name: charge.why for name, charge in record.left_out.items() if name in picked}
        here = [name for name in picked if name not in out]
        silent = record.silent
        # They are asked all the same: if the answer comes in time, the store is in the sum.
        unresponsive = frozenset(n for n in here if n in silent and not silent[n].waited_for)
        # Absences that are expected anyway use up what the terms allow before a search may.
        present = [name for name in here if name not in unresponsive and name not in gone]
        at_hello, later = absences(terms, len(present))
        for key in _searching(record, kind):
            search = record.searches[key]
            group = [n for n in search.leave_out(at_hello + later, present=present) if n not in out]
            if group:
                tested = "left out to see whether sums are good without it"
                # First those that the roster can spare; stores of the second part say hello
                # and get no shares, so that they are not charged for a sum without them.
                out |= dict.fromkeys(group[:at_hello], tested)
                return Plan(
                    not_asked=out,
                    not_shared=frozenset(group[at_hello:]),
                    not_waited_for=unresponsive,
                )
        return Plan(not_asked=out, not_shared=frozenset(), not_waited_for=unresponsive)

    def exclude(self, culprits: Mapping[str, str], *, number: int) -> None:
        """Exclude stores from all later attempts.

        Args:
            culprits: Error code of what each store is proven to have done, by store.
            number: The training round.
        """
        if not culprits:
            return
        with self._changing() as change:
            change(
                excluded={
                    **{name: self._charge(code, number) for name, code in culprits.items()},
                    # Last, so that the first reason and its round stay.
                    **change.before.excluded,
                }
            )

    def readmit(self, store: str) -> bool:
        """Clear a store and let it take part again.

        Returns:
            Whether anything was held against it.
        """
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
        """Count complaints about stores; a search leaves out the most accused ones first."""
        if accused:
            with self._changing() as change:
                counts = dict(change.before.accused)
                for name in accused:
                    counts[name] = counts.get(name, 0) + 1
                change(accused=counts)

    def heard(
        self, *, silent: Collection[str], complete: Collection[str], late: Collection[str]
    ) -> None:
        """Record which stores answered an attempt.

        Args:
            silent: Stores that a stage waited for until its deadline, without an answer.
            complete: Stores that answered every message.
            late: Stores whose answer to an earlier exchange has arrived since.
        """
        with self._changing() as change:
            known = {
                name: silence.model_copy(update={"spoke": silence.spoke or name in late})
                for name, silence in change.before.silent.items()
                if name not in complete  # one complete exchange clears a store
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
        """Record whether a sum was good.

        Args:
            kind: The exchange's kind.
            participants: Stores in the sum.
            wrong: Error code of what is wrong with the sum; None if it is good.
            number: The training round.
            picked: Stores that the strategy picked.
            terms: The smallest roster and sum of the exchange.

        Returns:
            The state of the search, as one sentence; empty if there is no search.
        """
        with self._changing() as change:
            before = change.before
            searches, notes, excluded = (
                dict(before.searches),
                dict(before.notes),
                dict(before.excluded),
            )
            broken = search_key(kind, wrong) if wrong is not None else ""
            if wrong and broken not in searches:
                searches[broken] = Search.begin(participants, _suspicion(before))
            # A forged vector hides everything else about the sum, such as missing noise, so
            # the sum is evidence for no other search.
            others = [] if wrong == "forged-vector" else _searching(before, kind)
            judged = [broken, *(key for key in others if key != broken)]
            for key in judged:
                # A search that this sum has just begun has counted it already.
                if key in before.searches:
                    searches[key] = searches[key].after(participants, broken=key == broken)
            suspects: dict[str, Charge] = {}
            for key, search in list(searches.items()):
                code = key.partition(" ")[2]
                named = search.convicted or search.singled
                # A store that stays singled out keeps the round in which it was.
                charges = {
                    name: before.found.get(name) or self._charge(code, number) for name in named
                }
                if search.convicted:
                    excluded = {**charges, **excluded}
                else:
                    suspects |= charges
            change(excluded=excluded, found=suspects)
            # After the change: stores that it leaves out can no longer be absent for a search.
            most = change.after.most_absent(picked, terms)
            for key in judged:
                if key in searches:
                    notes[key] = _summary(searches[key], most)
            going_on = {key: search for key, search in searches.items() if not search.convicted}
            change(searches=going_on, notes=notes)
            return next((notes[key] for key in judged if key in searches), "")

    def _charge(self, code: str, number: int) -> Charge:
        return Charge(code=code, round=number, run=self._run, time=round(self._clock(), 3))

    @contextmanager
    def _changing(self) -> Iterator[_Change]:
        # The lock is held from reading to writing, against `hanse server blame --readmit`.
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
    """A record that is being changed, while this process holds the lock."""

    def __init__(self, before: Record) -> None:
        self.before = self.after = before

    def __call__(self, **fields: object) -> None:
        self.after = self.after.model_copy(update=fields)


def _searching(record: Record, kind: str) -> list[str]:
    """Keys of the searches for a kind of exchange, the one for forged vectors first."""
    # An attempt tests one search only, and a sum with a forged vector in it tells the others
    # nothing.
    keys = [key for key in record.searches if key.partition(" ")[0] == kind]
    return sorted(keys, key=lambda key: (not key.endswith("forged-vector"), key))


def _suspicion(record: Record) -> dict[str, float]:
    """A score for each store, from complaints and silence; a search starts with the highest."""
    scores = {name: float(count) for name, count in record.accused.items()}
    for name, silence in record.silent.items():
        # Half a complaint: a machine that is down is silent without any ill will.
        scores[name] = scores.get(name, 0.0) + 0.5 * silence.strikes
    return scores


def _summary(search: Search, most: int) -> str:
    """The state of a search, as one sentence for people."""
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
