"""docs/operators.md: what it says about licences, ports and figures is so."""

from __future__ import annotations

import re
import tomllib

from hanse_client.deployment.metrics_cli import PORT as STORE_PORT
from hanse_client.deployment.watch.cli import PORT as STORE_PAGE
from hanse_client.ingest.store_config import StoreConfig
from hanse_common.alerting.events import EVENTS
from hanse_common.alerting.settings import NotifySettings
from hanse_common.settings_files import parse_settings
from hanse_server.deployment.folder import FederationFile
from hanse_server.deployment.watch.cli import PORT as COORDINATOR_PAGE
from hanse_server.metrics_cli import PORT as COORDINATOR_PORT
from kits.packages import ROOT
from release.licences import REVIEWED, licence

DOC = (ROOT / "docs" / "operators.md").read_text()


def listed() -> dict[str, str]:
    table = DOC.partition("## Licences")[2]
    rows = re.findall(r"^\| ((?:`[\w-]+`(?:, )?)+) \| ([^|]+) \|", table, re.MULTILINE)
    return {name: terms for names, terms in rows for name in re.findall(r"`([\w-]+)`", names)}


def test_every_reviewed_licence_is_listed():
    for name, terms in REVIEWED.items():
        assert listed()[name].startswith(terms)


def test_every_listed_licence_is_the_packages_own():
    words = {"GPL-3": "GPL", "LGPL": "GPL", "MPL": "MPL|Mozilla"}
    for name, terms in listed().items():
        (found,) = {wanted for start, wanted in words.items() if terms.startswith(start)}
        assert re.search(found, licence(name)), (name, licence(name))


def test_ports_are_the_commands_own():
    for port in (COORDINATOR_PORT, STORE_PORT, COORDINATOR_PAGE, STORE_PAGE):
        assert f"| {port} |" in DOC


def test_every_figure_that_is_named_exists():
    sources = "".join(
        (ROOT / part).read_text()
        for part in (
            "server/hanse_server/metrics.py",
            "client/hanse_client/deployment/metrics.py",
            "common/hanse_common/monitoring/endpoint.py",
        )
    )
    named = set(re.findall(r"`(hanse_[a-z_]+?)(?:_total)?(?:\{[^`]*)?`", DOC))
    assert len(named) > 10
    for name in named:
        short = name.removeprefix("hanse_store_")
        assert f'"{name}"' in sources or f'"{short}"' in sources, name


def test_the_table_of_events_and_the_sample_of_notify_are_complete():
    section = DOC.partition("## Who is told")[2].partition("\n## ")[0]
    named = set(re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE))
    assert named == set(EVENTS) - {"test"}
    (sample,) = re.findall(r"```toml\n(.*?)```", section, re.DOTALL)
    settings = parse_settings(NotifySettings, tomllib.loads(sample)["notify"])
    assert settings.ways == ("webhook", "command", "email")
    assert (settings.lost_rounds, settings.budget_share) == (3, 0.9), "the defaults"


def test_other_samples_of_settings_are_valid():
    before, _, after = DOC.partition("## Who is told")
    rest = before + after.partition("\n## ")[2]
    fleet = {"address": "hanse.example.org:9443"}
    for sample in re.findall(r"```toml\n(.*?)```", rest, re.DOTALL):
        table = tomllib.loads(sample)
        if "reviews" in table:
            parse_settings(StoreConfig, {"name": "luebeck", **table})
        else:
            parse_settings(FederationFile, {"name": "baltic", "fleet": fleet, **table})


def test_every_page_that_is_linked_exists():
    for target in re.findall(r"\]\(([^)#]+)", DOC):
        assert (ROOT / "docs" / target).resolve().exists(), target
