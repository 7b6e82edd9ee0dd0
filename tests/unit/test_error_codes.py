"""Every code that the code raises or compares with is one of its family's, in one table."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from hanse_common import errors
from hanse_common.errors import FURTHER_CODES, HanseError, families

ROOT = Path(__file__).parents[2]
PACKAGES = ("common", "client", "server", "simulations")
FAMILIES = {
    name: value
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, HanseError)
}
TAKES_A_FAMILY = "decoding"


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path, ast.parse(path.read_text("utf-8"))


def name_of(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def named(call: ast.Call) -> type[HanseError] | None:
    """The family that a call makes an error of, or lets one be made of."""
    if name_of(call.func) in FAMILIES:
        return FAMILIES[name_of(call.func)]
    if name_of(call.func) == TAKES_A_FAMILY and len(call.args) > 1:
        return FAMILIES.get(name_of(call.args[1]))
    return None


def raised() -> Iterator[tuple[str, type[HanseError], str]]:
    """Where an error is made, its family and its code."""
    for path, tree in modules():
        for node in ast.walk(tree):
            family = named(node) if isinstance(node, ast.Call) else None
            if family is None:
                continue
            place = f"{path.relative_to(ROOT)}:{node.lineno}"
            code = next((word.value for word in node.keywords if word.arg == "code"), None)
            if code is None:
                yield place, family, family.code
            elif isinstance(code, ast.Constant):
                yield place, family, code.value


def compared() -> Iterator[tuple[str, str]]:
    """Where a code is compared with a text, and that text."""
    for path, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare) and name_of(node.left) == "code":
                for word in ast.walk(node):
                    if isinstance(word, ast.Constant) and isinstance(word.value, str):
                        yield f"{path.relative_to(ROOT)}:{node.lineno}", word.value


def test_every_raise_names_a_code_of_its_family():
    wrong = [
        f"{place}: {family.__name__} has no code {code!r}"
        for place, family, code in raised()
        if code != family.code and code not in FURTHER_CODES.get(family, {})
    ]
    assert not wrong


def test_every_code_that_is_compared_with_exists():
    assert not [(place, code) for place, code in compared() if code not in families()]


def test_every_code_of_the_table_is_raised_somewhere():
    used = {code for _, _, code in raised()}
    listed = {code for codes in FURTHER_CODES.values() for code in codes}
    assert listed <= used


def test_a_family_has_one_exit_status_and_a_code_has_one_family():
    statuses = Counter(family.exit_status for family in FAMILIES.values())
    assert set(statuses.values()) == {1}
    codes = Counter(family.code for family in FAMILIES.values())
    codes.update(code for further in FURTHER_CODES.values() for code in further)
    assert set(codes.values()) == {1}
    assert codes.keys() == families().keys()


def test_there_are_few_families():
    assert len(FAMILIES) <= 40


@pytest.mark.parametrize("family", FAMILIES.values())
def test_errors_of_the_protocol_end_with_a_status_of_their_own_range(family):
    assert issubclass(family, errors.ProtocolError) <= (family.exit_status >= 50)
