"""Runs of a deployed federation: makes, starts, watches, stops and resumes them.

The ServerApp (`hanse_server.app`) executes the rounds; Flower starts it as a process of the
SuperLink, and it saves a checkpoint per round in the run's folder. Flower cannot continue a
run whose process has ended, so resuming is always a new Flower run on the same folder, from
the last checkpoint. A round without a checkpoint is repeated under a new run number; stores
charge it again, and no round is counted twice. `recovery.py` resumes a run by itself.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from hanse_common import bundle
from hanse_common.durable import write_durably
from hanse_common.errors import (
    BadManifest,
    DeploymentError,
    FederationError,
    HanseError,
    Interrupted,
    RoundFailed,
    RunDirectoryError,
    RunNotFound,
    families,
)
from hanse_common.instructions import NDArray, model_digest
from hanse_common.locks import locked
from hanse_common.manifest import Manifest, SignedManifest
from hanse_common.manifest_terms import settings_digest
from hanse_common.paths import (
    AUTHORITY_FILE,
    FAILURE_FILE,
    GLOBAL_FILE,
    INITIAL_FILE,
    MANIFEST_FILE,
    SETTINGS_FILE,
)
from hanse_server.app import read_settings
from hanse_server.checkpoint import latest_checkpoint, read_arrays, write_arrays
from hanse_server.deployment.control import Control
from hanse_server.deployment.folder import FederationFolder
from hanse_server.deployment.run_record import RunRecord
from hanse_server.deployment.run_state import GO_ON, RunState, all_runs, find, state_of
from hanse_server.deployment.sign import read_initial, signed_manifest
from hanse_server.stage_log import read_stages

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_LOOK_SECONDS = 1.0
_END_SECONDS = 30.0
"""Time for the process of a finished run to end, before another run may start."""


def start(
    folder: FederationFolder, *, name: str | None = None, stores: int | None = None
) -> RunState:
    """Make a run's folder and start the run.

    Args:
        folder: The federation's folder.
        name: The run's name; made of the federation's name and the time if unset.
        stores: How many stores to wait for; all of the manifest if unset.

    Raises:
        DeploymentError [run-underway]: Another run is underway.
        BadManifest: There are no signed terms, or they are for another model, other settings
            or another app bundle than those in the folder.
        RunDirectoryError: The name is taken or malformed.
        SuperLinkDown: The federation is not up.
    """
    manifest = signed_manifest(folder)
    # Both checks come before the run's folder, so that a refusal leaves nothing behind.
    _check_installed(manifest)
    with Control(folder) as control:
        _check_idle(folder, control)
        run_dir = _make(folder, name, manifest)
        _start(folder, control, run_dir, stores, manifest, resume=False)
    return state_of(folder, run_dir)


def resume(
    folder: FederationFolder, *, name: str | None = None, stores: int | None = None
) -> RunState:
    """Resume a run from its last checkpoint.

    If terms for fewer or other stores were signed in the meantime, they apply from now on.

    Args:
        folder: The federation's folder.
        name: The run's name; the last run if unset.
        stores: How many stores to wait for; all of the manifest if unset.

    Raises:
        RunNotFound: There is no such run.
        RunDirectoryError [run-not-resumable]: It is finished, or the terms are for another
            model or other settings.
        DeploymentError [run-underway]: A run is underway.
        SuperLinkDown: The federation is not up.
    """
    run_dir = find(folder, name)
    state = state_of(folder, run_dir).state
    if state == "finished":
        raise RunDirectoryError(f"run {run_dir.name!r} is finished", code="run-not-resumable")
    if state == "ended early":
        raise RunDirectoryError(
            f"run {run_dir.name!r} ended early: the stores' budget for its manifest is spent",
            code="run-not-resumable",
            hint=GO_ON.format(run_dir.name),
        )
    # Locked: the operator and `up` might resume it at the same moment.
    with locked(run_dir), Control(folder) as control:
        _check_idle(folder, control)
        manifest = _renew_terms(folder, run_dir)
        _check_installed(manifest)
        # A run that failed before its first checkpoint has nothing to resume: it starts.
        begun = latest_checkpoint(run_dir) is not None
        _start(folder, control, run_dir, stores, manifest, resume=begun)
    return state_of(folder, run_dir)


def stop(folder: FederationFolder) -> RunState:
    """Stop the run that is underway or recovering; it can be resumed.

    Raises:
        RunNotFound: There is no such run.
        SuperLinkDown: The federation is not up.
    """
    with Control(folder) as control:
        if (run_dir := _underway(folder, control)) is not None:
            _stopped(run_dir)  # first, or `up` would let it go on
            control.stop(RunRecord.read(run_dir).runs[-1])  # every resumption has another id
            return state_of(folder, run_dir)
        last = all_runs(folder)[-1:]
        if last and state_of(folder, last[0]).state == "recovering":
            _stopped(last[0])
            return state_of(folder, last[0])
        if last and state_of(folder, last[0]).state == "stopped":
            raise RunNotFound(
                f"run {last[0].name!r} is stopped already", hint="go on with `hanse server resume`"
            )
    raise RunNotFound("no run is underway", hint="`hanse server status` shows the last one")


def watch(folder: FederationFolder, name: str) -> Iterator[dict[str, Any]]:
    """Yield the stages of a run as they finish, until it ends.

    Raises:
        HanseError: The run failed, with the error of its process.
        RoundFailed: It waits for stores, and goes on by itself when they are there.
        Interrupted: The run was stopped by `stop`.
        FederationError: The run was lost with its SuperLink.
    """
    run_dir, seen = find(folder, name), 0
    while True:
        # The state first: stages that finish in between are still yielded before the end.
        state = state_of(folder, run_dir)
        stages = read_stages(run_dir)
        yield from stages[seen:]
        seen = max(seen, len(stages))  # a resumed process drops lines that it will write again
        if state.state == "finished":
            return
        if state.state == "stopped":
            raise Interrupted(
                f"run {name!r} was stopped in round {state.round}",
                hint="go on with `hanse server resume`",
            )
        # Other recoveries take seconds, and are waited for; stores may be away for days.
        lacks_stores = state.failure.get("code") == RoundFailed.code
        if state.state in ("failed", "ended early") or (
            state.state == "recovering" and lacks_stores
        ):
            raise _error(state)
        if state.state == "lost":
            raise FederationError(
                f"run {name!r} was lost with its SuperLink",
                hint="after `hanse server up` it goes on by itself",
            )
        time.sleep(_LOOK_SECONDS)


def trained(folder: FederationFolder, name: str) -> dict[str, NDArray]:
    """Read the parameters that a finished run has trained, by name.

    Raises:
        RunNotFound: There is no such run, or it has not finished.
        RunDirectoryError: Its model cannot be read.
    """
    run_dir = find(folder, name)
    path = run_dir / GLOBAL_FILE
    if not path.exists():
        raise RunNotFound(
            f"run {name!r} has not finished", hint="go on with it: `hanse server resume --name`"
        )
    return read_arrays(path, hint="bring the file back, or name another run")


def _make(folder: FederationFolder, name: str | None, manifest: Manifest) -> Path:
    name = name or f"{_slug(folder.file.name)}-{datetime.now():%Y-%m-%d-%H%M%S}"
    if not _NAME.fullmatch(name):
        raise RunDirectoryError(
            f"a run cannot be named {name!r}",
            hint="use letters, digits, '.', '_' and '-', beginning with a letter or digit",
        )
    run_dir = folder.run(name)
    # Stores refuse any other model or settings than the manifest's; better to say so here.
    initial = read_initial(folder.resolve(folder.file.model))
    first = manifest.schedule.known(initial, after=0)
    if model_digest(first).hex() != manifest.model_digest:
        raise BadManifest(
            f"the manifest is for an initial model other than {folder.resolve(folder.file.model)}",
            hint="sign a new one with `hanse server manifest sign`, or put the model back",
        )
    settings = read_settings(folder.path)
    if settings_digest(settings).hex() != manifest.settings_digest:
        raise BadManifest(
            f"the manifest is for other settings than {folder.settings}",
            hint="sign a new one with `hanse server manifest sign`, which writes both",
        )
    try:
        folder.runs.mkdir(exist_ok=True)
        run_dir.mkdir()  # fails if the name is taken, even by a process at the same moment
        for source, target in (
            (folder.settings, SETTINGS_FILE),
            (folder.manifest, MANIFEST_FILE),
            (folder.authority_file, AUTHORITY_FILE),
        ):
            # Copies: terms that are signed later must not change those of this run.
            write_durably(run_dir / target, source.read_bytes())
        write_arrays(run_dir / INITIAL_FILE, initial)
        RunRecord(stopped=False).write(run_dir)
    except FileExistsError:
        raise RunDirectoryError(
            f"there is already a run named {name!r}",
            hint="choose another name, or go on with it: `hanse server resume --name`",
        ) from None
    except OSError as error:
        raise RunDirectoryError(f"cannot write {run_dir}: {error.strerror}") from error
    return run_dir


def _check_installed(manifest: Manifest) -> None:
    """Refuse an app bundle that every store would refuse."""
    if manifest.fab_digest != bundle.digest():
        raise BadManifest(
            f"the manifest names the app bundle {(manifest.fab_digest or 'none')[:12]}…, this "
            f"version of Hanse has {bundle.digest()[:12]}…",
            hint="after an upgrade, sign a new manifest and hand it out",
        )


def _renew_terms(folder: FederationFolder, run_dir: Path) -> Manifest:
    """Apply terms that were signed after a run began to the rest of it."""
    now = signed_manifest(folder)
    before = SignedManifest.load(run_dir / MANIFEST_FILE).unchecked
    if now.digest() == before.digest():
        return now
    for field in ("model_digest", "settings_digest", "privacy", "rounds"):
        if getattr(now, field) != getattr(before, field):
            raise RunDirectoryError(
                f"the manifest signed since then has another {field.replace('_', ' ')}",
                code="run-not-resumable",
                hint="start a new run, or put the run's own manifest.json back and hand it out",
            )
    write_durably(run_dir / MANIFEST_FILE, folder.manifest.read_bytes())
    return now


def _start(
    folder: FederationFolder,
    control: Control,
    run_dir: Path,
    stores: int | None,
    manifest: Manifest,
    *,
    resume: bool,
) -> None:
    wait = folder.file.wait
    # Or the state would be that of the earlier process until this one begins.
    (run_dir / FAILURE_FILE).unlink(missing_ok=True)
    run_id = control.start(
        {
            "run-dir": str(run_dir),
            "federation": str(folder.path),
            "resume": int(resume),
            "stores": stores or len(manifest.stores),
            "patience": wait.connect,
            "absence": wait.absent,
            "timeout": wait.train,
            "stage-timeout": wait.stage,
        }
    )
    record = RunRecord.read(run_dir)
    record.changed(runs=(*record.runs, run_id), stores=stores, stopped=False).write(run_dir)


def _stopped(run_dir: Path) -> None:
    RunRecord.read(run_dir).changed(stopped=True).write(run_dir)


def _check_idle(folder: FederationFolder, control: Control) -> None:
    deadline = time.monotonic() + _END_SECONDS
    while (run_dir := _underway(folder, control)) is not None:
        # A run that has written its last line is finished; its process ends a little later.
        if state_of(folder, run_dir).state == "finished" and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS / 5)
            continue
        raise DeploymentError(
            f"run {run_dir.name!r} is underway",
            code="run-underway",
            hint="`hanse server status` shows it, `hanse server stop` stops it",
        )


def _underway(folder: FederationFolder, control: Control) -> Path | None:
    """The folder of the run that is active at the SuperLink; None if there is none."""
    active = {run.run_id for run in control.runs() if run.status != "finished"}
    runs = (path for path in all_runs(folder) if active & set(RunRecord.read(path).runs))
    return next(runs, None)


def _error(state: RunState) -> HanseError:
    """The error with which a run failed, as its process raised it."""
    failure = state.failure
    code = str(failure.get("code"))
    family = families().get(code)  # the exit status follows the family
    message, hint = str(failure.get("message", "the run failed")), str(failure.get("hint", ""))
    return family(message, code=code, hint=hint) if family else FederationError(message, hint=hint)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run"
