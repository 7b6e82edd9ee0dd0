"""What every pod of ours must keep to, whether it is in a manifest or in a rendered chart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any


def pods_of(resources: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The specification of each pod that resources make."""
    for resource in resources:
        if resource["kind"] == "Pod":
            yield resource["spec"]
        elif "template" in resource.get("spec", {}):
            yield resource["spec"]["template"]["spec"]


def check_restricted(pod: dict[str, Any]) -> None:
    """A pod keeps to the restricted Pod Security Standard, and to a read-only root besides."""
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    # Otherwise each start would open the keys to their group, and they would be refused.
    assert context["fsGroupChangePolicy"] == "OnRootMismatch"
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    for container in pod["containers"]:
        locked = container["securityContext"]
        assert locked["allowPrivilegeEscalation"] is False
        assert locked["readOnlyRootFilesystem"] is True
        assert locked["capabilities"] == {"drop": ["ALL"]}
        assert {"requests", "limits"} <= set(container["resources"])
