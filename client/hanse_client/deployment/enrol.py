"""Enrolment in a federation: the certificate request, and the files that come back for it.

Certificate, manifest, settings and model are checked before they are stored: the authority's
signature, the store's name and keys, and the terms against the store's own policy. A file that
fails a check changes nothing.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hanse_client.deployment.folder import StoreFolder, load_node_key
from hanse_client.deployment.templates import AUTHORITY_LINE
from hanse_client.enrolment import Enrolment
from hanse_common.admission import Invitation, Request, node_key_digest, public_pem
from hanse_common.config import RunSettings
from hanse_common.decoding import decoding
from hanse_common.durable import replacing_folder, sync_folder, write_durably
from hanse_common.errors import ConfigError, PolicyViolation, ProtocolError
from hanse_common.identity import Certificate, StoreKey, fingerprint
from hanse_common.instructions import model_digest
from hanse_common.manifest import Manifest, SignedManifest
from hanse_common.manifest_noise import check_noise
from hanse_common.manifest_terms import BASE_MODEL_FILES, check_base_model, settings_digest
from hanse_common.paths import INVITATION_FILE, NEXT_SUFFIX, SETTINGS_FILE
from hanse_common.policy import StorePolicy
from hanse_common.settings_files import parse_settings, parse_toml, read_json


def write_request(
    folder: StoreFolder, *, now: int | None = None, company: tuple[Path, Path] | None = None
) -> Path:
    """Write the request for a certificate of this store's newest keys.

    Args:
        folder: The store's folder.
        now: Unix seconds; the current time if None.
        company: PEM files of an X.509 certificate of the store's company and its private key,
            which sign the request too.

    Returns:
        The file to send to the coordinator; it contains no secret.

    Raises:
        StoreNotReady: There is no store in the folder.
        KeyFileError: A key is missing, or readable by others.
    """
    name = folder.node().name
    request = Request.make(
        name,
        StoreKey.load(newest(folder.store_key)),
        node_key=_node_public_pem(newest(folder.node_key)),
        created=int(time.time()) if now is None else now,
        certificate=company,
    )
    path = folder.path / request.file_name
    request.save(path)
    return path


def own_fingerprint(folder: StoreFolder) -> str:
    """Fingerprint of this store's newest key, to read to the authority by phone."""
    return fingerprint(StoreKey.load(newest(folder.store_key)).public)


def newest(path: Path) -> Path:
    """The file of the new key that waits for its certificate, if there is one, else `path`."""
    waiting = path.with_name(path.name + NEXT_SUFFIX)
    return waiting if waiting.exists() else path


def _node_public_pem(private: Path) -> str:
    """The public key of a node's key file, in PEM as in a request.

    Raises:
        KeyFileError: The key is missing, or readable by others.
    """
    return public_pem(load_node_key(private).public_key())


def accept_invitation(folder: StoreFolder, invitation: Invitation) -> None:
    """Store an invitation, and pin its authority in the policy if that pins none yet.

    A person must have compared the authority's fingerprint before: an invitation is not signed.

    Raises:
        PolicyViolation: The policy pins another authority, or another federation.
        ConfigError: The policy is malformed.
    """
    folder.node()
    text = folder.policy.read_text(encoding="utf-8")
    if AUTHORITY_LINE in text.splitlines():
        text = text.replace(AUTHORITY_LINE, f'authority = "{invitation.authority}"', 1)
    policy = parse_settings(StorePolicy, parse_toml(text, folder.policy))
    for field, wanted, offered in (
        ("authority", policy.authority, invitation.authority),
        ("federation", policy.federation, invitation.federation),
    ):
        if wanted not in (None, offered):
            raise PolicyViolation(
                f"invitation has {field}={offered}, this store's policy requires {wanted}",
                hint="the invitation is another federation's; or change the policy",
            )
    write_durably(folder.policy, text)
    invitation.save(folder.path / INVITATION_FILE)


def accept_certificate(folder: StoreFolder, path: Path, *, now: int | None = None) -> Certificate:
    """Check a certificate and install it; an earlier one is renamed to `certificate.<time>`.

    Args:
        folder: The store's folder.
        path: The certificate's file.
        now: Unix seconds; the current time if None.

    Raises:
        ProtocolError [bad-certificate]: It is not signed by the authority, or not of this store's
            name and keys.
        ExpiredCertificate: It is not valid now.
        KeyFileError: The file is not a certificate, or a key is missing.
        ConfigError: No authority is pinned yet.
    """
    certificate = Certificate.load(path)
    now = int(time.time()) if now is None else now
    certificate.check(bytes.fromhex(pinned_policy(folder).authority), now=now)
    _check_ours(folder, certificate)
    if folder.certificate.exists():
        before = folder.certificate.read_bytes()
        if Certificate.load(folder.certificate) != certificate:
            stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
            # Auditors need it: entries before the rotation are signed with the earlier key.
            _keep_aside(folder.certificate.with_name(f"certificate.{stamp}"), before)
    # Keys first, then the certificate: after a crash in between, the certificate still fits the
    # keys in use, and the command can be repeated.
    for key in (folder.store_key, folder.node_key):
        waiting = newest(key)
        if waiting != key:
            waiting.replace(key)
            sync_folder(key.parent)
    public = folder.node_public.with_name(folder.node_public.name + NEXT_SUFFIX)
    if public.exists():
        public.replace(folder.node_public)
    write_durably(folder.certificate, path.read_bytes())
    return certificate


def accept_manifest(folder: StoreFolder, path: Path) -> Manifest:
    """Check a signed manifest and install it; an earlier one is renamed after its digest.

    Raises:
        BadManifest: It is not signed by the pinned authority.
        PolicyViolation: It exceeds the policy, or does not list this store; names every field.
        ConfigError: No authority is pinned yet.
    """
    signed, policy, name = SignedManifest.load(path), pinned_policy(folder), folder.node().name
    manifest = signed.check(bytes.fromhex(policy.authority))
    faults = violations(manifest, policy, name)
    if faults:
        raise PolicyViolation("; ".join(faults), hint="ask the federation, or change the policy")
    if folder.manifest.exists():
        before = SignedManifest.load(folder.manifest)
        if before.unchecked != manifest:
            stamp = before.unchecked.digest().hex()[:12]
            _keep_aside(folder.manifest.with_name(f"manifest.{stamp}.json"), before.encode())
    write_durably(folder.manifest, signed.encode())
    return manifest


def violations(manifest: Manifest, policy: StorePolicy, name: str) -> list[str]:
    """All reasons why a store cannot take part under a manifest; empty if it can."""
    faults = [violation.message for violation in policy.violations(manifest)]
    if name not in manifest.stores:
        faults.append(f"manifest of {manifest.federation!r} does not list {name!r}")
    if manifest.fab_digest is None:
        faults.append("manifest does not name the app bundle (fab_digest)")
    try:
        check_noise(manifest)
    except PolicyViolation as error:
        faults.append(error.message)
    return faults


def check_membership(folder: StoreFolder, *, now: int | None = None) -> Enrolment:
    """Check that certificate, keys, manifest and policy are valid and fit together.

    Raises:
        StoreNotReady: Certificate or manifest are missing.
        KeyFileError: A key is missing, or readable by others.
        ProtocolError [bad-certificate], ExpiredCertificate: The certificate is not valid, or not
            of this store's name and keys.
        BadManifest: The manifest is not signed by the pinned authority.
        PolicyViolation: The terms exceed the policy; names every field.
    """
    policy, name, enrolment = pinned_policy(folder), folder.node().name, folder.membership()
    authority = bytes.fromhex(policy.authority)
    enrolment.certificate.check(authority, now=int(time.time()) if now is None else now)
    _check_ours(folder, enrolment.certificate, in_use=True)
    signed = SignedManifest.load(folder.manifest)
    faults = violations(signed.check(authority), policy, name)
    if faults:
        raise PolicyViolation("; ".join(faults), hint="ask the federation, or change the policy")
    return enrolment


def accept_settings(folder: StoreFolder, path: Path) -> RunSettings:
    """Store the run's settings if their digest is the manifest's.

    Raises:
        PolicyViolation: The manifest names other settings.
        ConfigError: The settings are malformed.
    """
    table = read_json(path)
    settings = RunSettings.parse(table)
    if folder.manifest.exists():
        check_settings(folder, settings)
    write_durably(folder.path / SETTINGS_FILE, settings.model_dump_json(indent=2) + "\n")
    return settings


def check_settings(folder: StoreFolder, settings: RunSettings) -> None:
    """Compare the settings' digest with the manifest's.

    Raises:
        PolicyViolation: The manifest names other settings.
    """
    named = folder.membership().manifest.settings_digest
    actual = settings_digest(settings).hex()
    if actual != named:
        raise PolicyViolation(
            f"the settings' digest is {actual}, the manifest names {named}",
            hint="ask the coordinator for the settings.json that the manifest was signed for",
        )


def accept_model(folder: StoreFolder, source: Path) -> None:
    """Store the base model if it is the manifest's; see `check_model`.

    Raises:
        ConfigError: The folder contains no model.
        StoreNotReady: Manifest or settings are missing.
        PolicyViolation: The manifest names another model.
    """
    for name in BASE_MODEL_FILES:
        if not (source / name).is_file():
            raise ConfigError(
                f"{source} holds no {name}",
                hint=f"a model's folder holds {' and '.join(BASE_MODEL_FILES)}",
            )
    settings, manifest = folder.settings(), folder.membership().manifest
    with replacing_folder(folder.model, replace=True) as aside:
        # These files alone are copied: no format that could hold code.
        for name in BASE_MODEL_FILES:
            shutil.copyfile(source / name, aside / name)
        # Checked on the copy, as the source could change after a check.
        check_model(aside, settings, manifest)


def check_model(model: Path, settings: RunSettings, manifest: Manifest) -> bool:
    """Compare a model's folder with the manifest.

    The frozen part is the vocabulary, the text vectors, and the transformer where it is not
    trained; messages carry only the trained parameters. A run may start from the parameters of an
    earlier run. They are not in the folder then, which stays as it is over any number of runs;
    the guard compares those of the first message with the manifest.

    Args:
        model: The model's folder.
        settings: The run's.
        manifest: The federation's terms.

    Returns:
        Whether the run starts from the parameters in the folder.

    Raises:
        ConfigError: The folder contains no model of the settings' task.
        PolicyViolation: The manifest names another model.
    """
    check_base_model(model, manifest)
    start = start_of(model, settings)
    actual = model_digest(start).hex()
    if actual == manifest.model_digest:
        return True
    wanted = manifest.schedule.known(manifest.arrays, after=0)
    # Without the digest of the files, nothing says that the frozen part is the manifest's.
    if manifest.base_digest is None or wanted != {n: a.shape for n, a in start.items()}:
        raise PolicyViolation(
            f"the model's digest is {actual}, the manifest names {manifest.model_digest}",
            hint="ask the coordinator for the model that the manifest was signed for",
        )
    return False


def start_of(model: Path, settings: RunSettings) -> Mapping[str, Any]:
    """The trained parameters of an initial model, by name.

    Raises:
        ConfigError: The folder contains no model of the settings' task.
    """
    from transformers.utils.logging import disable_progress_bar

    from hanse_client.model.pretrained import MODEL_ERRORS
    from hanse_client.tasks import task_of
    from hanse_client.training.statistics import exchanged_arrays

    task = task_of(settings.task)
    disable_progress_bar()
    with decoding(f"{model}, a model of {settings.task!r},", ConfigError, *MODEL_ERRORS):
        loaded = task.load_model(model)
    task.freeze(loaded, settings)
    return settings.schedule.known(exchanged_arrays(task, loaded, settings), after=0)


def pinned_policy(folder: StoreFolder) -> StorePolicy:
    """The store's policy, which must pin an authority.

    Raises:
        StoreNotReady: There is no store, or no authority is pinned.
        ConfigError: The policy is malformed.
    """
    folder.node()
    return StorePolicy.from_toml(folder.policy)


def _check_ours(folder: StoreFolder, certificate: Certificate, *, in_use: bool = False) -> None:
    """Compare a certificate with the store's name and its newest keys, or those in use.

    Raises:
        ProtocolError [bad-certificate]: They differ; says in what.
    """
    name, place = folder.node().name, (lambda path: path) if in_use else newest
    key = StoreKey.load(place(folder.store_key))
    node = node_key_digest(_node_public_pem(place(folder.node_key)))
    for holds, what in (
        (certificate.store_id == name, f"of store {certificate.store_id!r}, this is {name!r}"),
        (certificate.public_key == key.public, "of another store key"),
        (certificate.node_key == node, "of another Flower node key"),
    ):
        if not holds:
            raise ProtocolError(
                f"the certificate is {what}",
                code="bad-certificate",
                hint="send the request that `hanse store enrol` writes now, and use its answer",
            )


def _keep_aside(path: Path, content: bytes) -> None:
    """Write content to `path`, or to `path-2` and so on where other content is there already."""
    number = 1
    place = path
    while place.exists() and place.read_bytes() != content:
        number += 1
        place = path.with_name(f"{path.name}-{number}")
    write_durably(place, content)
