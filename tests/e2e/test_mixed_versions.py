"""A coordinator of this version with stores of the version before, and of another protocol.

The nodes are real processes that import another source tree: that of the commit below, and a
copy of this one with a higher version of the protocol.
"""

from __future__ import annotations

import pytest

from hanse_common.errors import ProtocolError
from hanse_common.versions import EARLIER, own_version
from hanse_server.stage_log import read_stages
from kits.commands import Place, joined_shops
from kits.trees import ROOT, environment, tree_at, tree_with_protocol

pytestmark = pytest.mark.slow

BEFORE = "3ee43233bf06e535cecfb4a4113027dd6708989e"
"""The last commit whose stores name no version."""


@pytest.fixture(scope="module")
def shops(secure_stores, store_cache, tmp_path_factory):
    """Five stores of the version before, made and joined by its own commands."""
    root = tmp_path_factory.mktemp("versions")
    before = Place(environment=environment(tree_at(BEFORE, root / "before")))
    settings = secure_stores[0].with_changes(
        {
            "federation.rounds": 1,
            "federation.evaluate_every": 1,
            "federation.spare_exchanges": 20,
            "privacy.noise_multiplier": 20.0,
        }
    )
    wait = {"connect": 240, "train": 100, "stage": 25}
    with joined_shops(root, settings, store_cache, wait=wait, at_stores=before) as shops:
        yield shops


def train(shops, name, **options):
    """Run to the end; returns the line of the training round."""
    words = [word for pair in options.items() for word in (f"--{pair[0]}", pair[1])]
    done = shops.server("run", "--name", name, *words, "--format", "json", timeout=500)
    assert done.json["state"] == "finished"
    (line,) = (line for line in read_stages(shops.run_dir(name)) if line["stage"] == "train")
    return line


def test_stores_of_the_version_before_train_with_this_coordinator(shops):
    line = train(shops, "before")
    assert (line["replies"], line["refusals"], line["releases"]) == (5, {}, {EARLIER: 5})
    rows = shops.rows().values()
    assert {(row["release"], row["protocol"]) for row in rows} == {("", 1)}
    assert {row["upgrade"] for row in rows} == {None}
    assert shops.audit()["ok"]


def test_a_store_that_is_upgraded_first_trains_with_the_others(shops):
    shops.joined["riga"].stop()
    shops.join("riga", **environment(ROOT))
    shops.wait_until_online()
    line = train(shops, "one-upgraded")
    assert (line["replies"], line["refusals"]) == (5, {})
    assert line["releases"] == {EARLIER: 4, own_version().release: 1}
    row = shops.rows()["riga"]
    assert (row["release"], row["protocol"]) == (own_version().release, own_version().protocol)
    findings = shops.store("riga", "doctor", "--format", "json").json
    assert not [found for found in findings if found["state"] == "failed"]
    assert shops.audit()["ok"]


def test_a_store_of_another_protocol_is_named_at_both_sides_and_the_others_train(shops, tmp_path):
    own, other = own_version().protocol, own_version().protocol + 1
    newer = environment(tree_with_protocol(other, tmp_path / "newer"))
    before = len(shops.charges("danzig"))
    shops.joined["danzig"].stop()
    node = shops.join("danzig", **newer)
    assert node.wait_for_end() == ProtocolError.exit_status
    words = f"protocol version {own} ({own_version().release_name})"
    assert "[unsupported-version]" in node.said() and words in node.said()
    assert "upgrade 127.0.0.1:" in node.said()
    row = shops.rows()["danzig"]
    assert (row["connection"], row["protocol"]) == ("other version", other)
    assert row["upgrade"].startswith(f"danzig speaks protocol version {other}")
    assert "upgrade this coordinator to Hanse" in row["upgrade"]
    assert f"protocol version {other}" in (shops.folder.state / "up.log").read_text()
    line = train(shops, "without-the-newer", stores=4)
    assert line["replies"] == 4
    assert len(shops.charges("danzig")) == before
    shops.join("danzig")
    shops.wait_until_online()
    assert train(shops, "all-again")["replies"] == 5
    assert shops.audit()["ok"]
