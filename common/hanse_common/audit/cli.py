"""`hanse audit`: lets a third party verify stores' ledgers without trusting the stores.

Commands import what they need when they run; only a second opinion imports torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hanse_common.commands import command_group
from hanse_common.errors import LedgerError
from hanse_common.formats import Format, FormatOption
from hanse_common.options import AuthorityOption, public_key
from hanse_common.printing import echo
from hanse_common.wording import json_text

_PathArgument = Annotated[
    Path,
    typer.Argument(
        metavar="PATH",
        help="A ledger.sqlite, a roundlog.sqlite, a store's folder, or a run's folder.",
    ),
]
_RememberedOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="JSON of an earlier `verify`, which ledgers and logs must continue."
    ),
]
_SecondOpinionOption = Annotated[
    bool, typer.Option(help="Recompute epsilon with Opacus as well, where it is installed.")
]
_RequireAllOption = Annotated[
    bool,
    typer.Option(
        "--require-all",
        help="Fail if evidence is missing for a store that the terms or a round log name.",
    ),
]
_StoresOption = Annotated[
    list[int] | None,
    typer.Option(min=1, help="At how many stores a person may shop; 1, 2 and 4 if unset."),
]


# The simulations package adds a command by an entry point: an attack needs a simulation.
app = command_group(
    "Check stores' ledgers: are they as written, true, and within the signed terms?",
    entry_points="hanse.audit.commands",
)


@app.command("verify")
def _verify(
    path: _PathArgument,
    authority: AuthorityOption = None,
    remembered: _RememberedOption = None,
    require_all: _RequireAllOption = False,
    second_opinion: _SecondOpinionOption = True,
    output: FormatOption = Format.TABLE,
) -> None:
    """Check every entry: chain, signatures, epsilon by two accountants, the manifest's terms.

    A round log is checked too, and compared with the ledgers. Stores that the terms or the log
    name and whose evidence is missing are listed. If anything is wrong, the command ends with an
    error that names the store or the log, and the first bad entry.
    """
    from hanse_common.audit.remembered import Remembered
    from hanse_common.audit.verify import verify_all

    verdict = verify_all(
        path,
        authority=None if authority is None else public_key(authority),
        remembered=None if remembered is None else Remembered.read(remembered),
        second_opinion=second_opinion,
        require_all=require_all,
    )
    if output is Format.JSON:
        _print_json(verdict.row())
    else:
        from hanse_common.audit.tables import print_audits, print_gaps, print_logs

        print_audits(verdict.stores)
        print_logs(verdict.logs)
        print_gaps(verdict.gaps, required=require_all)
    # Last, so that the results are printed even if the exit status says that something is wrong.
    verdict.check()


@app.command("report")
def _report(
    path: _PathArgument,
    authority: AuthorityOption = None,
    remembered: _RememberedOption = None,
    require_all: _RequireAllOption = False,
    second_opinion: _SecondOpinionOption = True,
    stores: _StoresOption = None,
    page: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="The page; audit-report.html in the evidence's folder if unset.",
        ),
    ] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Write one page for the people who must sign: what is guaranteed, verified, and left open.

    With `--format json` the page is written only if `--output` names it. If anything is wrong,
    the command ends with an error after the page is written.
    """
    from hanse_common.audit.report.command import audit_for_signing, default_page, write_page

    report, verdict = audit_for_signing(
        path,
        authority=None if authority is None else public_key(authority),
        remembered=remembered,
        require_all=require_all,
        second_opinion=second_opinion,
        stores=stores or (1, 2, 4),
    )
    if page is None and output is Format.TABLE:
        page = default_page(path)
    if page is not None:
        digest = write_page(report, page)
        echo(f"SHA-256 of {page}: {digest}", err=True)
    if output is Format.JSON:
        _print_json(report.to_json())
    else:
        echo(str(page))
    verdict.check()


@app.command("rounds")
def _rounds(path: _PathArgument, output: FormatOption = Format.TABLE) -> None:
    """List every entry's charge: terms, epsilon, total epsilon, and the remaining budget."""
    from dataclasses import asdict

    from hanse_common.audit.evidence import find
    from hanse_common.audit.spending import rounds_of

    rows = [row for evidence in find(path) for row in rounds_of(evidence)]
    if output is Format.JSON:
        _print_json({"rounds": [asdict(row) for row in rows]})
    else:
        from hanse_common.audit.tables import print_rounds

        print_rounds(rows)


@app.command("budget")
def _budget(
    path: _PathArgument,
    stores: _StoresOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show each store's spent and remaining budget, and epsilon for people at several stores."""
    from dataclasses import asdict

    from hanse_common.audit.evidence import find
    from hanse_common.audit.spending import budget_of

    budgets = [budget_of(evidence, stores=stores or (1, 2, 4)) for evidence in find(path)]
    rows = [row for row in budgets if row is not None]
    if not rows:
        raise LedgerError(f"no store under {path} has charged anything yet")
    if output is Format.JSON:
        _print_json({"stores": [asdict(row) for row in rows]})
    else:
        from hanse_common.audit.tables import print_budgets

        print_budgets(rows)


@app.command("export")
def _export(
    path: _PathArgument,
    output: FormatOption = Format.TABLE,
) -> None:
    """Write every field of all entries to stdout, with digests in hexadecimal.

    The table is CSV for other tools. A text that a spreadsheet would evaluate as a formula has a
    leading apostrophe there.
    """
    from hanse_common.audit.evidence import find
    from hanse_common.audit.export import FIELDS, flat, for_spreadsheet

    rows = [flat(evidence.store, entry) for evidence in find(path) for entry in evidence.entries()]
    if output is Format.JSON:
        _print_json(rows)
        return
    import csv
    import sys

    writer = csv.DictWriter(sys.stdout, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(for_spreadsheet, rows))


def _print_json(value: object) -> None:
    # JSON has no infinity: an unbounded epsilon becomes null, and `ok` is false.
    echo(json_text(value))
