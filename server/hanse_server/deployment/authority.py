"""An enrolment authority on a machine of its own, which the coordinator's never meets.

    coordinator                                        authority, offline
    -----------                                        ------------------
                                                       authority init
    init --authority authority          <--- public key
    authority export FOLDER a.request   ---> FOLDER    admit FOLDER/a.request --folder FOLDER
                                                       manifest sign --folder FOLDER
    authority import FOLDER             <--- FOLDER

The exported folder is a copy of the coordinator's without any secret: what `hanse server admit`
and `hanse server manifest sign` read. Both run on it as they run on the coordinator's own. What
comes back is checked against the authority's public key before it is installed.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hanse_common.durable import is_taken, write_durably
from hanse_common.errors import AlreadyThere, BadManifest, DeploymentError
from hanse_common.identity import AuthorityKey, fingerprint
from hanse_common.instructions import model_digest
from hanse_common.manifest import Manifest, SignedManifest
from hanse_common.manifest_terms import BASE_MODEL_FILES, settings_digest
from hanse_common.paths import (
    AUTHORITY_FILE,
    COMPANY_ROOTS_FILE,
    COORDINATOR_PUBLIC_FILE,
    FEDERATION_FILE,
    FLOWER_RUNS_FILE,
    GLOBAL_FILE,
    INITIAL_FILE,
    MANIFESTS_FOLDER,
    REQUESTS_FOLDER,
    SETTINGS_FILE,
)
from hanse_server.app import read_settings
from hanse_server.checkpoint import write_arrays
from hanse_server.deployment.admit import check_keys, install, members, open_request
from hanse_server.deployment.folder import FederationFile, FederationFolder, FleetSettings
from hanse_server.deployment.init import federation_toml
from hanse_server.deployment.run_state import find
from hanse_server.deployment.sign import keep_earlier, read_initial


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """What an import has installed."""

    admitted: tuple[str, ...]
    """Stores whose certificate is new here."""
    refused: dict[str, str] = field(default_factory=dict)
    """The reason for each store whose certificate was not taken."""
    manifest: str | None = None
    """Digest of the terms, if they are new here."""


def make_authority(key: Path) -> tuple[Path, str]:
    """Make an authority's key.

    Args:
        key: File of the private key.

    Returns:
        The file of the public key, beside the private one, and its fingerprint.

    Raises:
        KeyFileError: The private key exists already, or cannot be written.
    """
    authority = AuthorityKey.generate()
    key.parent.mkdir(parents=True, exist_ok=True)
    authority.save(key)
    public = key.parent / AUTHORITY_FILE
    write_durably(public, authority.public.hex() + "\n")
    return public, fingerprint(authority.public)


def export(
    folder: FederationFolder,
    target: Path,
    requests: Sequence[Path] = (),
    *,
    run: str | None = None,
) -> list[Path]:
    """Write what the authority needs into a new folder; no secret is in it.

    Args:
        folder: The coordinator's folder.
        target: A folder that does not exist, or is empty.
        requests: Requests of stores to be admitted; they are checked first.
        run: A finished run that the next terms start from.

    Returns:
        The requests in the new folder.

    Raises:
        AlreadyThere: The target holds files.
        ProtocolError, DeploymentError: A request cannot be granted.
        RunNotFound: There is no such finished run.
        DeploymentError: The target cannot be written.
    """
    opened = [open_request(folder, path) for path in requests]
    run_dir = None if run is None else find(folder, run)
    if is_taken(target):
        raise AlreadyThere(f"{target} is not empty", hint="name a new folder")
    file, copy = folder.file, FederationFolder(target)
    roots = file.enrolment.ca
    table = FederationFile(
        name=file.name,
        certificate_days=file.certificate_days,
        fleet=FleetSettings(address=file.fleet.address),
    )
    company = "" if roots is None else f'\n[enrolment]\nca = "{COMPANY_ROOTS_FILE}"\n'
    try:
        target.mkdir(parents=True, exist_ok=True)
        write_durably(target / FEDERATION_FILE, federation_toml(table) + company)
        write_durably(copy.authority_file, folder.authority.hex() + "\n")
        write_durably(target / COORDINATOR_PUBLIC_FILE, folder.log_key.hex() + "\n")
        if roots is not None:
            shutil.copyfile(folder.resolve(roots), target / COMPANY_ROOTS_FILE)
        _copy(folder.resolve(file.settings), copy.resolve(table.settings))
        for name in (*BASE_MODEL_FILES, INITIAL_FILE):
            _copy(folder.resolve(file.model) / name, copy.resolve(table.model) / name)
        for source in (folder.certificates, folder.revoked, folder.path / REQUESTS_FOLDER):
            if source.is_dir():
                shutil.copytree(source, target / source.name)
        for source in (folder.manifest, folder.settings):
            _copy(source, target / source.name)
        if run_dir is not None:
            for name in (GLOBAL_FILE, FLOWER_RUNS_FILE, SETTINGS_FILE):
                _copy(run_dir / name, copy.run(run_dir.name) / name)
        written = [target / request.file_name for request in opened]
        for request, path in zip(opened, written, strict=True):
            request.save(path)
    except OSError as error:
        raise DeploymentError(f"cannot write {target}: {error.strerror}") from error
    return written


def take_in(folder: FederationFolder, source: Path) -> Imported:
    """Install what the authority has signed in an exported folder.

    Args:
        folder: The coordinator's folder.
        source: The folder as it came back from the authority.

    Raises:
        ConfigError: The folder is no such copy.
        ProtocolError [bad-certificate]: A certificate is not this authority's.
        BadManifest: The terms are not this authority's, are for another federation, coordinator,
            model or settings than those beside them, or were replaced here before.
        DeploymentError: The folder cannot be written.

    Guarantees:
        Only the authority's signature counts: its public key is the coordinator's own, not the
        copy's. A certificate with a key that was revoked meanwhile is not taken, nor one that is
        older than the one in use.
    """
    copy = _Copy(source, folder.authority)
    copy.file  # noqa: B018  # refuses a folder that is none
    # All is checked before anything is installed.
    terms = _new_terms(folder, copy) if copy.manifest.exists() else None
    admitted, refused = [], {}
    for member in members(copy):
        store = member.store_id
        if folder.certificate(store).exists():
            mine = next(m for m in members(folder) if m.store_id == store).certificate
            if mine == member.certificate:
                continue
            if mine.valid_from >= member.certificate.valid_from:
                refused[store] = "its certificate here is newer"
                continue
        try:
            check_keys(folder, member.request)
        except DeploymentError as error:
            refused[store] = error.message
            continue
        install(folder, member.request, member.certificate)
        admitted.append(store)
    if terms is not None:
        _install_terms(folder, copy, terms)
    return Imported(
        admitted=tuple(admitted),
        refused=refused,
        manifest=None if terms is None else terms.digest().hex(),
    )


class _Copy(FederationFolder):
    """A folder that came back, with the authority that is trusted here instead of its own."""

    def __init__(self, path: Path, authority: bytes) -> None:
        super().__init__(path)
        self.__dict__["authority"] = authority  # where `cached_property` keeps its value


def _new_terms(folder: FederationFolder, copy: FederationFolder) -> Manifest | None:
    """The terms of a copy, checked; None if they are those in force."""
    signed = SignedManifest.load(copy.manifest)
    terms = signed.check(folder.authority)
    digest = terms.digest()
    if folder.manifest.exists() and SignedManifest.load(folder.manifest).unchecked == terms:
        return None
    hint = "export the folder again, and sign in the new one"
    if (folder.path / MANIFESTS_FOLDER / f"{digest.hex()[:16]}.json").exists():
        raise BadManifest("these terms were replaced by later ones here", hint=hint)
    settings = read_settings(copy.path)
    first = terms.schedule.known(read_initial(copy.resolve(copy.file.model)), after=0)
    for fits, what in (
        (terms.federation == folder.file.name, f"the federation {terms.federation!r}"),
        (terms.log_key == folder.log_key.hex(), "another coordinator's key"),
        (terms.settings_digest == settings_digest(settings).hex(), "other settings"),
        (terms.model_digest == model_digest(first).hex(), "another initial model"),
    ):
        if not fits:
            raise BadManifest(f"the terms in {copy.path} are for {what}", hint=hint)
    return terms


def _install_terms(folder: FederationFolder, copy: FederationFolder, terms: Manifest) -> None:
    """Install terms with their settings and the parameters that their run starts from."""
    arrays = read_initial(copy.resolve(copy.file.model))
    try:
        keep_earlier(folder)
        write_arrays(folder.resolve(folder.file.model) / INITIAL_FILE, arrays)
        write_durably(folder.settings, copy.settings.read_bytes())
        # The manifest last: it holds the digests of both, which must exist then.
        write_durably(folder.manifest, SignedManifest.load(copy.manifest).encode())
    except OSError as error:
        raise DeploymentError(f"cannot write {folder.path}: {error.strerror}") from error


def _copy(source: Path, target: Path) -> None:
    """Copy a file that may be missing: the authority's commands say what they lack."""
    if source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
