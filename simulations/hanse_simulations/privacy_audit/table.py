"""An attack's result as a table and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hanse_common.phases import TRAIN
from hanse_simulations.privacy_audit.run import AttackResult
from hanse_simulations.report.wording import counted, delta, duration
from hanse_simulations.report.wording import epsilon as rounded_up


def as_row(result: AttackResult) -> dict[str, Any]:
    """The result as a plain JSON object."""
    return {"ok": not result.refuted, **asdict(result)}


def render(result: AttackResult) -> RenderableType:
    """Lay out bound and claim as a table, with lines on how to read them."""
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in (
        ("epsilon, at least (this attack)", f"{result.lower_bound:.2f}"),
        ("epsilon, at most (claimed by the ledgers)", rounded_up(result.claimed)),
        ("the most that this attack could have shown", f"{result.most_provable:.2f}"),
        *(
            (
                f"noise of {phase.name}, promised / measured",
                f"{phase.noise_multiplier:.2f} / {phase.measured_noise:.2f}",
            )
            for phase in result.phases
        ),
        *(
            (f"right of {one.count} guesses (chance: {one.count // 2})", str(one.right))
            for one in result.tries
        ),
    ):
        table.add_row(name, value)
    return Group(Text(_headline(result)), table, *(Text(line) for line in _reading(result)))


def _headline(result: AttackResult) -> str:
    fault = "" if result.fault == "none" else f", fault {result.fault}"
    people = f"{counted(result.customers, 'customer')} and {result.included:,} of "
    return (
        f"{result.recipe} ({result.mode}{fault}): {counted(result.stores, 'store')}, {people}"
        f"{result.canaries:,} canaries, {counted(result.rounds, 'round')}, "
        f"{duration(result.seconds)}"
    )


def _reading(result: AttackResult) -> list[str]:
    rates = [phase.sample_rate for phase in result.phases if phase.name == TRAIN]
    lots = f"customers drawn by Poisson lots at {rates[0]:g}; " if rates else ""
    terms = (
        f"For one customer more or less, delta {delta(result.delta)}, noise in units of what one "
        f"adds at most, {lots}the bound holds with {result.confidence:.0%} confidence."
    )
    if result.refuted:
        return [terms, "The claim is refuted: something leaks more than it should."]
    return [terms, "The claim stands this attack. That is no proof of it: another may find more."]
