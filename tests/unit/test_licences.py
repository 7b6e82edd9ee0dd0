"""The licences of what each extra installs, and the bill of materials of a release."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError

import pytest

from kits.packages import ROOT
from release.licences import NEVER, REVIEWED, is_allowed, licence, objection
from release.packages import PARTS, PROJECT, closure, extras


@pytest.mark.parametrize("part", PARTS)
def test_no_part_contains_a_package_under_the_gpl_or_one_that_nobody_reviewed(part):
    try:
        names = closure(extras(part))
    except PackageNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")
    assert [found for name in names if (found := objection(name, licence(name)))] == []
    assert "pymerkle" not in names


def test_every_reviewed_package_still_needs_a_review():
    for name, terms in REVIEWED.items():
        assert not is_allowed(licence(name))
        assert re.search({"L": "LGPL", "M": "MPL"}[terms[0]], licence(name))


@pytest.mark.parametrize(
    ("terms", "allowed", "never"),
    [
        ("MIT", True, False),
        ("Apache-2.0 OR BSD-3-Clause", True, False),
        ("MIT OR GPL-2.0-only", True, True),
        ("BSD License; Public Domain", True, False),
        ("MIT AND MPL-2.0", False, False),
        ("Mozilla Public License 2.0 (MPL 2.0)", False, False),
        ("LGPL-3.0-only", False, False),
        ("GNU Lesser General Public License v3 (LGPLv3)", False, False),
        ("GNU General Public License v3 or later (GPLv3+)", False, True),
        ("AGPL-3.0-or-later", False, True),
        ("Apache-2.0 with the Commons Clause", False, False),
        ("MIT-like, ask us", False, False),
        ("", False, False),
    ],
)
def test_terms_are_read_as_they_are_written(terms, allowed, never):
    assert is_allowed(terms) is allowed
    assert bool(NEVER.search(terms)) is never


def test_the_command_prints_every_package_with_its_licence():
    done = subprocess.run(
        [sys.executable, "-m", "release.licences", "server", "audit"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows = re.findall(r"^\| ([\w.-]+) \| \S+ \| [^|]+ \| ([\w, ]+) \|$", done.stdout, re.MULTILINE)
    expected = closure(extras("server")).keys() | closure(extras("audit")).keys()
    assert {name for name, _ in rows} - {"package"} == expected
    assert dict(rows)["flwr"] == "server" and dict(rows)["cryptography"] == "audit, server"


@pytest.mark.parametrize("part", ["server", "client"])
def test_a_bill_of_materials_is_valid_complete_and_the_same_twice(part):
    pytest.importorskip("cyclonedx")
    from cyclonedx.exception import MissingOptionalDependencyException
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    from release.sbom import bill

    text = bill(part)
    assert text == bill(part)
    with suppress(MissingOptionalDependencyException):  # the schema's checker is one more package
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    found = json.loads(text)
    assert found["metadata"]["component"]["name"] == PROJECT["name"]
    needs = closure(extras(part))
    assert {one["name"] for one in found["components"]} == set(needs)
    assert all(one["purl"] and one["licenses"] for one in found["components"])
    arrows = {one["ref"]: one.get("dependsOn", []) for one in found["dependencies"]}
    (flower,) = (ref for ref in arrows if ref.startswith("pkg:pypi/flwr@"))
    assert {ref.split("/")[1].split("@")[0] for ref in arrows[flower]} == needs["flwr"]
