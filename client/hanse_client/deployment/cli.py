"""`hanse store`: commands of a partner store's operator, from the first key to the last round."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from hanse_client.deployment.keys_cli import keys
from hanse_client.deployment.ledger_cli import accept_head
from hanse_client.deployment.metrics_cli import metrics
from hanse_client.deployment.notify_cli import notify
from hanse_client.deployment.tables import print_facts
from hanse_client.deployment.watch.cli import watch
from hanse_common.commands import command_group
from hanse_common.errors import ConfigError, Interrupted, ProtocolError, StoreNotReady
from hanse_common.formats import Format, FormatOption, say
from hanse_common.options import StoreFolderOption, YesOption

app = command_group("A store's node: enrol, prepare, take part, leave.")
data = command_group("The store's own data.")
app.add_typer(data, name="data")
app.add_typer(keys, name="keys")
ledger = command_group("The store's own ledger.")
ledger.command("accept-head")(accept_head)
app.add_typer(ledger, name="ledger")
app.command()(metrics)
app.command()(watch)
app.command()(notify)

_log = logging.getLogger(__name__)


@app.command()
def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The store's id in federations.")],
    folder: StoreFolderOption = Path(),
    output: FormatOption = Format.TABLE,
) -> None:
    """Make a store's folder: its keys, and store.toml and policy.toml to fill in.

    Overwrites nothing. Private keys are made here, for their owner only, and never leave.
    """
    from hanse_client.deployment.folder import StoreFolder, create
    from hanse_common.identity import StoreKey, fingerprint

    store = StoreFolder(folder)
    create(store, name)
    facts = {
        "store": name,
        "folder": str(folder.absolute()),
        "fingerprint": fingerprint(StoreKey.load(store.store_key).public),
    }
    print_facts(facts, output)
    say("Next: fill in store.toml and enrolment/policy.toml, then `hanse data check store.toml`,")
    say("and `hanse store enrol --invitation FILE` with the coordinator's invitation.json.")


@app.command()
def enrol(
    folder: StoreFolderOption = Path(),
    invitation: Annotated[
        Path | None, typer.Option(metavar="FILE", help="invitation.json of the coordinator.")
    ] = None,
    fingerprint: Annotated[
        str | None,
        typer.Option(metavar="HEX", help="The authority's fingerprint, as read to you by phone."),
    ] = None,
    yes: YesOption = False,
    certificate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The certificate that the authority issued; with --certificate-key, one of your "
            "company (PEM) that signs the request.",
        ),
    ] = None,
    certificate_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The private key of your company's certificate (PEM)."),
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The federation's signed manifest.json.")
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The run's settings.json.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="The model that the run starts from.")
    ] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Ask to be admitted, and check and store the files that come back.

    Without a certificate, manifest, settings or model, writes the request to the coordinator.
    A certificate of your company with its key signs that request, and saves the phone call.
    """
    from hanse_client.deployment import enrol
    from hanse_client.deployment.folder import StoreFolder
    from hanse_common.admission import Invitation

    store = StoreFolder(folder)
    facts: dict[str, Any] = {"store": store.node().name}
    if invitation is not None:
        invited = Invitation.load(invitation)
        _compare(invited.fingerprint, fingerprint, yes)
        enrol.accept_invitation(store, invited)
        facts |= {"federation": invited.federation, "authority": invited.fingerprint}
    elif fingerprint is not None:
        raise ConfigError("--fingerprint goes with --invitation")
    company = None
    if certificate_key is not None:
        if certificate is None:
            raise ConfigError("--certificate-key goes with --certificate")
        # A certificate that signs the request is not one that comes back for it.
        company, certificate = (certificate, certificate_key), None
    if certificate is not None:
        admitted = enrol.accept_certificate(store, certificate)
        facts["certificate until"] = _day(admitted.valid_until)
    if manifest is not None:
        terms = enrol.accept_manifest(store, manifest)
        facts |= {
            "manifest": terms.digest().hex()[:12],
            "stores": len(terms.stores),
            "mode": terms.privacy.mode,
            "epsilon": terms.privacy.target_epsilon,
            "rounds": terms.rounds,
        }
    if settings is not None:
        enrol.accept_settings(store, settings)
        facts["settings"] = "as the manifest names them" if store.manifest.exists() else "stored"
    if model is not None:
        enrol.accept_model(store, model)
        facts["model"] = "as the manifest names it"
    if certificate is manifest is settings is model is None:
        request = enrol.write_request(store, company=company)
        facts |= {"request": str(request), "fingerprint": enrol.own_fingerprint(store)}
    print_facts(facts, output)
    if "request" in facts:
        say("Send the request to the coordinator; read your fingerprint to the authority by phone.")


@data.command()
def prepare(folder: StoreFolderOption = Path(), output: FormatOption = Format.TABLE) -> None:
    """Prepare what the run's task trains on from the store's current data; `join` does it too."""
    from dataclasses import asdict

    from hanse_client.deployment.folder import StoreFolder
    from hanse_client.deployment.preparing import prepare

    done = asdict(prepare(StoreFolder(folder)))
    print_facts({key: done[key] for key in ("customers", "rows", "rejected", "unranked")}, output)


@app.command()
def doctor(folder: StoreFolderOption = Path(), output: FormatOption = Format.TABLE) -> None:
    """Check everything that a round needs; each failure says how to repair it."""
    from hanse_client.deployment.doctor import examine
    from hanse_client.deployment.folder import StoreFolder
    from hanse_client.deployment.tables import print_findings

    findings = examine(StoreFolder(folder))
    print_findings(findings, output)
    failed = [finding.check for finding in findings if finding.state == "failed"]
    if failed:
        raise StoreNotReady(
            f"{len(failed)} of {len(findings)} checks failed: {', '.join(failed)}",
            hint="each failure above says how to repair it",
        )


@app.command()
def join(
    folder: StoreFolderOption = Path(),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what a round would send and cost; send nothing.")
    ] = False,
    patience: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", help="Give up on a server that does not answer; default: never."
        ),
    ] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Take part in the federation until stopped (Ctrl-C, SIGTERM)."""
    from hanse_client.deployment.folder import StoreFolder

    store = StoreFolder(folder)
    if dry_run:
        from hanse_client.deployment.dry_run import preview
        from hanse_client.deployment.tables import print_preview

        print_preview(preview(store), output)
        return
    from hanse_client.deployment.join import join

    # Lines for a person at a terminal; one JSON object a line for a file or a log collector.
    report = _timed(say) if sys.stderr.isatty() else _log.info
    join(store, patience=patience, report=report)


@app.command()
def budget(folder: StoreFolderOption = Path(), output: FormatOption = Format.TABLE) -> None:
    """Show the epsilon spent on this store's customers, and what is left."""
    from hanse_client.deployment.budget import spending
    from hanse_client.deployment.folder import StoreFolder

    print_facts(spending(StoreFolder(folder)), output)


@app.command()
def leave(
    folder: StoreFolderOption = Path(),
    after_round: Annotated[
        int | None,
        typer.Option(min=0, help="The last round to take part in; 0 for none."),
    ] = None,
    stay: Annotated[bool, typer.Option("--stay", help="Take the decision back.")] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Leave after a round: later ones are refused, in this run and every other."""
    from hanse_client.deployment import leave
    from hanse_client.deployment.folder import StoreFolder

    node = StoreFolder(folder).node()
    if stay == (after_round is not None):
        raise ConfigError("either --after-round N or --stay", hint="--after-round 0 leaves at once")
    if after_round is None:
        leave.stay(node.folder)
        print_facts({"store": node.name, "leaves": "no"}, output)
        return
    leave.Leaving(after_round=after_round).save(node.folder)
    print_facts({"store": node.name, "leaves": f"after round {after_round}"}, output)
    say("Tell the coordinator: a manifest without this store makes it final.")


def _compare(shown: str, heard: str | None, yes: bool) -> None:
    """Compare the authority's fingerprint with the given one, or ask a person to do so.

    Raises:
        ProtocolError [bad-invitation]: It is not the given fingerprint.
        Interrupted: The person did not confirm it.
    """
    # The invitation is not signed: one who can replace the file can replace the authority.
    if heard is not None:
        if "".join(heard.split()).replace(":", "").lower() != shown.replace(":", ""):
            raise ProtocolError(
                f"the invitation's authority has the fingerprint {shown}, and not the one given",
                code="bad-invitation",
                hint="do not go on: ask the authority, by phone, for its fingerprint",
            )
        return
    say(f"The authority's fingerprint is\n  {shown}")
    if not yes and not typer.confirm(
        "Is it the one that the authority read to you by phone?", err=True
    ):
        raise Interrupted("not confirmed; nothing was changed")


def _day(seconds: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def _timed(say: Callable[[str], None]) -> Callable[[str], None]:
    return lambda line: say(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {line}")
