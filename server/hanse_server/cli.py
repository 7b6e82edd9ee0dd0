"""`hanse server`: the coordinator's commands, from founding a federation to running it.

Each command imports the packages that it needs, so that `hanse` starts fast.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hanse_common.commands import command_group
from hanse_common.errors import ConfigError, DeploymentError, SuperLinkDown
from hanse_common.formats import Format, FormatOption, say
from hanse_common.options import (
    AuthorityOption,
    FederationFolderOption,
    RunNameOption,
    YesOption,
    public_key,
)
from hanse_common.printing import echo
from hanse_common.wording import json_text
from hanse_server.authority_cli import authority
from hanse_server.blame_cli import blame
from hanse_server.deployment.watch.cli import watch
from hanse_server.metrics_cli import metrics
from hanse_server.notify_cli import notify
from hanse_server.tls_cli import tls

if TYPE_CHECKING:
    from hanse_common.admission import Request
    from hanse_common.identity import AuthorityKey, Certificate
    from hanse_server.deployment.folder import FederationFolder
    from hanse_server.deployment.run_state import RunState


_AuthorityOption = Annotated[
    Path | None,
    typer.Option(
        "--authority-key", metavar="FILE", help="The authority's key, if it is not in the folder."
    ),
]
StoresOption = Annotated[
    int | None,
    typer.Option(min=1, help="How many stores to wait for; all of the manifest if unset."),
]
_DetachOption = Annotated[bool, typer.Option("--detach", help="Return at once; the run goes on.")]
_HERE = Path()

app = command_group("Coordinate a federation of real stores.")
manifest = command_group("The signed terms.")
app.add_typer(manifest, name="manifest")
app.add_typer(tls, name="tls")
app.add_typer(authority, name="authority")


@app.command()
def init(
    name: Annotated[str, typer.Option(metavar="NAME", help="The federation's name.")],
    address: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Address at which stores reach this machine.")
    ],
    folder: FederationFolderOption = _HERE,
    bind: Annotated[
        str, typer.Option(metavar="HOST", help="Local address to listen on.")
    ] = "0.0.0.0",
    listen: Annotated[
        int | None, typer.Option(help="Local port to listen on, if it is not that of the address.")
    ] = None,
    superlink_port: Annotated[
        int, typer.Option(help="Port of the SuperLink, which only this machine can reach.")
    ] = 9444,
    certificate_days: Annotated[
        int, typer.Option(help="Days for which a store's certificate is valid.")
    ] = 365,
    tls_certificate: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Your own TLS certificate for this host (PEM)."),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its private key (PEM).")
    ] = None,
    tls_ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The roots that issued it (PEM).")
    ] = None,
    authority_key: _AuthorityOption = None,
    authority: AuthorityOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Found a federation: keys, TLS files, federation.toml and the invitation for stores.

    Existing files are never replaced. Without TLS files of your own, a root and a certificate
    for trials are made; without --authority, an authority's key.
    """
    from hanse_server.deployment.init import OwnTls, init_federation

    own = None
    if tls_certificate and tls_key and tls_ca:
        own = OwnTls(certificate=tls_certificate, key=tls_key, ca=tls_ca)
    elif tls_certificate or tls_key or tls_ca:
        raise ConfigError("--tls-certificate, --tls-key and --tls-ca must be given together")
    if authority and authority_key:
        raise ConfigError(
            "--authority names an authority elsewhere, --authority-key one whose key is here",
            hint="give one of the two",
        )
    made = init_federation(
        _folder(folder),
        name=name,
        address=address,
        bind=bind,
        listen=listen,
        superlink_port=superlink_port,
        certificate_days=certificate_days,
        own_tls=own,
        authority_key=authority_key,
        authority_public=public_key(authority) if authority else None,
    )
    row = {
        "folder": str(made.folder),
        "federation": made.name,
        "authority": made.authority,
        "address": made.fleet,
        "invitation": str(made.invitation),
        "authority_key": None if made.authority_key is None else str(made.authority_key),
    }
    if output is Format.JSON:
        _print_json(row)
        return
    echo(f"authority {made.authority}")
    say(f"founded {made.name!r} in {made.folder}")
    say(f"give {made.invitation} to the stores, and read them the authority's fingerprint by phone")
    if made.authority_key is not None:
        say(f"keep {made.authority_key} offline: anyone who has it can admit stores")


@app.command()
def admit(
    request: Annotated[Path, typer.Argument(metavar="FILE", help="A store's request file.")],
    folder: FederationFolderOption = _HERE,
    fingerprint: Annotated[
        str | None,
        typer.Option(metavar="HEX", help="The store key's fingerprint, as the store reads it out."),
    ] = None,
    yes: YesOption = False,
    days: Annotated[
        int | None, typer.Option(min=1, help="Days for which the certificate is valid.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace an earlier certificate of the store.")
    ] = False,
    authority_key: _AuthorityOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Admit a store: check its request, compare its fingerprint, write its certificate."""
    from hanse_server.deployment.admit import admit as grant
    from hanse_server.deployment.admit import company_of, open_request

    federation = _folder(folder)
    opened = open_request(federation, request)
    key = _authority(federation, authority_key)
    # Before anything is signed: a certificate, once handed out, is only revoked here.
    company = company_of(federation, opened)
    if company is None:
        _confirm(opened, fingerprint, yes)
    else:
        say(f"{opened.store_id!r} is vouched for by the company's certificate of {company}")
    certificate = grant(federation, opened, key, days=days, replace=replace)
    connection = update_nodes(federation)
    row = _certificate_row(federation, certificate)
    row |= {"connection": connection, "company": company}
    if output is Format.JSON:
        _print_json(row)
        return
    echo(row["certificate"])
    say(f"admitted {opened.store_id!r} until {row['valid_until']}; send it this certificate")
    if connection:
        say(connection)


@app.command()
def revoke(
    store: Annotated[str, typer.Argument(metavar="STORE", help="The store's id.")],
    folder: FederationFolderOption = _HERE,
    output: FormatOption = Format.TABLE,
) -> None:
    """Revoke a store at once: its certificate is refused and its node cannot connect."""
    from hanse_server.deployment import admit as membership

    federation = _folder(folder)
    before = membership.revoked_since(federation, store)
    if before is None:
        membership.revoke(federation, store)
    # Also the second time: the first may have been interrupted before its node was shut out.
    connection = update_nodes(federation)
    if output is Format.JSON:
        _print_json({"store": store, "revoked": True, "connection": connection})
        return
    echo(store)
    already = f"{store!r} is revoked already, since {before:%Y-%m-%d %H:%M} UTC" if before else ""
    say(already or f"revoked {store!r}; the coordinator leaves it out from now on")
    if connection:
        say(connection)
    say("other stores still accept its certificate until it expires: to make it final, sign a")
    say("manifest without the store (`hanse server manifest sign`) and hand it out")


@manifest.command()
def sign(
    folder: FederationFolderOption = _HERE,
    settings: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Run settings, if not those of the folder.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(metavar="MODEL", help="The initial model, if not that of the folder."),
    ] = None,
    continue_from: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Start from the model that a finished run has trained."),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="STORE", help="Leave out an admitted store, such as one that leaves."),
    ] = None,
    authority_key: _AuthorityOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Write and sign the terms for all admitted stores."""
    from hanse_server.deployment.attendance import attendance
    from hanse_server.deployment.run import trained
    from hanse_server.deployment.sign import sign_manifest

    federation = _folder(folder)
    signed = sign_manifest(
        federation,
        _authority(federation, authority_key),
        settings=settings,
        model=model,
        start=trained(federation, continue_from) if continue_from else None,
        without=without or (),
    )
    terms = signed.manifest
    if output is Format.JSON:
        row = {
            "manifest": str(federation.manifest),
            "digest": terms.digest().hex(),
            "expired": list(signed.expired),
            "attendance": attendance(terms).row(),
        }
        _print_json(row | {"terms": terms.model_dump(mode="json")})
        return
    echo(federation.manifest)
    promise = "no privacy"
    if terms.privacy.mode != "none":
        promise = (
            f"epsilon at most {terms.privacy.target_epsilon} at delta {terms.privacy.target_delta}"
        )
    say(f"signed for {len(terms.stores)} stores: {terms.rounds} rounds, {promise}")
    for line in attendance(terms).lines():
        say(line)
    for store in without or ():
        say(f"left out {store!r}; it stays admitted, and `hanse server revoke` shuts it out")
    for store in signed.expired:
        say(f"left out {store!r}: its certificate has expired")
    say(f"give {federation.manifest.name} to every store")


@manifest.command()
def show(folder: FederationFolderOption = _HERE, output: FormatOption = Format.TABLE) -> None:
    """Check and print the signed terms."""
    from hanse_server.deployment.sign import signed_manifest

    terms = signed_manifest(_folder(folder))
    table = {"digest": terms.digest().hex(), **terms.model_dump(mode="json")}
    if output is Format.JSON:
        _print_json(table)
        return
    privacy = table.pop("privacy")
    sections = {kind: table.pop(kind) for kind in ("sections", "evaluation")}
    for key, value in table.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        echo(f"{key} = {text}")
    for key, value in privacy.items():
        echo(f"privacy.{key} = {value}")
    for kind, parts in sections.items():
        for part in parts:
            echo(f"{kind}.{part['name']} = {part['length']} numbers")


@app.command()
def up(
    folder: FederationFolderOption = _HERE,
    detach: Annotated[
        bool,
        typer.Option("--detach", help="Run in the background; return once stores can connect."),
    ] = False,
) -> None:
    """Let stores connect: start Flower's SuperLink behind a gate that passes fleet calls only."""
    from hanse_server.deployment.up import detach as start_detached
    from hanse_server.deployment.up import serve

    federation = _folder(folder)
    if detach:
        echo(start_detached(federation))
        say("up, as this process; `hanse server down` ends it")
        return
    if sys.stderr.isatty():
        serve(federation, tell=say)
        return
    from hanse_common import logs

    logs.set_up()
    serve(federation, tell=_log)


@app.command()
def down(folder: FederationFolderOption = _HERE) -> None:
    """End `up`; a run that is underway can be resumed later."""
    from hanse_server.deployment.up import take_down

    echo(take_down(_folder(folder)))


@app.command()
def run(
    folder: FederationFolderOption = _HERE,
    name: RunNameOption = None,
    stores: StoresOption = None,
    detach: _DetachOption = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Start a training run with the stores of the manifest, and wait for its end.

    Ctrl-C ends the waiting; the run goes on.
    """
    from hanse_server.deployment.run import start

    federation = _folder(folder)
    _follow(federation, start(federation, name=name, stores=stores), detach, output)


@app.command()
def resume(
    folder: FederationFolderOption = _HERE,
    name: Annotated[
        str | None, typer.Option(metavar="RUN", help="The run; the last one if unset.")
    ] = None,
    stores: StoresOption = None,
    detach: _DetachOption = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Resume a run from its last complete round."""
    from hanse_server.deployment.run import resume as go_on

    federation = _folder(folder)
    _follow(federation, go_on(federation, name=name, stores=stores), detach, output)


@app.command()
def stop(folder: FederationFolderOption = _HERE, output: FormatOption = Format.TABLE) -> None:
    """Stop the current run; the stores stay connected, and it can be resumed."""
    from hanse_server.deployment.run import stop as halt
    from hanse_server.deployment.run_state import as_row

    state = halt(_folder(folder))
    if output is Format.JSON:
        _print_json(as_row(state))
        return
    echo(state.name)
    say(f"stopped after round {state.round} of {state.rounds}; `hanse server resume` goes on")


@app.command()
def status(folder: FederationFolderOption = _HERE, output: FormatOption = Format.TABLE) -> None:
    """Show the stores, the stage or refusal of each, and the run."""
    from hanse_server.deployment.status import read_status
    from hanse_server.deployment.tables import print_status

    current = read_status(_folder(folder))
    if output is Format.JSON:
        _print_json(current.row())
    else:
        print_status(current)


app.command()(blame)
app.command()(metrics)
app.command()(watch)
app.command()(notify)


def _follow(federation: FederationFolder, state: RunState, detach: bool, output: Format) -> None:
    """Show a run's stages as they finish, then print its final state."""
    from hanse_server.deployment.run import watch as follow
    from hanse_server.deployment.run_state import as_row, find, state_of
    from hanse_server.deployment.tables import run_line, stage_line

    if not detach:
        say(f"run {state.name}, in {state.folder}")
        try:
            for stage in follow(federation, state.name):
                say(stage_line(stage, state.rounds))
        except KeyboardInterrupt:
            # The run is a process of the SuperLink, in a session that Ctrl-C does not reach.
            say("not waiting any longer; the run goes on (`hanse server status`, `… stop`)")
        state = state_of(federation, find(federation, state.name))
    if output is Format.JSON:
        _print_json(as_row(state))
    else:
        echo(run_line(state))


def _folder(path: Path) -> FederationFolder:
    from hanse_server.deployment.folder import FederationFolder

    return FederationFolder(path)


def _authority(federation: FederationFolder, path: Path | None) -> AuthorityKey:
    from hanse_common.identity import AuthorityKey

    return AuthorityKey.load(path or federation.authority_key)


def _confirm(request: Request, expected: str | None, yes: bool) -> None:
    """Compare the request's fingerprint over a channel that its sender does not control.

    Raises:
        DeploymentError [admission-refused]: It differs, or there is no one to compare it.
    """
    say(f"{request.store_id!r} has the fingerprint {request.fingerprint}")
    if expected is not None:
        # Compared as digits: people add spaces and colons when they write it down.
        if _digits(expected) != _digits(request.fingerprint):
            raise DeploymentError(
                f"the fingerprint of {request.store_id!r} is {request.fingerprint}, not {expected}",
                code="admission-refused",
                hint="someone else may have sent the request: call the store",
            )
        return
    if yes:
        return
    if not sys.stdin.isatty():
        raise DeploymentError(
            f"there is no terminal to compare the fingerprint of {request.store_id!r} at",
            code="admission-refused",
            hint="pass it with --fingerprint, or --yes if the request came over a safe channel",
        )
    if not typer.confirm("Does the store read out the same fingerprint?", err=True):
        raise DeploymentError(
            f"{request.store_id!r} was not admitted",
            code="admission-refused",
            hint="call the store",
        )


def _digits(fingerprint: str) -> str:
    return fingerprint.lower().replace(":", "").replace(" ", "")


def update_nodes(federation: FederationFolder) -> str:
    """Update the SuperLink's nodes if it is up, and describe the changes on one line."""
    from hanse_server.deployment.up import register

    try:
        done = register(federation)
    except SuperLinkDown:
        return ""  # `hanse server up` registers the admitted stores when it starts
    lines = [f"{store}: {reason}" for store, reason in done.refused.items()]
    if done.registered:
        lines.append(f"the SuperLink admits {', '.join(done.registered)}")
    if done.shut_out:
        lines.append(f"the SuperLink shuts out {', '.join(done.shut_out)}")
    return "; ".join(lines)


def _certificate_row(federation: FederationFolder, certificate: Certificate) -> dict[str, Any]:
    from hanse_common.identity import fingerprint

    return {
        "store": certificate.store_id,
        "certificate": str(federation.certificate(certificate.store_id)),
        "fingerprint": fingerprint(certificate.public_key),
        "valid_until": time.strftime("%Y-%m-%d", time.gmtime(certificate.valid_until)),
    }


def _log(line: str) -> None:
    logging.getLogger(__name__).info(line)


def _print_json(value: object) -> None:
    echo(json_text(value))
