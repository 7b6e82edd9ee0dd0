"""Print a forecast: its terms, a row per variant, ledgers, and the recommendation."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from hanse_common.printing import console
from hanse_common.privacy.accounting import MOST_ROUNDS
from hanse_common.wording import counted, epsilon
from hanse_simulations.planning.forecast import Forecast
from hanse_simulations.planning.joining import Joining
from hanse_simulations.planning.ledgers import LedgerRow
from hanse_simulations.planning.solve import Solved
from hanse_simulations.planning.unknown import Unknown

_PLAIN_WIDTH = 110
_FOUND = {
    Unknown.ROUNDS: "at most {:.0f} rounds",
    Unknown.EPSILON: "epsilon of at least {:.2f}",
    Unknown.CUSTOMERS: "at least {:.0f} customers a store",
    Unknown.Q: "sample rate of at least {:.4g}",
}


def print_forecast(
    planned: Forecast,
    ledgers: Sequence[LedgerRow] = (),
    solved: Solved | None = None,
    joining: Joining | None = None,
) -> None:
    """Print a forecast, its ledgers, the solved term and what joining changed, to stdout."""
    # A pipe has no width, and rich would take 80 columns, too few for the table of variants.
    screen = console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH)

    def say(line: str) -> None:
        screen.print(Text(line))

    if solved is not None:
        say(f"Found: {_found(solved)}. With it:")
    for line in _terms(planned):
        say(line)
    if planned.phases:
        screen.print(_phases(planned))
    screen.print(_variants(planned))
    if ledgers:
        screen.print(_ledgers(ledgers, planned.rounds))
    chosen = planned.recommendation
    say(f"Train: {chosen.variant or 'none'}. {chosen.reason[:1].upper()}{chosen.reason[1:]}.")
    if joining is not None:
        say(f"{joining.sentence()}.")
    say(
        "Signal is an upper bound, q·N·C over the stores; noise is its true size. The threshold of "
        f"{planned.threshold:g} is a rule of thumb (docs/privacy.md, Planning)."
    )


def _found(solved: Solved) -> str:
    phrase = _FOUND[solved.unknown]
    if solved.unknown is Unknown.Q and solved.settings.privacy.noise_multiplier is not None:
        # With the noise given, a larger rate costs more epsilon: what is solved is a maximum.
        phrase = phrase.replace("at least", "at most")
    more = "+" if solved.unknown is Unknown.ROUNDS and solved.value >= MOST_ROUNDS else ""
    return phrase.format(solved.value) + more


def _terms(planned: Forecast) -> list[str]:
    where = f"{counted(planned.customers, 'customer')} of {counted(planned.stores, 'store')}"
    noise = (
        "each store adds all of the noise"
        if planned.honest_survivors is None
        else f"noise shared, {counted(planned.honest_survivors, 'honest survivor')} sure "
        f"({planned.colluders} may collude)"
    )
    return [
        f"{where}, {counted(planned.rounds, 'round')}, q = {planned.sample_rate:g}, "
        f"clip {planned.max_grad_norm:g}",
        f"mode {planned.mode}: {noise}",
        f"σ = {planned.noise_multiplier:.4f} keeps ε = {epsilon(planned.epsilon)} of "
        f"{planned.target_epsilon:g} at δ = {planned.target_delta:g} "
        f"({planned.accountant}, {planned.neighbours})",
        *(
            f"a person at {counted(count, 'store')}: ε ≤ {epsilon(value)}"
            for count, value in planned.at_stores.items()
        ),
        f"with {counted(planned.spare, 'exchange')} repeated or lost: "
        f"ε ≤ {epsilon(planned.granted_epsilon)}; stores grant no more",
    ]


def _phases(planned: Forecast) -> Table:
    table = _table("phase", "releases", "rounds", "share", "σ", "ε alone", "seen from")
    for row in planned.phases:
        table.add_row(
            row.phase,
            row.release,
            str(row.rounds),
            f"{row.share:.0%}",
            f"{row.noise_multiplier:.4g}",
            epsilon(row.epsilon),
            "" if row.seen_from is None else f"{row.seen_from:.1f} customers",
        )
    return table


def _variants(planned: Forecast) -> Table:
    table = _table(
        *("variant", "parameters", "noise/coordinate", "noise", "signal ≤", "signal/noise"),
        "bytes/store/round",
    )
    for row in planned.rows:
        table.add_row(
            row.variant,
            f"{row.parameters:,}",
            f"{row.noise:.3g}",
            f"{row.noise_norm:.3g}",
            f"{row.signal:.3g}",
            f"{row.signal_to_noise:.2f}",
            f"{row.upload_bytes:,}",
        )
    return table


def _ledgers(rows: Sequence[LedgerRow], rounds: int) -> Table:
    table = _table("store", "spent", "limit", "rounds left", f"enough for {rounds}?")
    for row in rows:
        table.add_row(
            # The name comes from a file: its control characters must not reach the terminal.
            "".join(c if c.isprintable() else repr(c)[1:-1] for c in row.store),
            epsilon(row.spent),
            f"{row.limit:g}",
            f"{row.rounds_left}{'+' if row.rounds_left >= MOST_ROUNDS else ''}",
            "yes" if row.enough else "no",
        )
    return table


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="", padding=(0, 1, 0, 0), pad_edge=False)
    for heading in headings:
        left = heading in ("variant", "store", "phase", "releases")
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    return table
