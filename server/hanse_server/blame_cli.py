"""`hanse server blame` lists the stores that are left out, and readmits one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hanse_common.errors import ConfigError
from hanse_common.formats import Format, FormatOption, say
from hanse_common.options import FederationFolderOption
from hanse_common.printing import echo
from hanse_common.wording import json_text


def blame(
    folder: FederationFolderOption = Path(),
    readmit: Annotated[
        str | None,
        typer.Option(metavar="STORE", help="Clear this store and let it take part again."),
    ] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """List the stores that rounds leave out or do not wait for, and why."""
    from hanse_server.blame import Blame
    from hanse_server.deployment.folder import FederationFolder

    federation = FederationFolder(folder)
    name = federation.file.name  # before anything is written: refuses a folder without a federation
    blame_file = Blame(federation.path)
    if readmit is not None:
        if not blame_file.readmit(readmit):
            raise ConfigError(
                f"nothing is held against {readmit!r}",
                hint="`hanse server blame` lists the stores that are left out",
            )
        say(f"{readmit!r} takes part again from the next round on")
    rows, notes = blame_file.record.rows(), sorted(blame_file.record.notes.items())
    if output is Format.JSON:
        table: dict[str, Any] = {"federation": name, "stores": rows, "searches": dict(notes)}
        echo(json_text(table, indent=2))
        return
    from hanse_server.deployment.tables import print_blame

    print_blame(name, rows, notes)
