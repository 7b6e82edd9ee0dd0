"""Alert rules and dashboards name figures and labels that exist, and commands too."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from hanse_common.monitoring.endpoint import exposition
from hanse_server.metrics import read_metrics
from kits.monitoring import MAY_BE_SHOWN_BY_A_COORDINATOR, MAY_BE_SHOWN_BY_A_STORE
from kits.packages import ROOT

DEPLOY = ROOT / "deploy"
SIDES = {"coordinator": MAY_BE_SHOWN_BY_A_COORDINATOR, "store": MAY_BE_SHOWN_BY_A_STORE}
COUNTERS = {
    *("hanse_attempts", "hanse_stores_lost", "hanse_exchanges_lost"),
    *("hanse_store_refusals", "hanse_store_ledger_entries", "hanse_store_rounds"),
}
HISTOGRAMS = {"hanse_stage_seconds"}
RULE_KEYS = {"alert", "expr", "for", "labels", "annotations"}
ADDED_BY_PROMETHEUS = {"job", "le"}
COMMAND = re.compile(r"^(?:ask .* )?(hanse (?:server|store)(?: [a-z]+)+)")


def series(side: str) -> dict[str, set[str]]:
    """Names that can be queried, with their labels."""
    found = {}
    for name, labels in SIDES[side].items():
        suffixes = [""]
        if name in COUNTERS:
            suffixes = ["_total"]
        elif name in HISTOGRAMS:
            suffixes = ["_bucket", "_sum", "_count"]
        found |= {name + suffix: set(labels) | ADDED_BY_PROMETHEUS for suffix in suffixes}
    return found | {"up": set(ADDED_BY_PROMETHEUS)}


def check_query(side: str, query: str, labels: set[str]) -> None:
    known = series(side)
    names = set(re.findall(r"\b(?:hanse_\w+|up(?=\{))", query))
    assert names, query
    assert names <= set(known), f"{names - set(known)} in {query}"
    used = {
        each for part in re.findall(r"\b(?:by|on) \(([^)]*)\)", query) for each in part.split(", ")
    }
    used |= set(re.findall(r'(\w+)=~?"', query)) | labels
    assert used <= set.union(*(known[name] for name in names)), f"{used} of {query}"
    assert query.count("(") == query.count(")") and query.count("{") == query.count("}")


def rules(side: str) -> list[dict[str, Any]]:
    table = yaml.safe_load((DEPLOY / "prometheus" / f"{side}.rules.yaml").read_text())
    assert set(table) == {"groups"}
    (group,) = table["groups"]
    assert set(group) == {"name", "rules"} and group["name"] == f"hanse-{side}"
    return group["rules"]


@pytest.mark.parametrize("side", SIDES)
def test_rules_have_the_right_keys_and_name_figures_that_exist(side: str):
    seen = set()
    for rule in rules(side):
        assert set(rule) <= RULE_KEYS and set(rule) >= RULE_KEYS - {"for"}
        assert re.fullmatch(r"Hanse[A-Z]\w+", rule["alert"]) and rule["alert"] not in seen
        seen.add(rule["alert"])
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert re.fullmatch(r"\d+[smhd]", rule.get("for", "5m"))
        assert set(rule["annotations"]) == {"summary", "action"}
        labels = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        check_query(side, rule["expr"], labels)


@pytest.mark.parametrize("side", SIDES)
def test_each_alert_names_a_command_that_exists(side: str):
    import click
    from typer.main import get_command

    from hanse_common.cli import app

    for rule in rules(side):
        action = rule["annotations"]["action"]
        if action.startswith("systemctl status "):
            assert (DEPLOY / "systemd" / f"{action.split()[-1]}.service").exists()
            continue
        found = COMMAND.match(action)
        assert found, action
        command = get_command(app)
        context = click.Context(command, info_name="hanse")
        for word in found[1].split()[1:]:
            assert isinstance(command, click.Group), action
            below = command.get_command(context, word)
            assert below is not None, action
            context, command = click.Context(below, parent=context, info_name=word), below


@pytest.mark.parametrize("side", SIDES)
def test_the_rules_that_events_are_told_by_agree_with_them(side: str):
    """The same thresholds as `[notify]` has by default."""
    from hanse_common.alerting.settings import NotifySettings
    from hanse_common.monitoring.expiry import WARNING_DAYS
    from hanse_server.deployment.alerts import LEAST_NOISE_SHARE

    text = (DEPLOY / "prometheus" / f"{side}.rules.yaml").read_text()
    days = {int(found) for found in re.findall(r"< (\d+) \* 86400", text)}
    assert days <= set(WARNING_DAYS)
    if side == "coordinator":
        assert f"hanse_noise_share < {LEAST_NOISE_SHARE}" in text
    else:
        assert f">= {NotifySettings().budget_share} * hanse_store_epsilon_limit" in text


@pytest.mark.parametrize("side", SIDES)
def test_a_dashboard_is_valid_and_names_figures_that_exist(side: str):
    board = json.loads((DEPLOY / "grafana" / f"{side}.json").read_text())
    assert {"uid", "title", "schemaVersion", "panels", "templating", "time"} <= set(board)
    assert board["uid"] == f"hanse-{side}"
    (source,) = board["templating"]["list"]
    assert (source["name"], source["type"]) == ("source", "datasource")
    ids, shown, taken = [], set(), set()
    for panel in board["panels"]:
        ids.append(panel["id"])
        place = panel["gridPos"]
        assert place["x"] >= 0 and place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${source}"
            check_query(
                side, target["expr"], set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            )
            shown |= set(re.findall(r"hanse_\w+", target["expr"]))
    assert len(ids) == len(set(ids))
    missing = {name for name in SIDES[side] if not any(each.startswith(name) for each in shown)}
    assert missing <= {"hanse_runs", "hanse_run_finished"}, "what the dashboard leaves out"


def test_counters_have_the_suffix_that_prometheus_gives_them(tmp_path: Path):
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    (run / "settings.json").write_text("{}")
    line = {"round": 1, "stage": "train", "split": None, "replies": 3, "seconds": 1, "time": 1}
    line |= {"refusals": {"a": "no reply in time"}, "outcome": "round-failed"}
    (run / "rounds.jsonl").write_text(json.dumps(line) + "\n")
    text = exposition(lambda: read_metrics(tmp_path))[1].decode()
    kinds = {family.name: family.type for family in text_string_to_metric_families(text)}
    for name, kind in kinds.items():
        assert (name in COUNTERS) is (kind == "counter")
        assert (name in HISTOGRAMS) is (kind == "histogram")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize("side", SIDES)
def test_promtool_accepts_the_rules(side: str):
    path = DEPLOY / "prometheus" / f"{side}.rules.yaml"
    done = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
