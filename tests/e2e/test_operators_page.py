"""docs/operators.md is tried by its own words: every command on it, in the order of the page.

One coordinator, one authority and five stores on this machine. The store `luebeck`, and whoever
stands on the other side of it, types the lines of the page as they stand; the other stores do
the same by what the commands call. The steps below are read beside the page: within a section
they come in its order, and a command of the page without a step fails a quick test. A name of a
command without its arguments, as sentences have it, is a step only where the walk types it so.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from hanse_simulations.datasets import make_stores
from kits.commands import NAMES
from kits.encoder import tiny_encoder
from kits.operators.day_one import DAY_ONE
from kits.operators.day_two import NEW_TERMS, STORE_DAY_TWO
from kits.operators.later_days import NEXT_RUNS
from kits.operators.losses import SOMETHING_IS_LOST
from kits.operators.steps import ROUNDS
from kits.operators.walk import Walk
from kits.packages import ROOT
from kits.page import commands, name_of, operators_page, sections

CHAPTERS = {
    "day one": DAY_ONE,
    "a store's day two": STORE_DAY_TWO,
    "new terms": NEW_TERMS,
    "something is lost": SOMETHING_IS_LOST,
    "next runs": NEXT_RUNS,
}
ELSEWHERE = {
    "hanse plan": "tests/cli/test_plan_cli.py::"
    "test_the_grocery_recipe_prints_what_the_documentation_says",
}
"""Commands that sentences name and other tests run."""
STEPS = [step for chapter in CHAPTERS.values() for step in chapter]


def ordered(section: str) -> list[str]:
    """The lines of a section's steps, in their order."""
    return [step.line for step in STEPS if step.section == section and step.how != "by hand"]


@pytest.mark.parametrize("section", sections(operators_page()))
def test_every_command_of_the_page_is_a_step_in_the_order_of_the_page(section: str):
    steps = ordered(section)
    for line in commands(sections(operators_page())[section]):
        if steps[:1] == [line]:
            steps.pop(0)
        else:
            alone = line.startswith("hanse ") and name_of(line) == line
            assert alone, f"say in STEPS how `{line}` is tried; next is {steps[:1]}"
    assert not steps, "the page does not show these, or in another order"


def test_every_command_that_a_sentence_names_is_run_in_full():
    text = "".join(sections(operators_page()).values())
    named = {line for line in commands(text) if name_of(line) == line and line[:6] == "hanse "}
    run = {name_of(step.line) for step in STEPS if step.how in ("runs", "starts")}
    assert named - run - set(ELSEWHERE) == set()
    for test in ELSEWHERE.values():
        file, _, function = test.partition("::")
        assert f"def {function}(" in (ROOT / file).read_text(encoding="utf-8")


def test_whatever_is_done_by_hand_or_instead_is_on_the_page():
    page = sections(operators_page())
    for step in STEPS:
        assert step.how != "by hand" or step.line in page[step.section], step.line
        assert bool(step.reason) == (step.how == "instead")


@pytest.fixture(scope="module")
def walk(secure_stores, store_cache, tmp_path_factory) -> Iterator[Walk]:
    settings = secure_stores[0].with_changes(
        {
            "federation.rounds": ROUNDS,
            "federation.evaluate_every": ROUNDS,
            "federation.minimum_cohort": 3,
            "federation.spare_exchanges": 20,
            "privacy.noise_multiplier": 20.0,
        }
    )
    made = make_stores(settings.data, seed=settings.seed, cache=store_cache)
    root = tmp_path_factory.mktemp("page")
    # A copy, as a customer is deleted from it.
    shops = shutil.copytree(made.folders[0].parent, root / "shops")
    names = NAMES[: len(made.folders)]
    walk = Walk(
        root,
        {name: shops / data.name for name, data in zip(names, made.folders, strict=True)},
        {"minimum_cohort": 3, "max_epsilon": 60.0},
    )
    walk.settings, walk.catalogue = settings, shops / "catalogue.parquet"
    walk.encoder = tiny_encoder(root / "encoder")
    try:
        yield walk
    finally:
        walk.close()


@pytest.mark.slow
@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_page_does_what_it_says(walk: Walk, chapter: str):
    """In their order, since each chapter goes on from what the one before has left."""
    assert walk.chapters == list(CHAPTERS)[: len(walk.chapters)], "a chapter before this failed"
    for step in CHAPTERS[chapter]:
        try:
            step.take(walk)
        except BaseException as error:
            error.add_note(f"at `{step.line}` in {step.section!r} of docs/operators.md")
            raise
    walk.chapters.append(chapter)


@pytest.mark.slow
def test_the_ledgers_are_true_after_all_of_it(walk: Walk):
    assert walk.chapters == list(CHAPTERS)
    assert walk.audit()["ok"]
