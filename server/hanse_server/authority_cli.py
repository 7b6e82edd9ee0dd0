"""`hanse server authority`: an enrolment authority on a machine of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hanse_common.commands import command_group
from hanse_common.formats import Format, FormatOption, say
from hanse_common.options import FederationFolderOption
from hanse_common.printing import echo
from hanse_common.wording import json_text

authority = command_group("An enrolment authority on a machine of its own.")

_CopyArgument = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="The folder that travels to the authority.")
]


@authority.command()
def init(
    key: Annotated[
        Path, typer.Argument(metavar="FILE", help="The authority's private key, which is made.")
    ],
    output: FormatOption = Format.TABLE,
) -> None:
    """Make an authority's key, on its own machine; the coordinator gets the public key alone."""
    from hanse_server.deployment.authority import make_authority

    public, fingerprint = make_authority(key)
    if output is Format.JSON:
        row = {"authority_key": str(key), "authority": str(public), "fingerprint": fingerprint}
        echo(json_text(row))
        return
    echo(public)
    say(f"the authority has the fingerprint {fingerprint}")
    say(f"give {public} to the coordinator: `hanse server init --authority FILE`")


@authority.command()
def export(
    target: _CopyArgument,
    requests: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE", help="Requests of stores to admit.")
    ] = None,
    folder: FederationFolderOption = Path(),
    run: Annotated[
        str | None,
        typer.Option(
            "--continue-from", metavar="RUN", help="A finished run that new terms start from."
        ),
    ] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Write a folder in which the authority can admit and sign; no secret is in it."""
    from hanse_server.deployment.authority import export as write
    from hanse_server.deployment.folder import FederationFolder

    written = write(FederationFolder(folder), target, requests or (), run=run)
    if output is Format.JSON:
        echo(json_text({"folder": str(target), "requests": list(map(str, written))}))
        return
    echo(target)
    say("take it to the authority's machine; there, with --authority-key FILE:")
    for path in written:
        say(f"  hanse server admit {path} --folder {target}")
    start = "" if run is None else f" --continue-from {run}"
    say(f"  hanse server manifest sign --folder {target}{start}")
    say(f"bring it back: `hanse server authority import {target}`")


@authority.command("import")
def take_in(
    source: _CopyArgument,
    folder: FederationFolderOption = Path(),
    output: FormatOption = Format.TABLE,
) -> None:
    """Check and install the certificates and terms that the authority has signed."""
    from hanse_server.cli import update_nodes
    from hanse_server.deployment.authority import take_in as install
    from hanse_server.deployment.folder import FederationFolder

    federation = FederationFolder(folder)
    done = install(federation, source)
    connection = update_nodes(federation)
    if output is Format.JSON:
        row = {
            "admitted": list(done.admitted),
            "refused": done.refused,
            "manifest": done.manifest,
            "connection": connection,
        }
        echo(json_text(row))
        return
    for store in done.admitted:
        echo(federation.certificate(store))
        say(f"admitted {store!r}; send it this certificate")
    for store, reason in done.refused.items():
        say(f"{store}: not taken in: {reason}")
    if done.manifest is not None:
        echo(federation.manifest)
        say(f"new terms; give {federation.manifest.name} and settings to every store")
    if not (done.admitted or done.manifest):
        say("nothing new was signed")
    if connection:
        say(connection)
