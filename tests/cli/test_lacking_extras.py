"""A command whose packages are not installed says so on one line that names their extra."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from packaging.requirements import Requirement

from hanse_common.commands import missing_dependency
from kits.packages import PROJECT, ROOT, closure, extras
from release.packages import PARTS

NEEDS = re.compile(
    r"needs the package '([\w.]+)', which is not installed here "
    r"\(pip install 'hanse\[(\w+)\]', or run it on a machine that has it\) \[missing-dependency\]$"
)


def outcomes(*parts: str, commands: list[list[str]] | None = None):
    """Run every command where these extras are installed; yields words, status and stderr."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "kits.lacking", *parts],
        input="".join(json.dumps(words) + "\n" for words in commands or []),
        cwd=ROOT / "tests",
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        words, status, errors = json.loads(line)
        yield words, status, errors


@pytest.mark.parametrize("part", PARTS)
def test_the_extra_that_is_named_for_a_package_is_one_for_use(part):
    for text in PROJECT["optional-dependencies"][part]:
        name = Requirement(text).name
        if name == PROJECT["name"]:
            continue
        module = name.replace("-", "_")
        error = missing_dependency("hanse x", ModuleNotFoundError("absent", name=module))
        named = re.search(r"hanse\[(\w+)\]", str(error))
        assert named and named[1] in PARTS, name
        assert name in {Requirement(text).name for text in extras(named[1])}, name


@pytest.mark.slow
@pytest.mark.parametrize("part", [None, "server"])
def test_every_command_ends_with_a_line_whatever_is_missing(part):
    lacking = set()
    for words, status, errors in outcomes(*filter(None, [part])):
        assert status is not None, (words, errors)
        if "--help" in words:
            assert (status, errors) == (0, ""), words
            continue
        assert "Traceback" not in errors
        if found := NEEDS.search(errors.strip()):
            assert errors.count("\n") == 1, errors
            assert found[2] in PARTS
            assert not closure(extras(found[2])) <= closure(extras(*filter(None, [part])))
            lacking.add(words[0])
    assert {"simulate", "data", "model", "bench"} <= lacking


@pytest.mark.slow
def test_a_store_that_is_asked_for_what_analysts_have_names_their_extra():
    asked = [["simulate", "smoke", "--quiet"], ["bench", "engines"]]
    for words, status, errors in outcomes("client", commands=asked):
        assert status, (words, errors)
        found = NEEDS.search(errors.strip())
        assert found and errors.count("\n") == 1, errors
        assert found[2] == "simulate"
