"""Founds a federation: makes keys, TLS files, `federation.toml` and the stores' invitation.

Existing files are never replaced: a second authority would disown every store that the first
one admitted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path

from hanse_common.admission import Invitation
from hanse_common.durable import write_durably
from hanse_common.errors import AlreadyThere, ConfigError, DeploymentError
from hanse_common.identity import AuthorityKey, CoordinatorKey, fingerprint
from hanse_common.paths import (
    FEDERATION_FILE,
    TLS_CERTIFICATE_FILE,
    TLS_FOLDER,
    TLS_KEY_FILE,
    TLS_ROOT_FILE,
    TLS_ROOT_KEY_FILE,
)
from hanse_common.settings_files import parse_settings
from hanse_server.deployment import tls
from hanse_server.deployment.folder import FederationFile, FederationFolder
from hanse_server.deployment.tls_renewal import make_loopback

_TEMPLATE = """\
# A federation, as its coordinator runs it. Unknown keys are errors.
# Relative paths begin at this folder.
name = {name}

# What is learnt and what is promised (docs/privacy.md lists every setting), and the folder
# that `hanse model init` makes from it and the public catalogue.
settings = "settings.toml"
model = "model"

# How many days a store's certificate is valid.
certificate_days = {days}

# The address that stores connect to: the only one that other machines can reach. Only Flower's
# fleet calls pass through it.
[fleet]
address = {address}
bind = {bind}
{listen}certificate = {certificate}
key = {key}
ca = {ca}

# Flower's SuperLink. It listens on this machine's loopback address only, because anyone who
# can reach it can start runs.
[superlink]
port = {superlink}

# How long a run waits for stores, in seconds.
[wait]
connect = 120
absent = 300
train = 900
stage = 120

# Whom to tell of events, by webhook, command or e-mail: docs/operators.md, "Who is told".
# [notify.command]
# argv = ["/usr/local/bin/page", "on-call"]
"""


_SETTINGS = """\
# What a federation learns, and what it promises every customer. Every store checks each
# message against the terms that are signed for this; docs/privacy.md lists every setting.

recipe = "grocery"     # what is left out here is as in this recipe (`hanse recipes show grocery`)

[data]
source = "own"         # each store's own data, as its store.toml says
level = "category"     # what baskets are ranked by: "category", "type" or "product"
min_items = 1          # a class is ranked if the public catalogue lists so many items of it

# Where training, validation and test end, on the shops' own clocks. Change these.
[data.split]
train_until = {train}
validate_until = {validate}
test_until = {test}

[model]
trainable = "heads"    # the small head on the pre-trained transformer

# What the rounds release, with shares of the budget; the gradient has all rounds but two.
[[phases]]
name = "category-pairs"      # which classes are bought by the same customers
release = "statistics"
share = 0.16

[[phases]]
name = "class-residuals"     # how often interests in a class rise and fall
release = "statistics"
share = 0.24

[[phases]]
release = "gradient"         # training of the head
share = 0.6

[training]
sample_rate = 1.0            # all customers in every round
learning_rate = 2.0
expected_batch_size = 175.0  # about the number of customers of a store; change this

[privacy]
mode = "distributed"   # the stores share the noise; "local" trusts no other party, at a price
target_epsilon = 4.0
target_delta = 1e-6
max_grad_norm = 0.0625
statistics_noise_multiplier = 100.0

[federation]
rounds = 42
strategy = "FedAvgM"
strategy_options = {{ server_momentum = 0.9 }}
average_last = 0.5
evaluate_every = 21
minimum_cohort = 5
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnTls:
    """An operator's own certificate for the address that stores connect to."""

    certificate: Path
    key: Path
    ca: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class NewFederation:
    """The names, files and fingerprint of a new federation."""

    folder: Path
    name: str
    authority: str
    fleet: str
    invitation: Path
    authority_key: Path | None
    """File of the private key; None if it is on the authority's own machine."""


def init_federation(
    folder: FederationFolder,
    *,
    name: str,
    address: str,
    bind: str = "0.0.0.0",
    listen: int | None = None,
    superlink_port: int = 9444,
    certificate_days: int = 365,
    own_tls: OwnTls | None = None,
    authority_key: Path | None = None,
    authority_public: bytes | None = None,
) -> NewFederation:
    """Make a federation's folder.

    Args:
        folder: The folder; it is created if it does not exist.
        name: The federation's name, which the manifest contains.
        address: `host:port` as stores reach the coordinator.
        bind: Local address to listen on.
        listen: Local port to listen on, if it is not that of the address.
        superlink_port: Loopback port of the SuperLink.
        certificate_days: Days for which a store's certificate is valid.
        own_tls: The operator's own certificate; one for trials is made if unset.
        authority_key: Path of the authority's key, which is made if it does not exist; in the
            folder if unset.
        authority_public: The public key of an authority on another machine, whose private key
            is never here.

    Raises:
        AlreadyThere: The folder already holds a federation; nothing was changed.
        ConfigError: A value is out of range.
        DeploymentError [tls]: Stores would refuse the operator's certificate.
        DeploymentError: The folder cannot be written.
    """
    for path in (folder.path / FEDERATION_FILE, folder.authority_file, folder.coordinator_key):
        if path.exists():
            raise AlreadyThere(
                f"{path} exists already: a federation is founded once",
                hint="name another --folder, or edit federation.toml by hand",
            )
    ca, certificate, key = (
        (own_tls.ca.absolute(), own_tls.certificate.absolute(), own_tls.key.absolute())
        if own_tls
        else (
            Path(TLS_FOLDER, TLS_ROOT_FILE),
            Path(TLS_FOLDER, TLS_CERTIFICATE_FILE),
            Path(TLS_FOLDER, TLS_KEY_FILE),
        )
    )
    fleet = {
        "address": address,
        "bind": bind,
        "listen": listen,
        "certificate": certificate,
        "key": key,
        "ca": ca,
    }
    table = {
        "name": name,
        "certificate_days": certificate_days,
        "fleet": fleet,
        "superlink": {"port": superlink_port},
    }
    # The same check as for a file on disk, before anything is written.
    file = parse_settings(FederationFile, table)
    if own_tls:
        tls.check_server(certificate, key, ca, file.fleet.host)
    authority_path = authority_key or folder.authority_key
    if authority_public is None:
        authority = _authority(authority_path)
        public = authority.public
    else:
        authority, public = None, authority_public
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        # 0700: private keys, and Flower's database.
        for part in (folder.tls, folder.state):
            part.mkdir(exist_ok=True, mode=0o700)
        if not own_tls:
            _make_tls(folder, file)
        make_loopback(folder)
        if authority is not None and not authority_path.exists():
            authority_path.parent.mkdir(parents=True, exist_ok=True)
            authority.save(authority_path)
        CoordinatorKey.generate().save(folder.coordinator_key)
        roots = folder.resolve(ca).read_text(encoding="ascii")
        Invitation(federation=name, authority=public.hex(), fleet=address, ca=roots).save(
            folder.invitation
        )
        write_durably(folder.authority_file, public.hex() + "\n")
        settings = folder.resolve(file.settings)
        if not settings.exists():
            write_durably(settings, _settings_toml(date.today()))
        # Last: every other command refuses the folder until this file exists.
        write_durably(folder.path / FEDERATION_FILE, federation_toml(file))
    except OSError as error:
        raise DeploymentError(f"cannot write {folder.path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"cannot invite stores: {error}") from error
    return NewFederation(
        folder=folder.path,
        name=name,
        authority=fingerprint(public),
        fleet=address,
        invitation=folder.invitation,
        authority_key=authority_path if authority else None,
    )


def _authority(path: Path) -> AuthorityKey:
    return AuthorityKey.load(path) if path.exists() else AuthorityKey.generate()


def _make_tls(folder: FederationFolder, file: FederationFile) -> None:
    root_key, root = tls.make_root(f"{file.name} test root")
    key, certificate = tls.make_server(root_key, root, (file.fleet.host,))
    tls.save_key(folder.tls / TLS_ROOT_KEY_FILE, root_key)
    tls.save_certificate(folder.tls / TLS_ROOT_FILE, root)
    tls.save_key(folder.tls / TLS_KEY_FILE, key)
    tls.save_certificate(folder.tls / TLS_CERTIFICATE_FILE, certificate)


def federation_toml(file: FederationFile) -> str:
    """The text of a `federation.toml` with these names, addresses and TLS files."""
    fleet = file.fleet
    return _TEMPLATE.format(
        name=_quoted(file.name),
        days=file.certificate_days,
        address=_quoted(fleet.address),
        bind=_quoted(fleet.bind),
        listen="" if fleet.listen is None else f"listen = {fleet.listen}\n",
        certificate=_quoted(str(fleet.certificate)),
        key=_quoted(str(fleet.key)),
        ca=_quoted(str(fleet.ca)),
        superlink=file.superlink.port,
    )


def _settings_toml(today: date) -> str:
    """Initial settings, whose test weeks end on the most recent Monday."""
    monday = datetime.combine(today - timedelta(days=today.weekday()), time.min)
    weeks = {"train": 8, "validate": 4, "test": 0}
    return _SETTINGS.format(
        **{name: (monday - timedelta(weeks=ago)).isoformat() for name, ago in weeks.items()}
    )


def _quoted(text: str) -> str:
    """A TOML basic string. JSON strings are valid TOML strings."""
    return json.dumps(text, ensure_ascii=False)
