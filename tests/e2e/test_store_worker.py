"""A process for every message: its answer, its end, and what becomes of its message."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest
from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore.task_identity import TaskIdentity

from hanse_client.operate.preview import messages
from hanse_client.operate.worker import Answering
from hanse_common.instructions import MESSAGE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def message():
    TaskIdentity.run_id = TaskIdentity.task_id = 1
    TaskIdentity.node_id = 1

    def message(kind: str = "query.describe", ttl: float = 600.0) -> Message:
        made = Message(RecordDict(), 7, kind, ttl=ttl)
        made.metadata.__dict__["_message_id"] = "m1"
        return made

    return message


def test_a_message_is_answered_by_what_is_installed_here(small_node, message):
    node, _ = small_node
    before = dict(os.environ)
    reply = Answering(node.folder).answer(message(), node_id=7)
    assert dict(os.environ) == before
    assert reply.content["config"]["store"] == node.name
    assert reply.metadata.reply_to_message_id == "m1"


def test_a_process_that_dies_costs_its_message_only(small_node, message):
    node, _ = small_node
    answering = Answering(node.folder)
    answering.warm()
    path, text = node.folder / "node.json", (node.folder / "node.json").read_text()
    path.unlink()
    os.mkfifo(path)  # the child waits for somebody to write

    def kill() -> None:
        while not multiprocessing.active_children():
            time.sleep(0.05)
        multiprocessing.active_children()[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    reply = answering.answer(message(), node_id=7)
    killer.join()
    assert reply.error.code == ErrorCode.CLIENT_APP_CRASHED
    assert "[internal] the store's process ended with status -9" in reply.error.reason
    path.unlink()
    path.write_text(text)
    assert answering.answer(message(), node_id=7).has_content()


def test_a_stderr_on_a_full_disk_costs_a_message_and_not_the_node(small_node, message, monkeypatch):
    node, _ = small_node
    answering = Answering(node.folder)
    with Path("/dev/full").open("w") as full, Path("/dev/null").open("w") as roomy:
        monkeypatch.setattr("sys.stderr", full)
        full.write("kept in the buffer, for there is no room")
        reply = answering.answer(message(), node_id=7)
        assert reply.error.reason.startswith("[disk-full]")
        os.dup2(roomy.fileno(), full.fileno())  # somebody makes room
        assert not answering.answer(message(), node_id=7).has_error()
        monkeypatch.undo()


def test_a_message_that_expires_is_given_up(small_node, message):
    node, _ = small_node
    path = node.folder / "node.json"
    path.unlink()
    os.mkfifo(path)
    assert Answering(node.folder).answer(message(ttl=1.0), node_id=7) is None
    assert not multiprocessing.active_children()


def test_an_error_leaves_without_the_words_of_the_data(small_node, message):
    node, _ = small_node
    (node.folder / "node.json").write_text('{"name": "secret-customer"')
    reply = Answering(node.folder).answer(message(), node_id=7)
    assert reply.error.reason.startswith("[config]")


def test_a_dry_run_shows_the_very_sizes_of_a_real_round(federation):
    from apps.secure_federation import STAGES, ByHand

    name = federation.names[0]
    shown = {part.stage: part.size for part in messages(federation.node(name).enrolment, 5)}
    sent = {}
    by_hand = ByHand(federation)
    for stage in STAGES:
        replies = by_hand.open() if stage == "hello" else by_hand.next(stage)
        sent[stage] = len(replies[name].content["config"][MESSAGE])
    assert sent == shown
