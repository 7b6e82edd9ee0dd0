import pytest
from flwr.app import Error, Message, RecordDict

from hanse_server.store_grid import StoreGrid, refusal_reason
from kits.apps.federations import STORES
from kits.apps.local_grid import LocalGrid
from kits.errors import raises


@pytest.fixture
def federation(tmp_path, monkeypatch):
    for name in STORES:
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HANSE_FEDERATION", str(tmp_path))
    return tmp_path


def test_lists_nodes_and_replies_by_store_name(federation):
    local = LocalGrid(len(STORES))
    grid = StoreGrid(local)
    nodes = list(grid.get_node_ids())
    assert nodes == list(reversed(local.get_node_ids()))
    assert list(grid.stores.values()) == sorted(STORES)
    messages = [Message(RecordDict(), node, "query.describe") for node in local.get_node_ids()]
    replies = grid.send_and_receive(messages)
    assert [reply.metadata.src_node_id for reply in replies] == nodes


def test_asks_once(federation):
    local = LocalGrid(len(STORES))
    grid = StoreGrid(local)
    for _ in range(3):
        list(grid.get_node_ids())
    assert local.questions == len(STORES)


def test_names_refusals(federation):
    local = LocalGrid(len(STORES))
    grid = StoreGrid(local)
    bremen, danzig = list(grid.get_node_ids())[:2]
    local.silent, local.broken = {bremen}, {danzig}
    messages = [Message(RecordDict(), node, "evaluate") for node in grid.get_node_ids()]
    result = grid.exchange(messages)
    refusals = result.refusals
    assert refusals["bremen"] == "no reply in time"
    assert refusals["danzig"] == "KeyError: 'x'"
    assert list(refusals) == sorted(refusals)


def test_a_node_without_a_name_is_left_out(federation):
    (federation / "riga" / "anonymous").touch()
    grid = StoreGrid(LocalGrid(len(STORES)))
    assert "riga" not in grid.stores.values()
    assert list(grid.absent.values()) == ["[empty-store] it has no events (give it some)"]


def test_nobody_has_a_name(federation):
    for name in STORES:
        (federation / name / "anonymous").touch()
    with raises("federation", match="node"):
        StoreGrid(LocalGrid(len(STORES))).get_node_ids()


def test_one_name_twice(federation):
    local = LocalGrid(len(STORES))
    nodes = local.get_node_ids()
    local.contexts[nodes[0]].node_config["partition-id"] = 0
    local.contexts[nodes[1]].node_config["partition-id"] = 0
    with raises("federation", match="'bremen'"):
        StoreGrid(local).get_node_ids()


def test_does_not_wait_for_ever(federation):
    with raises("federation", match="5 of 9"):
        StoreGrid(LocalGrid(5), expected_stores=9, patience=0.1).get_node_ids()


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        ("[data] no rows (add some)", "[data] no rows (add some)"),
        (
            "<class 'flwr.ClientAppException'>:<'\nException ClientAppException occurred. "
            "Message: [empty-store] north has no events'>",
            "[empty-store] north has no events",
        ),
        ("ray::run()\n  File x\nValueError: boom", "ValueError: boom"),
        ("", "failed with code 2"),
        (None, "failed with code 2"),
        ("x" * 1000, "x" * 299 + "…"),
    ],
)
def test_a_reason_is_one_short_line(reason, line):
    assert refusal_reason(Error(2, reason)) == line
