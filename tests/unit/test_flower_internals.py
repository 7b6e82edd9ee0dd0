"""What is used of Flower outside its public packages stands in one module of each side."""

from __future__ import annotations

import ast
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

from kits.packages import ROOT

PUBLIC = {
    *("flwr", "flwr.app", "flwr.client", "flwr.client.mod", "flwr.clientapp", "flwr.clientapp.mod"),
    *("flwr.common", "flwr.server", "flwr.server.strategy", "flwr.serverapp"),
    *("flwr.serverapp.strategy", "flwr.simulation"),
}
ADAPTERS = {
    "client": "hanse_client.flower_internals",
    "server": "hanse_server.flower_internals",
    "simulations": "hanse_simulations.flower_internals",
}


def imports(tree: ast.AST) -> list[str]:
    """The modules of Flower that a source imports."""
    found = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module]
    plain = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    return [name for name in (*found, *plain) if name.split(".")[0] == "flwr"]


@pytest.mark.parametrize("side", ["common", *ADAPTERS])
def test_only_the_adapter_imports_internals(side):
    for path in sorted((ROOT / side).rglob("*.py")):
        internal = set(imports(ast.parse(path.read_text(encoding="utf-8")))) - PUBLIC
        assert path.name == "flower_internals.py" or not internal, path


@pytest.mark.parametrize("adapter", ADAPTERS.values())
def test_this_version_of_flower_has_every_name(adapter):
    module = import_module(adapter)
    assert module.__all__
    missing = []
    for name in module.__all__:
        try:
            getattr(module, name)
        except (ImportError, AttributeError):
            missing.append(name)
    assert not missing, f"flwr {version('flwr')} lacks {missing}"


@pytest.mark.parametrize("adapter", ADAPTERS.values())
def test_types_and_names_agree(adapter):
    module = import_module(adapter)
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    typed = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flwr")
        for alias in node.names
    }
    assert typed == set(module.__all__)
