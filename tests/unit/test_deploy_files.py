"""What lies in `deploy/` is valid, hardened, and calls commands that exist."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import typer
import yaml
from compose_spec import PyCompose
from dockerfile_parse import DockerfileParser
from packaging.utils import canonicalize_name

from kits.manifests import check_restricted, pods_of
from kits.packages import PROJECT, ROOT, closure, extras

DEPLOY = ROOT / "deploy"
DOCKERFILES = sorted((DEPLOY / "docker").glob("*.Dockerfile"))
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
MANIFESTS = sorted(
    path for path in (DEPLOY / "kubernetes").rglob("*.yaml") if path.name != "kustomization.yaml"
)
FOLDER = "/var/lib/hanse"
FLEET = 9443
HIGHEST_EXPOSURE = 20
"""Tenths; systemd calls anything up to 2.0 well protected."""


def by_name(path: Path) -> str:
    return str(path.relative_to(DEPLOY))


def instructions(path: Path) -> list[dict[str, Any]]:
    parser = DockerfileParser(fileobj=io.BytesIO(path.read_bytes()))
    return [step for step in parser.structure if step["instruction"] != "COMMENT"]


def resources() -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in MANIFESTS:
        for resource in yaml.safe_load_all(path.read_text()):
            yield path, resource


def pods() -> Iterator[tuple[Path, dict[str, Any]]]:
    for path, resource in resources():
        for pod in pods_of([resource]):
            yield path, pod


def containers() -> Iterator[tuple[Path, dict[str, Any]]]:
    for path, pod in pods():
        for container in pod["containers"]:
            yield path, container


# Command lines


def images_commands() -> Iterator[list[str]]:
    for path in DOCKERFILES:
        steps = instructions(path)
        (entry,) = (
            json.loads(step["value"]) for step in steps if step["instruction"] == "ENTRYPOINT"
        )
        commands = [step["value"] for step in steps if step["instruction"] == "CMD"]
        yield entry + json.loads(commands[-1])
        (health,) = (step["value"] for step in steps if step["instruction"] == "HEALTHCHECK")
        yield json.loads(health.partition("CMD ")[2])


def units_commands() -> Iterator[list[str]]:
    for path in UNITS:
        for line in re.findall(r"^Exec\w+=(.*)$", path.read_text(), re.MULTILINE):
            yield shlex.split(line)


def pods_commands() -> Iterator[list[str]]:
    for _, container in containers():
        if "args" in container:
            yield ["hanse", *container["args"]]
        for kind in ("readinessProbe", "livenessProbe", "startupProbe"):
            if "exec" in container.get(kind, {}):
                yield container[kind]["exec"]["command"]


def documented_commands() -> Iterator[list[str]]:
    for path in (DEPLOY / "README.md", ROOT / "docs" / "operators.md"):
        text = path.read_text()
        found = re.findall(r"\bhanse ((?:server|store) [^`|#\n]*)", text)
        found += re.findall(r"docker compose run .*? (?:coordinator|store-\d) (\w.*)", text)
        for command in found:
            yield ["hanse", *shlex.split(command)]


COMMANDS = {
    " ".join(words): words
    for source in (images_commands, units_commands, pods_commands, documented_commands)
    for words in source()
}


@pytest.mark.parametrize("line", sorted(COMMANDS))
def test_every_command_line_exists_with_its_options(line: str):
    program, group, *rest = COMMANDS[line]
    assert Path(program).name == "hanse"
    entries = PROJECT["entry-points"]["hanse.commands"]
    if group not in entries:
        pytest.skip(f"there is no `hanse {group}` yet")
    module, _, name = entries[group].partition(":")
    command: click.Command = typer.main.get_command(getattr(import_module(module), name))
    context = click.Context(command, info_name=group)
    while isinstance(command, click.Group):
        found = command.get_command(context, rest[0])
        assert found is not None, f"hanse {group} has no command {rest[0]!r}"
        command, rest = found, rest[1:]
        context = click.Context(command, info_name=command.name, parent=context)
    if "..." in rest or not rest:
        return  # named in a sentence, with what is of interest there
    given, left, _ = command.make_parser(context).parse_args(list(rest))
    assert not left
    for parameter in command.params:
        assert not parameter.required or given.get(parameter.name) is not None, parameter


def test_both_services_run_the_two_commands_on_one_folder():
    for command in (f"hanse server up --folder {FOLDER}", f"hanse store join --folder {FOLDER}"):
        assert command in COMMANDS
        assert f"/opt/hanse/bin/{command}" in COMMANDS


# Images


@pytest.mark.parametrize("path", DOCKERFILES, ids=by_name)
def test_hadolint_finds_nothing(path: Path):
    program = shutil.which("hadolint", path=Path(sys.executable).parent) or shutil.which("hadolint")
    assert program is not None
    done = subprocess.run(
        [program, "--format", "json", path], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, json.loads(done.stdout)) == (0, []), done.stderr


@pytest.mark.parametrize("path", DOCKERFILES, ids=by_name)
def test_each_copied_source_exists_and_is_let_into_the_build(path: Path):
    allowed = {line[1:].rstrip("/") for line in lines(ROOT / ".dockerignore") if line[0] == "!"}
    assert lines(ROOT / ".dockerignore")[0] == "*"
    copied = [step["value"] for step in instructions(path) if step["instruction"] == "COPY"]
    sources = [
        source
        for value in copied
        if not value.startswith("--from=")
        for source in shlex.split(value)[:-1]
    ]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source.rstrip("/") in allowed
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    for package in wheel["targets"]["wheel"]["packages"]:
        assert f"{Path(package).parts[0]}/" in sources
    for needed in ("README.md", *PROJECT["license-files"], "constraints.txt", "release/"):
        assert needed in sources


@pytest.mark.parametrize("path", DOCKERFILES, ids=by_name)
def test_an_image_runs_as_nobody_in_particular_and_holds_no_secret(path: Path):
    steps = instructions(path)
    assert [step["instruction"] for step in steps].count("FROM") == 2
    users = [step["value"] for step in steps if step["instruction"] == "USER"]
    assert users == ["10001:10001"]
    for step in steps:
        if step["instruction"] in ("ARG", "ENV"):
            assert not re.search("secret|password|token|_key", step["value"], re.IGNORECASE)
    final = [step["instruction"] for step in steps]
    assert "ADD" not in final
    # The last stage takes the installed packages alone: no sources, no compiler, no pip cache.
    after = steps[len(final) - 1 - final[::-1].index("FROM") :]
    copied = [step["value"] for step in after if step["instruction"] == "COPY"]
    assert copied == ["--from=build /opt/hanse /opt/hanse"]
    exposed = [step["value"] for step in steps if step["instruction"] == "EXPOSE"]
    assert exposed == ([str(FLEET)] if "coordinator" in path.name else [])


EXTRAS = {
    "coordinator.Dockerfile": ["server", "metrics"],
    "store.Dockerfile": ["client", "postgres", "metrics"],
}


@pytest.mark.parametrize("path", DOCKERFILES, ids=by_name)
def test_everything_that_an_image_installs_is_pinned(path: Path):
    (named,) = re.findall(r"pip install '\.\[([\w,]+)\]'", path.read_text())
    assert named.split(",") == EXTRAS[path.name]
    asked = [*extras(*EXTRAS[path.name]), *read_build_requirements()]
    pins = {canonicalize_name(line.split("==")[0]) for line in lines(ROOT / "constraints.txt")}
    needed = closure(asked)
    assert sorted(needed - pins) == []
    assert ("torch" in needed) == (path.name == "store.Dockerfile")


def read_build_requirements() -> list[str]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]


def lines(path: Path) -> list[str]:
    found = (line.strip() for line in path.read_text().splitlines())
    return [line for line in found if line and not line.startswith("#")]


# Compose


def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def test_the_compose_file_is_valid():
    found = PyCompose.from_yaml(yaml.safe_dump(compose()))
    found.validate()
    assert sorted(found.service_names()) == ["coordinator", *(f"store-{n}" for n in range(1, 6))]


def test_services_of_the_compose_file_are_hardened_and_open_one_port_on_this_machine():
    table = compose()
    ports = [port for service in table["services"].values() for port in service.get("ports", [])]
    assert ports == [f"127.0.0.1:{FLEET}:{FLEET}"]
    for name, service in table["services"].items():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service
        assert f"{name}:{FOLDER}" in service["volumes"]
        assert service.get("environment", []) in ([], ["SHOP_DATABASE_URL"])
        build = (DEPLOY / service["build"]["context"]).resolve()
        assert build == ROOT
        assert (build / service["build"]["dockerfile"]).is_file()


# Units


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("path", UNITS, ids=by_name)
def test_systemd_accepts_each_unit_and_calls_it_well_protected(path: Path, tmp_path: Path):
    program = tmp_path / "hanse"
    program.touch(mode=0o755)
    unit = tmp_path / path.name
    # `verify` wants the program to be there, and follows units that are named.
    unit.write_text(path.read_text().replace("/opt/hanse/bin/hanse", str(program)))
    verified = analyze("verify", "--man=no", str(unit))
    assert [line for line in verified.stderr.splitlines() if path.name in line] == []
    rated = analyze(
        "security", "--offline=true", f"--threshold={HIGHEST_EXPOSURE}", "--no-pager", str(unit)
    )
    assert rated.returncode == 0, rated.stdout.splitlines()[-1]


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("path", UNITS, ids=by_name)
def test_a_unit_says_where_it_belongs_and_keeps_other_users_out(path: Path):
    text = path.read_text()
    assert f"/etc/systemd/system/{path.name}" in text.splitlines()[0]
    for setting in (
        "User=hanse",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "NoNewPrivileges=yes",
        "UMask=0077",
    ):
        assert setting in text.splitlines()
    if "metrics" in path.name:
        assert {"IPAddressDeny=any", "IPAddressAllow=localhost"} <= set(text.splitlines())
    else:
        assert {"StateDirectory=hanse", "StateDirectoryMode=0700"} <= set(text.splitlines())
        told = {"Type=notify", "NotifyAccess=main", "WatchdogSec=120", "Restart=on-failure"}
        assert told <= set(text.splitlines())


# Kubernetes


@pytest.mark.parametrize("version", ["1.31", "1.37"])
@pytest.mark.parametrize("path", MANIFESTS, ids=by_name)
def test_every_manifest_is_valid(path: Path, version: str):
    for resource in yaml.safe_load_all(path.read_text()):
        kubernetes_validate.validate(resource, version, strict=True)


@pytest.mark.parametrize("part", ["coordinator", "store"])
def test_a_kustomization_lists_files_that_exist_and_images_that_they_name(part: str):
    folder = DEPLOY / "kubernetes" / part
    table = yaml.safe_load((folder / "kustomization.yaml").read_text())
    listed = {folder / name for name in table["resources"]}
    there = set(folder.glob("*.yaml"))
    assert there - listed == {folder / "kustomization.yaml", folder / "setup-pod.yaml"}
    assert listed <= there
    images = {container["image"] for path, container in containers() if path in listed}
    assert {image["name"] for image in table["images"]} == images
    assert {image["newTag"] for image in table["images"]} == {PROJECT["version"]}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("part", ["coordinator", "store"])
def test_kustomize_builds_what_is_valid(part: str):
    done = subprocess.run(
        ["kubectl", "kustomize", DEPLOY / "kubernetes" / part],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    for resource in built:
        kubernetes_validate.validate(resource, "1.37", strict=True)
    (workload,) = (resource for resource in built if resource["kind"] == "StatefulSet")
    for container in workload["spec"]["template"]["spec"]["containers"]:
        assert container["image"] == f"hanse-{part}:{PROJECT['version']}"


def test_pods_keep_to_the_restricted_standard():
    for _, pod in pods():
        check_restricted(pod)
    for path, container in containers():
        if path.name == "statefulset.yaml":
            assert "readinessProbe" in container


def test_secrets_are_named_and_never_included():
    kinds = {resource["kind"] for _, resource in resources()}
    assert kinds == {"Namespace", "StatefulSet", "Service", "NetworkPolicy", "Pod"}
    named = re.findall(r"(?:secretName|secretKeyRef:[^}]*?name): (\S+)", all_manifests(), re.DOTALL)
    assert set(named) == {"hanse-coordinator-tls", "hanse-store-database"}
    assert "PRIVATE KEY" not in all_manifests()


def all_manifests() -> str:
    return "\n".join(path.read_text() for path in MANIFESTS)


def test_only_the_fleet_port_is_offered_and_nobody_may_call_a_store():
    services = [resource for _, resource in resources() if resource["kind"] == "Service"]
    ports = [port["port"] for service in services for port in service["spec"].get("ports", [])]
    assert ports == [FLEET]
    rules = {
        path.parent.name: resource["spec"]
        for path, resource in resources()
        if resource["kind"] == "NetworkPolicy"
    }
    for rule in rules.values():
        assert rule["policyTypes"] == ["Ingress", "Egress"]
    assert rules["store"]["ingress"] == []
    assert rules["coordinator"]["egress"] == []
    open_to_all = [rule for rule in rules["coordinator"]["ingress"] if "from" not in rule]
    assert open_to_all == [{"ports": [{"port": "fleet"}]}]
