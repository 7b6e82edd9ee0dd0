"""Makes the signed manifest from run settings; it fixes what every store accepts.

This needs no torch: the model's folder, made by `hanse model init`, holds the initial
parameters as plain arrays.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from hanse_common import bundle
from hanse_common.config import RunSettings
from hanse_common.durable import write_durably
from hanse_common.errors import BadManifest, ConfigError, DeploymentError, ExpiredCertificate
from hanse_common.identity import AuthorityKey
from hanse_common.instructions import NDArray
from hanse_common.manifest import Manifest, SignedManifest
from hanse_common.manifest_noise import check_noise
from hanse_common.manifest_terms import base_model_digest, manifest_for
from hanse_common.paths import INITIAL_FILE, MANIFESTS_FOLDER
from hanse_common.privacy.plan import solved
from hanse_common.run_file import read_run_file
from hanse_server.checkpoint import read_arrays, write_arrays
from hanse_server.deployment.admit import members
from hanse_server.deployment.folder import FederationFolder
from hanse_server.strategies import make_strategy


@dataclass(frozen=True, kw_only=True, slots=True)
class Signed:
    """A signed manifest, and the stores that it leaves out."""

    manifest: Manifest
    expired: tuple[str, ...]
    """Admitted stores whose certificate has expired."""


def sign_manifest(
    folder: FederationFolder,
    authority: AuthorityKey,
    *,
    settings: Path | None = None,
    model: Path | None = None,
    start: Mapping[str, NDArray] | None = None,
    without: Collection[str] = (),
    now: int | None = None,
) -> Signed:
    """Write and sign the terms for all admitted stores.

    Args:
        folder: The federation's folder.
        authority: The enrolment authority's key.
        settings: Run settings (TOML); `federation.toml` names them if unset.
        model: Folder with `initial.safetensors`; `federation.toml` names it if unset.
        start: Parameters for the next run to start from, such as those of an earlier run
            (`run.trained`). They replace the initial parameters in the model's folder. The
            frozen rest of the model, which stores hold, is unchanged.
        without: Admitted stores to leave out, such as one that leaves. They stay admitted, and
            later terms may list them again.
        now: Unix seconds; the system clock's if unset.

    Raises:
        ConfigError: A store in `without` is not admitted, the key is another authority's, a
            setting is wrong, the model is missing, `start` belongs to another model, or there
            are too few stores.
        KeyFileError: The coordinator's key is missing, or readable by others.
        ProtocolError [unsafe-terms]: The terms break one of the protocol's promises.
        PrivacyError: The settings promise more than their noise can keep.
        DeploymentError: The folder cannot be written.
    """
    if authority.public != folder.authority:
        raise ConfigError(
            "the key is not that of this federation's authority",
            hint="name the right one with --authority-key",
        )
    run = read_run_settings(settings or folder.resolve(folder.file.settings))
    model = model or folder.resolve(folder.file.model)
    arrays, base = read_initial(model), base_model_digest(model)
    if start is not None:
        _check_same_parameters(start, arrays)
        arrays = dict(start)
    now = int(time.time()) if now is None else now
    stores, expired, admitted = [], [], members(folder)
    _check_admitted(without, [member.store_id for member in admitted])
    for member in admitted:
        if member.store_id in without:
            continue
        try:
            member.certificate.check(authority.public, now=now)
            stores.append(member.store_id)
        except ExpiredCertificate:
            expired.append(member.store_id)
    # Solved once and written down: stores and coordinator need not agree on a solver.
    run = solved(run)
    draft = manifest_for(run, arrays, stores, federation=folder.file.name, log_key=folder.log_key)
    terms = draft.model_dump() | {
        "fab_digest": bundle.digest(),
        "base_digest": None if base is None else base.hex(),
    }
    manifest = Manifest.model_validate(terms)
    # Every store checks this too; a manifest that all of them refuse must not be signed.
    check_noise(manifest)
    try:
        # The manifest last: it holds the digests of model and settings, which must exist then.
        keep_earlier(folder)
        if start is not None:
            write_arrays(model / INITIAL_FILE, arrays)
        write_durably(folder.settings, run.model_dump_json(indent=2) + "\n")
        write_durably(folder.manifest, SignedManifest.sign(manifest, authority).encode())
    except OSError as error:
        raise DeploymentError(f"cannot write {folder.manifest}: {error.strerror}") from error
    return Signed(manifest=manifest, expired=tuple(expired))


def _check_admitted(stores: Collection[str], admitted: Collection[str]) -> None:
    """Refuse to leave out a store that would not have been in the terms: the name is wrong."""
    for store in stores:
        if store not in admitted:
            raise ConfigError(
                f"no store {store!r} is admitted, so that it cannot be left out",
                hint=f"admitted: {', '.join(admitted) or 'none'}",
            )


def read_run_settings(path: Path) -> RunSettings:
    """Read the settings that a federation's runs follow.

    Raises:
        ConfigError: They cannot be read, are invalid, do not mask updates, or ask for something
            that only a simulation can do.
    """
    settings = read_run_file(path)
    make_strategy(settings)  # raises for a strategy that the coordinator could not start
    # Names only: the coordinator runs no task, and has no torch to import one with.
    installed = {entry.name for entry in entry_points(group="hanse.tasks")}
    if settings.task not in installed:
        raise ConfigError(
            f"task={settings.task!r} is no task of a package that is installed here",
            hint=f"install its package here and at every store, or take one of "
            f"{', '.join(sorted(installed))}",
        )
    if settings.continues is not None:
        raise ConfigError(
            "continues is what `hanse simulate --continue-from` writes",
            hint="leave it out, and sign with `hanse server manifest sign --continue-from RUN`",
        )
    if not settings.secure:
        raise ConfigError(
            "federation.secure_aggregation is off, and a deployment's stores send only masked "
            "updates",
            hint="leave it out, or run `hanse simulate` to compare without masks",
        )
    return settings


def read_initial(model: Path) -> dict[str, NDArray]:
    """Read the parameters that a run starts from.

    Raises:
        ConfigError: The folder holds none, or they cannot be read.
    """
    path = model / INITIAL_FILE
    hint = "create it with `hanse model init`, and name its folder with --model"
    return read_arrays(path, ConfigError, hint=hint)


def _check_same_parameters(start: Mapping[str, NDArray], initial: Mapping[str, NDArray]) -> None:
    shapes = [{name: each.shape for name, each in these.items()} for these in (start, initial)]
    if shapes[0] != shapes[1]:
        name = next(n for n in shapes[0] | shapes[1] if shapes[0].get(n) != shapes[1].get(n))
        raise ConfigError(
            f"the earlier run trained another model: for {name!r} it has "
            f"{shapes[0].get(name, 'nothing')}, the initial model {shapes[1].get(name, 'nothing')}",
            hint="name the folder of the model that it started from with --model",
        )


def signed_manifest(folder: FederationFolder) -> Manifest:
    """Read the signed terms.

    Raises:
        BadManifest: There are none, or they are not this authority's.
    """
    if not folder.manifest.exists():
        raise BadManifest(
            f"no terms are signed yet in {folder.path}",
            hint="`hanse server manifest sign` signs them",
        )
    return SignedManifest.load(folder.manifest).check(folder.authority)


def keep_earlier(folder: FederationFolder) -> None:
    """Keep terms that are being replaced: an audit of their runs needs them later."""
    if folder.manifest.exists():
        old = SignedManifest.load(folder.manifest)
        earlier = folder.path / MANIFESTS_FOLDER
        earlier.mkdir(exist_ok=True)
        old.save(earlier / f"{old.unchecked.digest().hex()[:16]}.json")
