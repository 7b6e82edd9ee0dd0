"""`hanse store ledger accept-head`: continue a ledger whose `ledger.head` is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hanse_common.formats import Format, FormatOption
from hanse_common.options import YesOption
from hanse_common.printing import echo
from hanse_common.wording import json_text


def accept_head(
    ledger: Annotated[
        Path, typer.Argument(metavar="PATH", help="A ledger.sqlite, or its store's folder.")
    ],
    key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The store's key, if not in its enrolment folder."),
    ] = None,
    yes: YesOption = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Accept a ledger whose ledger.head is lost for good, and record that in the ledger.

    Every entry is verified first. Restore the head from a backup if there is one: if the ledger
    lacks its last entries, their cost is forgotten, and every audit will say that the ledger was
    accepted.
    """
    from hanse_common.audit.evidence import find
    from hanse_common.identity import StoreKey
    from hanse_common.paths import LEDGER_FILE, STORE_KEY_FILE
    from hanse_common.privacy.restore import check_headless, restore_head

    path = ledger / LEDGER_FILE if ledger.is_dir() else ledger
    evidence = find(path)[0] if path.exists() else None
    if key is None and evidence is not None and evidence.enrolment is not None:
        own_key = evidence.enrolment / STORE_KEY_FILE
        key = own_key if own_key.exists() else None
    store_key = None if key is None else StoreKey.load(key)
    certificates = evidence.certificates() if evidence else []
    # Entries before a rotation are signed with an earlier key.
    earlier = {certificate.public_key for certificate in certificates}
    entries = check_headless(path, store_key, earlier_keys=earlier)
    # Entries without a delta, such as a recovery, state no epsilon.
    spent = next((entry.epsilon_after for entry in reversed(entries) if entry.target_delta), None)
    if not yes:
        so_far = "" if spent is None else f", epsilon {spent:.4f} so far"
        typer.confirm(
            f"{path} has {len(entries)} entries{so_far}. Is that all of them?", abort=True, err=True
        )
    entry = restore_head(path, store_key, earlier_keys=earlier)
    if output is Format.JSON:
        result = {
            "ledger": str(path),
            "accepted": len(entries),
            "epsilon": spent,
            "entry": entry.sequence,
            "head": entry.hash.hex(),
        }
        echo(json_text(result))
    else:
        echo(f"{path}: entry {entry.sequence} says that {len(entries)} entries were accepted")
