"""`hanse server`: what a coordinator does, from founding a federation to running it.

Heavy packages are imported by the commands that need them.
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
from hanse_common.options import FederationFolderOption, RunNameOption, YesOption
from hanse_common.printing import echo
from hanse_common.wording import json_text
from hanse_server.blame_cli import blame
from hanse_server.metrics_cli import metrics

if TYPE_CHECKING:
    from hanse_common.admission import Request
    from hanse_common.identity import AuthorityKey, Certificate
    from hanse_server.deployment.folder import FederationFolder
    from hanse_server.deployment.run import RunState


AuthorityOption = Annotated[
    Path | None,
    typer.Option(
        "--authority-key", metavar="FILE", help="The authority's key, if not in the folder."
    ),
]
StoresOption = Annotated[
    int | None,
    typer.Option(min=1, help="How many stores to wait for; all of the manifest's if unset."),
]
DetachOption = Annotated[bool, typer.Option("--detach", help="Do not wait for the end.")]
HERE = Path()

app = command_group("Coordinate a federation of real stores.")
manifest = command_group("The signed terms.")
app.add_typer(manifest, name="manifest")


@app.command()
def init(
    name: Annotated[str, typer.Option(metavar="NAME", help="What the federation is called.")],
    address: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where stores reach this machine.")
    ],
    folder: FederationFolderOption = HERE,
    bind: Annotated[
        str, typer.Option(metavar="HOST", help="Address of this machine to listen on.")
    ] = "0.0.0.0",
    listen: Annotated[
        int | None, typer.Option(help="Port of this machine to listen on, if not the address's.")
    ] = None,
    superlink_port: Annotated[
        int, typer.Option(help="Port of the SuperLink, on this machine only.")
    ] = 9444,
    certificate_days: Annotated[
        int, typer.Option(help="Days for which a store's certificate holds.")
    ] = 365,
    tls_certificate: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Your own TLS certificate for that host (PEM)."),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its private key (PEM).")
    ] = None,
    tls_ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The roots that issued it (PEM).")
    ] = None,
    authority_key: AuthorityOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Found a federation: keys, TLS files, federation.toml and the invitation for stores.

    Replaces nothing. Without TLS files of your own, makes a root and a certificate to try
    things out with.
    """
    from hanse_server.deployment.init import OwnTls, found

    own = None
    if tls_certificate and tls_key and tls_ca:
        own = OwnTls(certificate=tls_certificate, key=tls_key, ca=tls_ca)
    elif tls_certificate or tls_key or tls_ca:
        raise ConfigError("--tls-certificate, --tls-key and --tls-ca go together, or not at all")
    made = found(
        _folder(folder),
        name=name,
        address=address,
        bind=bind,
        listen=listen,
        superlink_port=superlink_port,
        certificate_days=certificate_days,
        own_tls=own,
        authority_key=authority_key,
    )
    row = {
        "folder": str(made.folder),
        "federation": made.name,
        "authority": made.authority,
        "address": made.fleet,
        "invitation": str(made.invitation),
        "authority_key": str(made.authority_key),
    }
    if output is Format.JSON:
        _print_json(row)
        return
    echo(f"authority {made.authority}")
    say(f"founded {made.name!r} in {made.folder}")
    say(f"hand {made.invitation} to the stores, and read the authority's fingerprint by phone")
    say(f"keep {made.authority_key} offline: whoever has it can admit anybody")


@app.command()
def admit(
    request: Annotated[Path, typer.Argument(metavar="FILE", help="A store's request file.")],
    folder: FederationFolderOption = HERE,
    fingerprint: Annotated[
        str | None,
        typer.Option(metavar="HEX", help="The store key's fingerprint, as the store read it out."),
    ] = None,
    yes: YesOption = False,
    days: Annotated[
        int | None, typer.Option(min=1, help="Days for which the certificate holds.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put it in the place of an earlier certificate.")
    ] = False,
    authority_key: AuthorityOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Admit a store: check its request, compare its fingerprint, write its certificate."""
    from hanse_server.deployment.admit import admit as grant
    from hanse_server.deployment.admit import open_request

    federation = _folder(folder)
    wish = open_request(federation, request)
    key = _authority(federation, authority_key)
    _confirm(wish, fingerprint, yes)
    certificate = grant(federation, wish, key, days=days, replace=replace)
    connection = _register(federation)
    row = _certificate_row(federation, certificate) | {"connection": connection}
    if output is Format.JSON:
        _print_json(row)
        return
    echo(row["certificate"])
    say(f"admitted {wish.store_id!r} until {row['valid_until']}; send it that certificate")
    if connection:
        say(connection)


@app.command()
def revoke(
    store: Annotated[str, typer.Argument(metavar="STORE", help="The store's id.")],
    folder: FederationFolderOption = HERE,
    output: FormatOption = Format.TABLE,
) -> None:
    """Shut a store out at once: its certificate is refused and its node cannot connect."""
    from hanse_server.deployment.admit import revoke as refuse

    federation = _folder(folder)
    refuse(federation, store)
    connection = _register(federation)
    if output is Format.JSON:
        _print_json({"store": store, "revoked": True, "connection": connection})
        return
    echo(store)
    say(f"revoked {store!r}; the coordinator leaves it out from now on")
    if connection:
        say(connection)
    say("other stores still take its certificate until its last day: sign a manifest without")
    say("it (`hanse server manifest sign`) and hand that out, to make it final")


@manifest.command()
def sign(
    folder: FederationFolderOption = HERE,
    settings: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Run settings, if not the folder's.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="The initial model, if not the folder's.")
    ] = None,
    continue_from: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Start from what a finished run has trained."),
    ] = None,
    authority_key: AuthorityOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Write the terms down for all admitted stores, and sign them."""
    from hanse_server.deployment.run import trained
    from hanse_server.deployment.sign import sign_manifest

    federation = _folder(folder)
    signed = sign_manifest(
        federation,
        _authority(federation, authority_key),
        settings=settings,
        model=model,
        start=trained(federation, continue_from) if continue_from else None,
    )
    terms = signed.manifest
    if output is Format.JSON:
        row = {
            "manifest": str(federation.manifest),
            "digest": terms.digest().hex(),
            "expired": list(signed.expired),
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
    for store in signed.expired:
        say(f"left out {store!r}: its certificate has ended")
    say(f"hand {federation.manifest.name} to every store")


@manifest.command()
def show(folder: FederationFolderOption = HERE, output: FormatOption = Format.TABLE) -> None:
    """Check the signed terms, and print them."""
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
    folder: FederationFolderOption = HERE,
    detach: Annotated[
        bool, typer.Option("--detach", help="In the background; returns once stores can connect.")
    ] = False,
) -> None:
    """Let stores connect: Flower's SuperLink, and before it a gate for fleet calls only."""
    from hanse_server.deployment.up import detach as start_detached
    from hanse_server.deployment.up import serve

    federation = _folder(folder)
    if detach:
        echo(start_detached(federation))
        say("up, as that process; `hanse server down` ends it")
        return
    if sys.stderr.isatty():
        serve(federation, tell=say)
        return
    from hanse_common import logs

    logs.set_up()
    serve(federation, tell=_log)


@app.command()
def down(folder: FederationFolderOption = HERE) -> None:
    """End `up`; a run that is underway can be resumed."""
    from hanse_server.deployment.up import take_down

    echo(take_down(_folder(folder)))


@app.command()
def run(
    folder: FederationFolderOption = HERE,
    name: RunNameOption = None,
    stores: StoresOption = None,
    detach: DetachOption = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Train: start a run with the stores of the manifest, and wait for its end.

    Ctrl-C stops waiting, not the run.
    """
    from hanse_server.deployment.run import start

    federation = _folder(folder)
    _follow(federation, start(federation, name=name, stores=stores), detach, output)


@app.command()
def resume(
    folder: FederationFolderOption = HERE,
    name: Annotated[
        str | None, typer.Option(metavar="RUN", help="The run; the last one if unset.")
    ] = None,
    stores: StoresOption = None,
    detach: DetachOption = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Go on with a run from its last whole round."""
    from hanse_server.deployment.run import resume as go_on

    federation = _folder(folder)
    _follow(federation, go_on(federation, name=name, stores=stores), detach, output)


@app.command()
def stop(folder: FederationFolderOption = HERE, output: FormatOption = Format.TABLE) -> None:
    """Stop the run that is underway; the stores stay connected, and it can be resumed."""
    from hanse_server.deployment.run import as_row
    from hanse_server.deployment.run import stop as halt

    state = halt(_folder(folder))
    if output is Format.JSON:
        _print_json(as_row(state))
        return
    echo(state.name)
    say(f"stopped after round {state.round} of {state.rounds}; `hanse server resume` goes on")


@app.command()
def status(folder: FederationFolderOption = HERE, output: FormatOption = Format.TABLE) -> None:
    """Show the stores, what each is doing or why it refused, and the run."""
    from hanse_server.deployment.status import read_status
    from hanse_server.deployment.tables import print_status

    found = read_status(_folder(folder))
    if output is Format.JSON:
        _print_json(found.row())
    else:
        print_status(found)


app.command()(blame)
app.command()(metrics)


def _follow(federation: FederationFolder, state: RunState, detach: bool, output: Format) -> None:
    """Show a run's stages as they finish, then print what came of it."""
    from hanse_server.deployment.run import as_row, find, state_of, watch
    from hanse_server.deployment.tables import run_line, stage_line

    if not detach:
        say(f"run {state.name}, in {state.folder}")
        try:
            for stage in watch(federation, state.name):
                say(stage_line(stage, state.rounds))
        except KeyboardInterrupt:
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


def _confirm(request: Request, told: str | None, yes: bool) -> None:
    """Make sure that the request is the store's, by a way that its sender does not control."""
    say(f"{request.store_id!r} has the fingerprint {request.fingerprint}")
    if told is not None:
        if _digits(told) != _digits(request.fingerprint):
            raise DeploymentError(
                f"the fingerprint of {request.store_id!r} is {request.fingerprint}, not {told}",
                code="admission-refused",
                hint="somebody else may have sent the request: talk to the store",
            )
        return
    if yes:
        return
    if not sys.stdin.isatty():
        raise DeploymentError(
            f"nobody is here to compare the fingerprint of {request.store_id!r}",
            code="admission-refused",
            hint="pass it with --fingerprint, or --yes if the request came by a safe way",
        )
    if not typer.confirm("Does the store read out the same?", err=True):
        raise DeploymentError(
            f"{request.store_id!r} was not admitted",
            code="admission-refused",
            hint="talk to the store",
        )


def _digits(fingerprint: str) -> str:
    return fingerprint.lower().replace(":", "").replace(" ", "")


def _register(federation: FederationFolder) -> str:
    """Bring the SuperLink up to date, if it is up; say what that gave, if anything."""
    from hanse_server.deployment.up import register

    try:
        done = register(federation)
    except SuperLinkDown:
        return ""
    lines = [f"{store}: {reason}" for store, reason in done.refused.items()]
    if done.registered:
        lines.append(f"the SuperLink lets in {', '.join(done.registered)}")
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
