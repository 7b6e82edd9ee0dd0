"""Folders for the pages of `hanse server watch` and `hanse store watch`, and a browser's checks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from numpy import zeros

from hanse_common.identity import AuthorityKey
from hanse_common.manifest import Manifest, PrivacyTerms, SectionTerms, SignedManifest
from hanse_common.recipes import synthetic
from hanse_server.checkpoint import RunCheckpoint, save_checkpoint
from hanse_server.deployment.admit import admit, open_request
from hanse_server.deployment.folder import FederationFolder
from hanse_server.deployment.init import init_federation
from hanse_server.deployment.run_record import RunRecord
from kits.browser import Tab
from kits.deployment import StoreFiles, free_ports

NAMES = ("bremen", "danzig", "luebeck", "riga", "rostock")


def made_federation(root: Path) -> FederationFolder:
    """A federation of five admitted stores, with signed terms and no run."""
    fleet, superlink = free_ports(2)
    found = FederationFolder(root / "federation")
    init_federation(
        found,
        name="baltic",
        address=f"127.0.0.1:{fleet}",
        bind="127.0.0.1",
        superlink_port=superlink,
    )
    authority = AuthorityKey.load(found.authority_key)
    for name in NAMES:
        store = StoreFiles(root / name, name)
        admit(found, open_request(found, store.request), authority)
    sign(found, NAMES)
    return found


def sign(folder: FederationFolder, stores: tuple[str, ...]) -> None:
    manifest = Manifest(
        federation="baltic",
        stores=stores,
        sections=(SectionTerms(name="update", length=10, clip=1.0),),
        model_digest="00" * 32,
        arrays={"head.weight": (10,)},
        minimum_cohort=3,
        rounds=60,
        spare_exchanges=4,
        privacy=PrivacyTerms(
            mode="local",
            target_epsilon=4.0,
            target_delta=1e-6,
            noise_multiplier=8.0,
            sample_rate=0.1,
            max_grad_norm=1.0,
            local_steps=1,
        ),
    )
    SignedManifest.sign(manifest, AuthorityKey.load(folder.authority_key)).save(folder.manifest)


def line(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "round": number,
        "stage": "train",
        "split": None,
        "replies": 5,
        "refusals": {},
        "sums": {"loss": 77.125, "examples": 4321.5},
        "attempts": 1,
        "noise_share": 1.01,
        "outcome": "summed",
        "cut": None,
        "deadlines": 0,
        "note": "",
        "seconds": 2.5,
        "time": 1_750_000_000.0 + number,
        **changes,
    }


def run(folder: FederationFolder, name: str, *lines: dict[str, Any], at: int = 0) -> Path:
    """A run's folder with finished stages, and a checkpoint of a round."""
    run_dir = folder.run(name)
    run_dir.mkdir(parents=True)
    settings = synthetic().with_changes({"federation.rounds": 60})
    (run_dir / "settings.json").write_text(settings.model_dump_json())
    (run_dir / "manifest.json").write_bytes(folder.manifest.read_bytes())
    (run_dir / "rounds.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    if at:
        arrays = {"head.weight": zeros(10, "float32")}
        save_checkpoint(run_dir, RunCheckpoint(round=at, arrays=arrays, strategy={}, settings={}))
    RunRecord(runs=(1,), stopped=False).write(run_dir)
    return run_dir


@contextmanager
def watching(side: str, folder: Path) -> Iterator[str]:
    """`hanse server watch` or `hanse store watch` in a process of its own; yields the address."""
    program = "from hanse_common.cli import main; main()"
    words = (side, "watch", "--folder", str(folder), "--port", "0")
    process = subprocess.Popen(
        [sys.executable, "-c", program, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()
    assert process.returncode in (0, -15)


_CONTRAST = """
(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const part = [r, g, b].map((c) => {
      const s = c / 255;
      return s <= 0.03928 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] > 0.99) return colour;
    }
    return [255, 255, 255];
  };
  const weak = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest("svg, .unseen, .skip")) continue;
    const a = light(parse(getComputedStyle(element).color)), b = light(behind(element));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) weak.push(`${ratio.toFixed(2)} ${element.className} ${element.textContent}`);
  }
  return weak;
})()
"""
_FOCUSED = """
(() => {
  const e = document.activeElement, style = getComputedStyle(e);
  const all = [...document.querySelectorAll("*")];
  return {
    tag: e.tagName, name: e.className, at: all.indexOf(e),
    outline: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
    seen: e.getBoundingClientRect().width > 0,
  };
})()
"""


def wait_for_parts(tab: Tab, seconds: float = 60) -> None:
    """Wait until every part of the page has been read, and the page is live."""
    tab.wait_until(
        "document.querySelector('.link.good') && !document.body.innerText.includes('Reading the')",
        seconds,
    )


def check_looks(tab: Tab, url: str, *, width: int, dark: bool) -> None:
    """The page fits its window, complains of nothing, loads nothing else, and is legible."""
    tab.open(url, width=width, dark=dark)
    wait_for_parts(tab)
    assert tab.complaints() == []
    assert tab.asked_for() <= {url + name for name in ("", "style.css", "script.js", "events")}
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("document.querySelectorAll('main section').length") > 4
    wide = "[...document.querySelectorAll('.sheet')].filter(e => e.scrollWidth > e.clientWidth + 1)"
    assert tab.evaluate(f"{wide}.length") == 0
    assert tab.evaluate(_CONTRAST) == []


def check_structure(tab: Tab, url: str, *, width: int) -> None:
    """Landmarks, headings and tables are there for a screen reader, in any window."""
    tab.open(url, width=width)
    wait_for_parts(tab)
    nodes = tab.ask("Accessibility.getFullAXTree")["nodes"]
    found = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"]
    ]
    roles = [role for role, _ in found]
    for landmark in ("banner", "main", "contentinfo", "status"):
        assert roles.count(landmark) == 1, landmark
    regions = [name for role, name in found if role == "region"]
    assert len(regions) >= 6 and all(regions)
    tables = [name for role, name in found if role == "table"]
    assert tables and all(tables)
    for role in ("row", "columnheader", "rowheader", "cell"):
        assert role in roles, role
    levels = tab.evaluate(
        "[...document.querySelectorAll('h1,h2,h3')].map(e => parseInt(e.tagName[1]))"
    )
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def check_keyboard(tab: Tab, url: str) -> None:
    """The tabulator goes through everything that can be used, in order, and one sees where."""
    tab.open(url, width=1600)
    wait_for_parts(tab)
    count = tab.evaluate("document.querySelectorAll('a, button, [tabindex=\"0\"]').length")
    places = []
    for _ in range(count):
        tab.press_tab()
        place = tab.evaluate(_FOCUSED)
        assert place["outline"] and place["seen"], place
        places.append(place["at"])
    assert tab.evaluate("document.querySelector('.skip').textContent") == "Skip to the content"
    assert len(set(places)) == count
    assert places == sorted(places)
