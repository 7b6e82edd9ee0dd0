"""The coordinator's folder: `federation.toml` and the files next to it.

    federation.toml      name, addresses, TLS files, run settings; see `FederationFile`
    settings.toml        what is learnt and promised; `init` writes one to be edited
    authority.key        0600; signs certificates and manifests; may be kept offline elsewhere
    authority            its public key in hexadecimal
    coordinator.key      0600; signs the round log's checkpoints
    invitation.json      for stores: where to connect, which certificates to trust
    tls/                 certificates and keys for stores, and others for this machine only
    requests/            requests that were admitted, `<store>.request`
    certificates/        `<store>`; those that were replaced are in `earlier/`
    revoked/             `<store>`: certificates that are refused, whatever their date
    roundlog.sqlite      the exchanges and their outcomes, with a signed checkpoint next to it
    blame.json           which stores rounds leave out, and why; `hanse server blame` changes it
    manifest.json        the signed terms
    settings.json        the run settings from which the terms were made
    state/               the SuperLink's database, its home, pid files and logs
    runs/<name>/         a run, as `hanse_server.app` reads it

>>> FederationFile(name="baltic", fleet=FleetSettings(address="hanse.example.org:9443")).fleet.port
9443
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from hanse_common.addresses import bare_host, split_address
from hanse_common.alerting.settings import NotifySettings
from hanse_common.errors import ConfigError
from hanse_common.identity import KEY_SIZE, CoordinatorKey
from hanse_common.paths import (
    AUTHORITY_FILE,
    AUTHORITY_KEY_FILE,
    CERTIFICATES_FOLDER,
    COORDINATOR_KEY_FILE,
    COORDINATOR_PUBLIC_FILE,
    FEDERATION_FILE,
    INVITATION_FILE,
    MANIFEST_FILE,
    REQUEST_SUFFIX,
    REQUESTS_FOLDER,
    REVOKED_FOLDER,
    RUNS_FOLDER,
    RUNTIME_FOLDER,
    SETTINGS_FILE,
    SETTINGS_TEMPLATE_FILE,
    TLS_CERTIFICATE_FILE,
    TLS_FOLDER,
    TLS_KEY_FILE,
    TLS_ROOT_FILE,
)
from hanse_common.settings_files import Settings, parse_settings, read_toml


class FleetSettings(Settings):
    """The address that stores connect to: the only one that other machines can reach."""

    address: str
    """`host:port` as stores reach it; the TLS certificate must be valid for the host."""
    bind: str = "0.0.0.0"
    """Local address to listen on; `::` is every address, of IPv6 and of IPv4."""
    listen: int | None = Field(default=None, ge=1, le=65535)
    """Local port to listen on, if it is not that of `address`."""
    certificate: Path = Path(TLS_FOLDER, TLS_CERTIFICATE_FILE)
    key: Path = Path(TLS_FOLDER, TLS_KEY_FILE)
    ca: Path = Path(TLS_FOLDER, TLS_ROOT_FILE)
    """Roots against which stores check the certificate; the invitation contains them."""
    largest_request: int = Field(default=16 * 2**20, ge=6 * 2**20)
    """Largest request in bytes; Flower sends models in pieces of 5 MiB."""

    @field_validator("address")
    @classmethod
    def _host_and_port(cls, address: str) -> str:
        split_address(address)
        return address

    @field_validator("bind")
    @classmethod
    def _without_brackets(cls, bind: str) -> str:
        return bare_host(bind)

    @property
    def host(self) -> str:
        """The host that stores know."""
        return split_address(self.address)[0]

    @property
    def port(self) -> int:
        """The port that this machine listens on."""
        return self.listen or split_address(self.address)[1]


class SuperLinkSettings(Settings):
    """Flower's SuperLink, which listens on this machine's loopback address only."""

    port: int = Field(default=9444, ge=1, le=65535)
    start_seconds: float = Field(default=60.0, gt=0)
    """Seconds that it may take to start."""


class WaitSettings(Settings):
    """How long a run waits for stores, in seconds."""

    connect: float = Field(default=120.0, gt=0)
    """Until the stores are connected, when a run starts."""
    absent: float = Field(default=300.0, gt=0)
    """Until stores are back that fell away later, before a round goes on without them."""
    train: float = Field(default=900.0, gt=0)
    """Until stores have trained or evaluated."""
    stage: float = Field(default=120.0, gt=0)
    """Until each later stage of secure aggregation is answered."""


class EnrolmentSettings(Settings):
    """What a store's request may be proven by, besides a fingerprint that is read by phone."""

    ca: Path | None = None
    """PEM roots of a company's own authority, whose certificates vouch for stores."""


class FederationFile(Settings):
    """`federation.toml`."""

    name: str = Field(min_length=1, max_length=128)
    settings: Path = Path(SETTINGS_TEMPLATE_FILE)
    """File of the run settings: what is learnt, and what is promised."""
    model: Path = Path("model")
    """Folder made by `hanse model init`; a run starts from its `initial.safetensors`."""
    certificate_days: int = Field(default=365, ge=1, le=3650)
    """Days for which a store's certificate is valid."""
    fleet: FleetSettings
    superlink: SuperLinkSettings = SuperLinkSettings()
    wait: WaitSettings = WaitSettings()
    enrolment: EnrolmentSettings = EnrolmentSettings()
    notify: NotifySettings = NotifySettings()
    """Who is told of events."""

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        # Also where the addresses differ: 0.0.0.0 includes loopback.
        if self.fleet.port == self.superlink.port:
            raise ValueError(
                f"superlink.port={self.superlink.port} is the port that stores connect to; "
                "the SuperLink must be reachable on this machine only, on another port"
            )
        return self


class FederationFolder:
    """The paths of a coordinator's folder, and the content of its `federation.toml`.

    Args:
        path: The folder; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        # Absolute: the SuperLink's processes have another working directory.
        self.path = path.absolute()

    @cached_property
    def file(self) -> FederationFile:
        """The content of `federation.toml`.

        Raises:
            ConfigError: The file is missing, or it holds an unknown or malformed setting.
        """
        path = self.path / FEDERATION_FILE
        if not path.is_file():
            raise ConfigError(
                f"{self.path} is no federation's folder: it has no {FEDERATION_FILE}",
                hint="create one with `hanse server init --folder FOLDER …`, or name it with "
                "--folder",
            )
        return parse_settings(FederationFile, read_toml(path))

    @cached_property
    def authority(self) -> bytes:
        """The enrolment authority's public key.

        Raises:
            ConfigError: The file is missing or malformed.
        """
        return read_public_key(self.authority_file, "the enrolment authority's")

    @cached_property
    def log_key(self) -> bytes:
        """The public key of the coordinator, which signs the round log.

        A copy of the folder for the authority holds this key alone, not the private one.

        Raises:
            ConfigError, KeyFileError: The key is missing, malformed, or readable by others.
        """
        public = self.path / COORDINATOR_PUBLIC_FILE
        if public.exists():
            return read_public_key(public, "the coordinator's")
        return CoordinatorKey.load(self.coordinator_key).public

    def resolve(self, path: Path) -> Path:
        """A path in `federation.toml`; relative paths begin at the folder."""
        return self.path / path.expanduser()

    @property
    def authority_file(self) -> Path:
        """The authority's public key, in hexadecimal."""
        return self.path / AUTHORITY_FILE

    @property
    def authority_key(self) -> Path:
        """The authority's private key, unless it is stored elsewhere."""
        return self.path / AUTHORITY_KEY_FILE

    @property
    def coordinator_key(self) -> Path:
        """The key that signs the round log's checkpoints."""
        return self.path / COORDINATOR_KEY_FILE

    @property
    def invitation(self) -> Path:
        """The invitation that stores get first."""
        return self.path / INVITATION_FILE

    @property
    def manifest(self) -> Path:
        """The terms as the authority signed them."""
        return self.path / MANIFEST_FILE

    @property
    def settings(self) -> Path:
        """The run settings of the signed terms, including the solved noise multiplier."""
        return self.path / SETTINGS_FILE

    @property
    def tls(self) -> Path:
        """Certificates and keys that `init` made."""
        return self.path / TLS_FOLDER

    @property
    def certificates(self) -> Path:
        """One certificate for each admitted store."""
        return self.path / CERTIFICATES_FOLDER

    @property
    def revoked(self) -> Path:
        """Certificates that are refused."""
        return self.path / REVOKED_FOLDER

    @property
    def state(self) -> Path:
        """The SuperLink's database, pid files, logs."""
        return self.path / RUNTIME_FOLDER

    @property
    def runs(self) -> Path:
        """The folder of all runs, with one folder for each."""
        return self.path / RUNS_FOLDER

    def request(self, store_id: str) -> Path:
        """The file of the request with which a store was admitted."""
        return self.path / REQUESTS_FOLDER / (store_id + REQUEST_SUFFIX)

    def certificate(self, store_id: str) -> Path:
        """The file of a store's certificate."""
        return self.certificates / store_id

    def run(self, name: str) -> Path:
        """The folder of one run."""
        return self.runs / name


def read_public_key(path: Path, whose: str) -> bytes:
    """Read a public key in hexadecimal.

    Raises:
        ConfigError: The file is missing or malformed.
    """
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot read {whose} public key {path}: {error}",
            hint="put back the file that `hanse server init` or `hanse server authority` wrote",
        ) from error
    if len(key) != KEY_SIZE:
        raise ConfigError(f"{path} holds {len(key)} bytes, and a public key has {KEY_SIZE}")
    return key
