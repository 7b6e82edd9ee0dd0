"""What other people may import: the exports of the package roots, and nothing else."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kits.packages import ROOT

ROOTS = ("hanse_common", "hanse_client", "hanse_server", "hanse_simulations")
MOST = 250


def packages() -> list[str]:
    """Every package of the four roots that exports names."""
    found = []
    for root in ROOTS:
        place = Path(importlib.import_module(root).__file__).parent
        for init in sorted(place.rglob("__init__.py")):
            name = ".".join((root, *init.parent.relative_to(place).parts))
            if "__all__" in init.read_text(encoding="utf-8"):
                found.append(name)
    return found


@pytest.mark.parametrize("package", packages())
def test_every_export_exists_and_says_what_it_is(package):
    module = importlib.import_module(package)
    assert list(module.__all__) == sorted(module.__all__, key=lambda n: (not n.isupper(), n))
    for name in module.__all__:
        exported = getattr(module, name)
        if inspect.isclass(exported) or inspect.isfunction(exported):
            assert inspect.getdoc(exported), f"{package}.{name} has no docstring"


def documented() -> dict[str, list[str]]:
    """The names in each table of docs/api.md, by package."""
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    sections = re.split(r"^## `([\w.]+)`$", page, flags=re.MULTILINE)[1:]
    return {
        package: re.findall(r"^\| `(\w+)` \| \w+ \| .+ \|$", table, re.MULTILINE)
        for package, table in zip(sections[::2], sections[1::2], strict=True)
    }


def test_the_page_lists_every_package_that_exports_names():
    assert set(documented()) == set(packages())


@pytest.mark.parametrize("package", packages())
def test_the_page_lists_exactly_the_exported_names(package):
    assert documented()[package] == list(importlib.import_module(package).__all__)


def test_the_api_is_small():
    exported = {
        id(getattr(importlib.import_module(package), name))
        for package in packages()
        for name in importlib.import_module(package).__all__
    }
    assert len(exported) <= MOST


@pytest.mark.parametrize("root", ROOTS)
def test_a_root_names_the_same_for_type_checkers_and_at_run_time(root):
    tree = ast.parse(Path(importlib.import_module(root).__file__).read_text(encoding="utf-8"))
    imported = {
        alias.name: node.module
        for guard in tree.body
        if isinstance(guard, ast.If)
        for node in guard.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    module = importlib.import_module(root)
    lazily = {name: f"{root}.{place}" for place, names in module._EXPORTS.items() for name in names}
    assert imported == lazily
    assert set(module.__all__) == set(lazily)


@pytest.mark.parametrize("root", ROOTS)
def test_an_export_has_not_the_name_of_a_package_inside(root):
    place = Path(importlib.import_module(root).__file__).parent
    inside = {path.stem if path.is_file() else path.name for path in place.iterdir()}
    for name in importlib.import_module(root).__all__:
        assert not (place / name).is_dir(), f"{root}.{name} is a package too"
    assert "__init__" in inside


def test_importing_the_roots_imports_nothing_heavy():
    words = (
        f"import sys, {', '.join(ROOTS)}; print([m for m in ('torch', 'flwr') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
