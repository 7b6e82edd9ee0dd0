"""`hanse audit`: what a third party asks of stores' ledgers, without trusting the stores.

Nothing heavy is imported before a command needs it; torch only for a second opinion.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hanse_common.commands import command_group
from hanse_common.errors import ConfigError, LedgerError
from hanse_common.formats import Format, FormatOption
from hanse_common.printing import echo
from hanse_common.wording import json_text

PathArgument = Annotated[
    Path,
    typer.Argument(
        metavar="PATH",
        help="A ledger.sqlite, a roundlog.sqlite, a store's folder, or a run's folder.",
    ),
]

AuthorityOption = Annotated[
    str | None,
    typer.Option(metavar="HEX|FILE", help="The enrolment authority's public key, as you know it."),
]
RememberedOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="What `verify` printed earlier; ledgers and logs must go on from it."
    ),
]
SecondOpinionOption = Annotated[
    bool, typer.Option(help="Recompute epsilon with Opacus as well, where it is installed.")
]
RequireAllOption = Annotated[
    bool,
    typer.Option(
        "--require-all",
        help="Fail if evidence is missing of a store that the terms or a round log name.",
    ),
]
StoresOption = Annotated[
    list[int] | None,
    typer.Option(min=1, help="At how many stores a person may shop; 1, 2 and 4 if unset."),
]


# Other packages add to these commands: an attack needs a simulation.
app = command_group(
    "Check stores' ledgers: are they as written, true, and within the signed terms?",
    entry_points="hanse.audit.commands",
)


@app.command("verify")
def verify_command(
    path: PathArgument,
    authority: AuthorityOption = None,
    remembered: RememberedOption = None,
    require_all: RequireAllOption = False,
    second_opinion: SecondOpinionOption = True,
    output: FormatOption = Format.TABLE,
) -> None:
    """Check every entry: chain, signatures, epsilon by two accountants, the manifest's terms.

    A round log is checked too, and held against the ledgers. Stores that the terms or the log
    name and whose evidence is missing are listed. Ends with an error that names the store, or
    the log, and the first bad entry, if there is one.
    """
    from hanse_common.audit.remembered import Remembered
    from hanse_common.audit.verify import verify_all

    verdict = verify_all(
        path,
        authority=None if authority is None else _key(authority),
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
    verdict.check()


@app.command("report")
def report_command(
    path: PathArgument,
    authority: AuthorityOption = None,
    remembered: RememberedOption = None,
    require_all: RequireAllOption = False,
    second_opinion: SecondOpinionOption = True,
    stores: StoresOption = None,
    page: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="The page; audit-report.html beside the evidence if unset.",
        ),
    ] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Write one page for the people who must sign: what is promised, verified, and left open.

    With `--format json` the page is written only if `--output` names it. Ends with an error,
    after the page is written, if anything is wrong.
    """
    from hanse_common.audit.report.command import audit_for_signing, default_page, write_page

    report, verdict = audit_for_signing(
        path,
        authority=None if authority is None else _key(authority),
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
def rounds_command(path: PathArgument, output: FormatOption = Format.TABLE) -> None:
    """List what every entry was charged: terms, epsilon, epsilon so far, and what was left."""
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
def budget_command(
    path: PathArgument,
    stores: StoresOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show what each store has spent and has left, and epsilon for people at several stores."""
    from dataclasses import asdict

    from hanse_common.audit.evidence import find
    from hanse_common.audit.spending import budget_of

    found = [budget_of(evidence, stores=stores or (1, 2, 4)) for evidence in find(path)]
    rows = [row for row in found if row is not None]
    if not rows:
        raise LedgerError(f"no store under {path} has charged anything yet")
    if output is Format.JSON:
        _print_json({"stores": [asdict(row) for row in rows]})
    else:
        from hanse_common.audit.tables import print_budgets

        print_budgets(rows)


@app.command("export")
def export_command(
    path: PathArgument,
    output: FormatOption = Format.TABLE,
) -> None:
    """Write all entries to stdout, every field; digests in hexadecimal.

    The table is CSV for other tools. In it, a text that a spreadsheet would compute as a
    formula has an apostrophe before it.
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


def _key(text: str) -> bytes:
    """The public key that an option gives, in hexadecimal or as a file of it."""
    from hanse_common.identity import KEY_SIZE

    try:
        path = Path(text)
        given = path.read_text(encoding="ascii").strip() if path.is_file() else text
        key = bytes.fromhex(given)
    except (OSError, ValueError):
        key = b""
    if len(key) != KEY_SIZE:
        raise ConfigError(
            f"--authority {text!r} is no public key",
            hint=f"{KEY_SIZE} bytes in hexadecimal, or a file that holds them",
        )
    return key


def _print_json(value: object) -> None:

    # An epsilon without bound has no JSON; null says so, and `ok` that it is no good.
    echo(json_text(value))
