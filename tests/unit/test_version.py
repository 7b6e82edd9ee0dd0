"""The version of a build, and the README as an index shows it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from kits.packages import ROOT
from release.build_hook import for_an_index
from release.version import NEXT, version


def git(folder: Path, *words: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)


def commit(folder: Path) -> None:
    git(folder, "commit", "--allow-empty", "--message", "one more")


def test_the_version_is_that_of_the_tag(tmp_path):
    assert version(tmp_path) == NEXT, "no Git"
    git(tmp_path, "init")
    assert version(tmp_path) == NEXT, "no commit"
    commit(tmp_path)
    git(tmp_path, "tag", "nightly")
    assert version(tmp_path) == NEXT, "no tag of a version"
    git(tmp_path, "tag", f"v{NEXT}")
    assert version(tmp_path) == NEXT
    commit(tmp_path)
    commit(tmp_path)
    assert version(tmp_path) == f"{NEXT}.dev2"
    git(tmp_path, "tag", "v99.0.0")
    with pytest.raises(ValueError, match=rf"v99.0.0, and NEXT in .* is {re.escape(NEXT)}"):
        version(tmp_path)
    # A source distribution keeps the version that it was made with.
    (tmp_path / "PKG-INFO").write_text("Metadata-Version: 2.4\nName: hanse\nVersion: 1.2.3\n")
    assert version(tmp_path) == "1.2.3"


def test_every_page_of_a_release_names_the_version():
    assert f"({NEXT})" in (ROOT / "CHANGELOG.md").read_text()
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == NEXT


def test_an_index_shows_the_readme_without_links_that_lead_nowhere():
    text = for_an_index((ROOT / "README.md").read_text())
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links and all(link.startswith("https://") for link in links)
    assert "docs/analysts.md" in text


@pytest.mark.parametrize("page", ["CHANGELOG", "SECURITY", "CONTRIBUTING", "README", "README.zh"])
def test_links_of_the_first_pages_lead_somewhere(page):
    text = (ROOT / f"{page}.md").read_text()
    for link in re.findall(r"\]\((?!https:)([^)#]+)", text):
        assert (ROOT / link).exists(), link
