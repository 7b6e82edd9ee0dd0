"""The Helm charts: their values fit their templates, and what they render is what we ship plainly.

Where `helm` is not installed, the charts are checked as text: that they define what they use, and
that they run the plain manifests' commands.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from kits.manifests import check_restricted, pods_of
from kits.packages import PROJECT, ROOT

DEPLOY = ROOT / "deploy"
PARTS = ("coordinator", "store")
HELM = shutil.which("helm", path=Path(sys.executable).parent) or shutil.which("helm")
needs_helm = pytest.mark.skipif(HELM is None, reason="helm is not installed")
each_chart = pytest.mark.parametrize("part", PARTS)
DIGEST = "sha256:" + "0f" * 32

CHANGED: dict[str, list[dict[str, Any]]] = {
    "coordinator": [
        {"setup": True},
        {"tlsSecret": "", "metrics": {"enabled": False}, "networkPolicy": {"enabled": False}},
        {
            "image": {"repository": "registry.example.org/hanse", "digest": DIGEST},
            "imagePullSecrets": [{"name": "registry"}],
            "storage": {"className": "fast", "accessMode": "ReadWriteOnce"},
            "service": {
                "type": "LoadBalancer",
                "annotations": {"example.org/internal": "true"},
                "sourceRanges": ["192.0.2.0/24"],
            },
            "networkPolicy": {"stores": ["192.0.2.0/24", "2001:db8::/32"]},
        },
        {"service": {"type": "ClusterIP"}},
    ],
    "store": [
        {"setup": True},
        {"proxy": {"url": "http://proxy:3128", "exceptions": "10.0.0.0/8"}},
        {"proxy": {"secret": "proxy"}, "networkPolicy": {"enabled": False}},
        {"image": {"repository": "registry.example.org/hanse", "tag": "1"}},
    ],
}
"""Values by chart, which together turn every condition of a template."""

WRONG: dict[str, list[dict[str, Any]]] = {
    "coordinator": [
        {"tlsSecrets": "a"},
        {"image": {"tagg": "1"}},
        {"image": {"digest": "latest"}},
        {"storage": {"accessMode": "ReadWriteMany"}},
        {"service": {"type": "ExternalName"}},
        {"service": {"port": 0}},
        {"networkPolicy": {"stores": ["everybody"]}},
    ],
    "store": [
        {"tlsSecret": "a"},
        {"networkPolicy": {"coordinator": {"cidr": "hanse.example.org", "port": 9443}}},
        {"databaseSecret": ""},
        {"setup": "yes"},
    ],
}


def chart(part: str) -> Path:
    return DEPLOY / "helm" / part


def values(part: str) -> dict[str, Any]:
    return yaml.safe_load((chart(part) / "values.yaml").read_text())


def schema(part: str) -> dict[str, Any]:
    return json.loads((chart(part) / "values.schema.json").read_text())


def templates(part: str) -> str:
    return "\n".join(path.read_text() for path in sorted((chart(part) / "templates").iterdir()))


def merged(table: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """What Helm makes of a chart's values and an operator's."""
    found = dict(table)
    for name, value in changes.items():
        inner = found.get(name)
        found[name] = merged(inner, value) if isinstance(inner, dict) else value
    return found


def leaves(table: dict[str, Any], above: str = "") -> Iterator[str]:
    for name, value in table.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{above}{name}.")
        else:
            yield above + name


# Without helm


@each_chart
def test_a_chart_has_the_version_of_the_package_and_the_image_of_its_part(part: str):
    found = yaml.safe_load((chart(part) / "Chart.yaml").read_text())
    assert (found["apiVersion"], found["name"]) == ("v2", f"hanse-{part}")
    assert found["version"] == found["appVersion"] == PROJECT["version"]
    assert values(part)["image"]["repository"] == f"hanse-{part}"


@each_chart
def test_a_template_uses_values_that_exist_and_each_value_is_used(part: str):
    """A value below a block that is taken whole, as by `toYaml` or `with`, is used."""
    table = values(part)
    used = set(re.findall(r"\.Values\.([\w.]+)", templates(part)))
    for name in used:
        inner: Any = table
        for word in name.split("."):
            assert isinstance(inner, dict) and word in inner, f".Values.{name} has no default"
            inner = inner[word]
    whole = {
        name for name in used if re.search(rf"(toYaml|with) \.Values\.{name}\b", templates(part))
    }
    for leaf in leaves(table):
        above = {leaf.rsplit(".", count)[0] for count in range(leaf.count(".") + 1)} | {leaf}
        assert above & (whole | {leaf}) & used, f"{leaf} is used by no template"


@each_chart
def test_the_schema_takes_the_defaults_and_every_change_that_is_meant(part: str):
    for changes in ({}, *CHANGED[part]):
        jsonschema.validate(merged(values(part), changes), schema(part))
    described = schema(part)["properties"]
    assert set(described) == {"global", *values(part)}
    assert set(schema(part)["required"]) == set(values(part))


@each_chart
def test_the_schema_refuses_what_is_unknown_or_no_value(part: str):
    for changes in WRONG[part]:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(merged(values(part), changes), schema(part))


@each_chart
def test_a_chart_runs_the_commands_of_the_plain_manifests(part: str):
    plain = "\n".join(path.read_text() for path in (DEPLOY / "kubernetes" / part).glob("*.yaml"))
    lines = re.compile(r"^\s*(?:args|command): (\[.*\])$", re.MULTILINE)
    assert sorted(lines.findall(templates(part))) == sorted(lines.findall(plain))


def test_both_charts_share_what_is_not_of_one_side():
    for name in ("_names.tpl", "folder.yaml", "setup-pod.yaml"):
        coordinator, store = ((chart(part) / "templates" / name).read_text() for part in PARTS)
        assert coordinator == store, name


# With helm


def helm(*words: object, given: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
    assert HELM is not None
    command = [HELM, *map(str, words), *(("--values", "-") if given is not None else ())]
    text = json.dumps(given or {})
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)


def render(part: str, changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The resources that a chart makes of changed values, by kind."""
    done = helm("template", "hanse", chart(part), "--namespace", "hanse", given=changes)
    assert done.returncode == 0, done.stderr
    found = [resource for resource in yaml.safe_load_all(done.stdout) if resource]
    assert len({resource["kind"] for resource in found}) == len(found)
    return {resource["kind"]: resource for resource in found}


@needs_helm
@each_chart
def test_helm_finds_nothing_wrong_with_a_chart(part: str):
    done = helm("lint", "--strict", chart(part))
    assert done.returncode == 0, done.stdout + done.stderr


@needs_helm
@each_chart
def test_what_a_chart_renders_is_valid_and_keeps_to_the_restricted_standard(part: str):
    for changes in ({}, *CHANGED[part]):
        found = render(part, changes)
        for resource in found.values():
            for version in ("1.31", "1.37"):
                kubernetes_validate.validate(resource, version, strict=True)
        pods = list(pods_of(found.values()))
        assert len(pods) == (2 if changes.get("setup") else 1)
        for pod in pods:
            check_restricted(pod)


@needs_helm
@each_chart
def test_helm_refuses_values_that_are_unknown_or_wrong(part: str):
    for changes in WRONG[part]:
        done = helm("template", "hanse", chart(part), given=changes)
        assert done.returncode != 0, changes
        assert "values don't meet the specifications of the schema" in done.stderr


@needs_helm
@each_chart
def test_the_defaults_render_what_the_plain_manifests_say(part: str):
    """Apart from names and labels, and from the folder's claim, which is a resource of its own."""
    found = render(part, {})
    plain = {
        resource["kind"]: resource
        for path in (DEPLOY / "kubernetes" / part).glob("*.yaml")
        for resource in yaml.safe_load_all(path.read_text())
    }
    ours, theirs = (table["StatefulSet"]["spec"]["template"]["spec"] for table in (found, plain))
    for container in ours["containers"]:
        assert container.pop("imagePullPolicy") == "IfNotPresent"
        assert container.pop("image") == f"hanse-{part}:{PROJECT['version']}"
    for container in theirs["containers"]:
        assert container.pop("image") == f"hanse-{part}"
    (claim,) = plain["StatefulSet"]["spec"]["volumeClaimTemplates"]
    (folder,) = [volume for volume in ours["volumes"] if volume["name"] == "folder"]
    ours["volumes"].remove(folder)
    assert folder["persistentVolumeClaim"]["claimName"] == "hanse-folder"
    assert found["PersistentVolumeClaim"]["spec"] == claim["spec"]
    assert ours == theirs
    for kind in ("NetworkPolicy", "Service"):
        (mine, shipped) = (dict(table[kind]["spec"]) for table in (found, plain))
        for spec in (mine, shipped):
            del spec["selector" if kind == "Service" else "podSelector"]
        assert mine == shipped


@needs_helm
@each_chart
def test_every_selector_finds_the_pods_of_its_release(part: str):
    found = render(part, {})
    labels = found["StatefulSet"]["spec"]["template"]["metadata"]["labels"].items()
    for selector in (
        found["StatefulSet"]["spec"]["selector"]["matchLabels"],
        found["Service"]["spec"]["selector"],
        found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels
        assert selector["app.kubernetes.io/instance"] == "hanse"


@needs_helm
@each_chart
def test_setting_up_is_a_shell_on_the_volume_in_place_of_the_service(part: str):
    found = render(part, {"setup": True})
    assert found["StatefulSet"]["spec"]["replicas"] == 0
    claims = [
        volume["persistentVolumeClaim"]["claimName"]
        for volume in found["Pod"]["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    ]
    assert claims == [found["PersistentVolumeClaim"]["metadata"]["name"]]
    assert "Pod" not in render(part, {})


@needs_helm
def test_values_reach_where_they_are_meant():
    coordinator = render("coordinator", CHANGED["coordinator"][2])
    (container, _) = coordinator["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"registry.example.org/hanse@{DIGEST}"
    assert coordinator["Service"]["spec"]["loadBalancerSourceRanges"] == ["192.0.2.0/24"]
    (fleet, _) = coordinator["NetworkPolicy"]["spec"]["ingress"]
    assert [peer["ipBlock"]["cidr"] for peer in fleet["from"]] == ["192.0.2.0/24", "2001:db8::/32"]
    without = render("coordinator", CHANGED["coordinator"][1])
    assert "NetworkPolicy" not in without
    assert "tls" not in json.dumps(without["StatefulSet"]).replace("mtls", "")
    (container,) = render("store", CHANGED["store"][1])["StatefulSet"]["spec"]["template"]["spec"][
        "containers"
    ]
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert environment["HTTPS_PROXY"] == "http://proxy:3128"
