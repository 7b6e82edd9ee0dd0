"""The search for a store that breaks sums, alone: every size, every culprit, every way to hide."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse_server.search import Search

DOC = Path(__file__).parents[2] / "docs" / "protocol.md"
HEADING = "| stores n | may be absent a | lost at worst | lost on average |"
SIZES = [(n, a) for n in range(3, 16) for a in range(1, n - 1)]


def names(count: int) -> tuple[str, ...]:
    return tuple(f"store-{index:02}" for index in range(count))


class Rounds:
    """A federation in which some stores break sums; it keeps what the search does about it."""

    def __init__(self, stores: tuple[str, ...], most: int, culprits: set[str]) -> None:
        self.stores, self.most, self.culprits = stores, most, culprits
        self.search: Search | None = None
        self.convicted: set[str] = set()
        self.left_out: set[str] = set()
        self.lost = 0

    def play(self, forges: Callable[[frozenset[str]], bool] = lambda _: True, absent=()) -> bool:
        """One round; says whether its sum was good."""
        here = [s for s in self.stores if s not in self.convicted and s not in absent]
        most = max(0, len(here) - (len(self.stores) - self.most))
        self.left_out = set(self.search.leave_out(most, present=here)) if self.search else set()
        assert len(self.left_out) <= most
        within = frozenset(here) - self.left_out
        broken = bool(within & self.culprits) and forges(within)
        self.lost += broken
        if self.search is not None:
            self.search = self.search.after(within, broken=broken)
        elif broken:
            self.search = Search.begin(within)
        if self.search is not None and self.search.convicted:
            self.convicted |= set(self.search.convicted)
            self.search = None
        return not broken

    def named(self) -> set[str]:
        """Who is left out for what was found, and not for a test."""
        return self.convicted | set(self.search.singled if self.search else ())


def lost_to(count: int, most: int, culprit: str) -> int:
    rounds = Rounds(names(count), most, {culprit})
    for _ in range(200):
        rounds.play()
        if rounds.named():
            break
    assert rounds.named() == {culprit}
    assert all(rounds.play() for _ in range(100)), "once it is named, no more rounds are lost"
    return rounds.lost


def bound(count: int, most: int) -> int:
    return 1 + math.ceil((count - 1) / most)


@pytest.mark.parametrize(("count", "most"), SIZES)
def test_a_store_that_always_forges_is_named_within_the_least_that_groups_allow(count, most):
    found = [lost_to(count, most, culprit) for culprit in names(count)]
    assert max(found) <= bound(count, most) <= math.ceil(count / most) + 1


@given(size=st.sampled_from(SIZES), data=st.data())
@settings(max_examples=300, deadline=None)
def test_one_store_that_forges_as_it_likes_never_has_another_convicted(size, data):
    """It sees every roster, and may forge just when somebody else is let back in."""
    count, most = size
    culprit = data.draw(st.sampled_from(names(count)))
    rounds = Rounds(names(count), most, {culprit})
    for choice in data.draw(st.lists(st.booleans(), min_size=20, max_size=120)):
        rounds.play(lambda _, choice=choice: choice)
    assert rounds.convicted <= {culprit}


@given(size=st.sampled_from(SIZES), data=st.data())
@settings(max_examples=200, deadline=None)
def test_absent_stores_neither_stop_the_search_nor_are_convicted(size, data):
    count, most = size
    culprit = data.draw(st.sampled_from(names(count)))
    rounds = Rounds(names(count), most, {culprit})
    absences = st.sets(st.sampled_from(names(count)), max_size=most)
    for absent in data.draw(st.lists(absences, max_size=60)):
        rounds.play(absent=absent)
    assert rounds.convicted <= {culprit}
    for _ in range(100):
        rounds.play()
    assert rounds.named() == {culprit}


@pytest.mark.parametrize(("count", "most"), [(5, 1), (5, 2), (9, 3), (12, 4), (15, 2)])
def test_a_store_that_frames_whoever_is_let_back_in_pays_twice_a_group_at_most(count, most):
    for culprit in names(count):
        rounds = Rounds(names(count), most, {culprit})
        for _ in range(400):
            tried = rounds.search is None or bool(rounds.search.held or rounds.search.singled)
            rounds.play(lambda _, tried=tried: tried)
        assert rounds.lost <= 2 * bound(count, most), culprit
        assert rounds.named() <= {culprit}


@pytest.mark.parametrize(("count", "most"), [(5, 1), (9, 3), (12, 4)])
def test_a_store_that_forges_only_when_everybody_takes_part_finds_that_ever_more_rarely(
    count, most
):
    rounds = Rounds(names(count), most, {names(count)[-1]})
    everybody = frozenset(names(count))
    for _ in range(400):
        rounds.play(lambda within: within == everybody)
    assert rounds.lost <= 8


@pytest.mark.parametrize(("count", "most"), [(5, 2), (9, 3), (12, 4), (15, 3)])
def test_two_stores_are_found_if_both_may_be_absent(count, most):
    stores = names(count)
    for one in range(count):
        for other in range(one):
            culprits = {stores[one], stores[other]}
            rounds = Rounds(stores, most, culprits)
            for _ in range(1500):
                rounds.play()
                if rounds.convicted == culprits:
                    break
            assert rounds.convicted == culprits


def test_a_good_sum_with_everybody_in_it_clears_nobody():
    search = Search.begin(names(5))
    assert search.after(names(5), broken=False) == search


def test_whom_something_else_speaks_against_is_left_out_first():
    search = Search.begin(names(5), {"store-03": 2.0, "store-01": 1.0})
    assert search.candidates[:3] == ("store-03", "store-01", "store-00")
    assert search.leave_out(1, present=names(5)) == ("store-03",)


def test_nobody_is_left_out_where_nobody_may_be_absent():
    assert Search.begin(names(5)).leave_out(0, present=names(5)) == ()


def test_the_search_is_the_same_every_time():
    one = Search.begin(names(7)).after(names(7)[2:], broken=True)
    assert one == Search.begin(reversed(names(7))).after(reversed(names(7)[2:]), broken=True)


@pytest.mark.parametrize("cleared", names(4))
def test_whom_a_person_clears_is_not_left_out_any_more(cleared):
    search = Search.begin(names(4)).after(names(4)[1:], broken=False).without(cleared)
    for _ in range(10):
        out = search.leave_out(2, present=names(4))
        assert cleared not in out
        search = search.after([n for n in names(4) if n not in out], broken=False)


def test_the_table_of_the_protocol_page_is_what_the_search_does():
    lines = DOC.read_text(encoding="utf-8").partition(HEADING)[2].splitlines()[2:]
    rows = [line.strip("| ").split(" | ") for line in lines[: lines.index("")]]
    assert len(rows) >= 10
    for count, most, worst, mean in rows:
        found = [lost_to(int(count), int(most), name) for name in names(int(count))]
        assert (str(max(found)), f"{fmean(found):.1f}") == (worst, mean), (count, most)
