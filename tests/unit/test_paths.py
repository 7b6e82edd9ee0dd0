"""The map of files is the only place where a file's name stands."""

import ast
from pathlib import Path

import pytest

from hanse_common import paths

NAMES = {
    value: name for name, value in vars(paths).items() if name.isupper() and isinstance(value, str)
}
ROOT = Path(paths.__file__).parents[2]
PACKAGES = (
    "common/hanse_common",
    "client/hanse_client",
    "server/hanse_server",
    "simulations/hanse_simulations",
)


def literals(path):
    """Texts of a module with their lines, but for docstrings; parts of f-strings too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value


def joined(path):
    """Folders' names that something is put behind or before with a slash."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            for side in (node.left, node.right):
                if isinstance(side, ast.Constant) and isinstance(side.value, str):
                    yield node.lineno, side.value


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_names_a_file_by_itself(package):
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        if path == Path(paths.__file__):
            continue
        for line, text in literals(path):
            if any("." in part and part in NAMES for part in text.split("/")):
                found.append(f"{path}:{line}: {text!r}")
        found += [f"{path}:{line}: {text!r}" for line, text in joined(path) if text in NAMES]
    assert found == []


def test_every_name_says_what_it_holds():
    tree = ast.parse(Path(paths.__file__).read_text(encoding="utf-8"))
    body = tree.body[2:]  # after the docstring and the import
    assert all(isinstance(node, ast.Assign | ast.Expr) for node in body)
    for name, about in zip(body[::2], body[1::2], strict=True):
        assert isinstance(name, ast.Assign), ast.unparse(name)
        assert isinstance(about, ast.Expr), ast.unparse(name)
