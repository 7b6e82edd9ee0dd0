"""`hanse server tls`: renews the certificate that stores see."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hanse_common.commands import command_group
from hanse_common.formats import Format, FormatOption, say
from hanse_common.options import FederationFolderOption
from hanse_common.printing import echo
from hanse_common.wording import json_text

tls = command_group("The TLS certificate that stores see.")


@tls.command()
def renew(
    folder: FederationFolderOption = Path(),
    days: Annotated[
        int | None,
        typer.Option(min=1, max=3650, help="Days for which it is valid; 825 if unset."),
    ] = None,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="Make a new private key as well.")
    ] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Issue the next certificate from the federation's own root.

    A running `hanse server up` takes it in within seconds, and a run goes on. Stores need
    nothing new: their invitation holds the root.
    """
    from hanse_server.deployment.folder import FederationFolder
    from hanse_server.deployment.tls import SERVER_DAYS
    from hanse_server.deployment.tls_renewal import renew as issue
    from hanse_server.deployment.up import running

    federation = FederationFolder(folder)
    done = issue(federation, days=days or SERVER_DAYS, new_key=new_key)
    if output is Format.JSON:
        row = {
            "certificate": str(done.certificate),
            "hosts": list(done.hosts),
            "valid_until": done.valid_until.isoformat(timespec="seconds"),
            "new_key": done.new_key,
        }
        echo(json_text(row))
        return
    echo(done.certificate)
    say(f"renewed for {', '.join(done.hosts)}, until {done.valid_until.date()}")
    if running(federation) is not None:
        say("the running `hanse server up` takes it in now; no connection is cut")
