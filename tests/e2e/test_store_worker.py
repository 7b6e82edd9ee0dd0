"""A process for every message: its answer, its end, and what becomes of its message."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest
from flwr.app import Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from hanse_client.deployment.code_bundle import Bundle
from hanse_client.deployment.dry_run import messages
from hanse_client.deployment.worker import Answering
from hanse_common.errors import UNABLE
from hanse_common.instructions import MESSAGE
from kits.apps.deployment import bundle

pytestmark = pytest.mark.slow
BUNDLE = Bundle.read(bundle())


@pytest.fixture(scope="module")
def message():
    TaskIdentity.run_id = TaskIdentity.task_id = 1
    TaskIdentity.node_id = 1

    def message(kind: str = "query.describe", ttl: float = 600.0) -> Message:
        made = Message(RecordDict(), 7, kind, ttl=ttl)
        made.metadata.__dict__["_message_id"] = "m1"
        return made

    return message


@pytest.fixture
def member(federation):
    """A store whose terms name the bundle that its messages come under."""
    federation.sign_again(fab_digest=BUNDLE.digest)
    return federation.node(federation.names[0])


def test_a_message_is_answered_by_what_is_installed_here(member, message):
    node = member
    before = dict(os.environ)
    reply = Answering(node.folder).answer(message(), node_id=7, bundle=BUNDLE)
    assert dict(os.environ) == before
    assert reply.content["config"]["store"] == node.name
    assert reply.metadata.reply_to_message_id == "m1"


def test_a_process_that_dies_costs_its_message_only(member, message):
    node = member
    answering = Answering(node.folder)
    assert answering.warm(threading.Event())
    path, text = node.folder / "node.json", (node.folder / "node.json").read_text()
    path.unlink()
    os.mkfifo(path)  # the child waits for somebody to write

    def kill() -> None:
        while not multiprocessing.active_children():
            time.sleep(0.05)
        multiprocessing.active_children()[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    reply = answering.answer(message(), node_id=7, bundle=BUNDLE)
    killer.join()
    # How it ended may depend on whose history it was at: only the store's own log says so.
    assert reply.error.reason == UNABLE
    path.unlink()
    path.write_text(text)
    assert answering.answer(message(), node_id=7, bundle=BUNDLE).has_content()


def test_a_stderr_on_a_full_disk_costs_a_message_and_not_the_node(member, message, monkeypatch):
    node = member
    answering = Answering(node.folder)
    with Path("/dev/full").open("w") as full, Path("/dev/null").open("w") as roomy:
        monkeypatch.setattr("sys.stderr", full)
        full.write("kept in the buffer, for there is no room")
        reply = answering.answer(message(), node_id=7, bundle=BUNDLE)
        assert reply.error.reason.startswith("[disk-full]")
        os.dup2(roomy.fileno(), full.fileno())  # somebody makes room
        assert not answering.answer(message(), node_id=7, bundle=BUNDLE).has_error()
        monkeypatch.undo()


def test_a_message_that_expires_is_given_up(member, message):
    node = member
    path = node.folder / "node.json"
    path.unlink()
    os.mkfifo(path)
    assert Answering(node.folder).answer(message(ttl=1.0), node_id=7, bundle=BUNDLE) is None
    assert not multiprocessing.active_children()


def test_a_message_of_another_run_is_refused_in_the_process_that_answers(member, message):
    other = Bundle.read(bundle({"torch/__init__.py": ""}))
    reply = Answering(member.folder).answer(message(), node_id=7, bundle=other)
    assert reply.error.reason.startswith("[foreign-code] ")


def test_an_error_leaves_without_the_words_of_the_data(member, message):
    node = member
    (node.folder / "node.json").write_text('{"name": "secret-customer"')
    reply = Answering(node.folder).answer(message(), node_id=7, bundle=BUNDLE)
    assert reply.error.reason.startswith("[config]")


def test_a_dry_run_shows_the_very_sizes_of_a_real_round(federation):
    from kits.apps.secure_federation import STAGES, ByHand

    name = federation.names[0]
    shown = {part.stage: part.size for part in messages(federation.node(name).enrolment, 5)}
    sent = {}
    by_hand = ByHand(federation)
    for stage in STAGES:
        replies = by_hand.open() if stage == "hello" else by_hand.next(stage)
        sent[stage] = len(replies[name].content["config"][MESSAGE])
    assert sent == shown


def test_a_node_that_rests_returns_its_memory_and_answers_the_next_message(member, message):
    answering = Answering(member.folder)
    assert answering.warm(threading.Event())
    assert not answering.rest(), "a message may come"
    assert answering.rest(now=time.monotonic() + 3600)
    assert not answering.rest(now=time.monotonic() + 3600), "it has ended already"
    reply = answering.answer(message(), node_id=7, bundle=BUNDLE)
    assert reply.content["config"]["store"] == member.name
    assert answering.rest(now=time.monotonic() + 3600)


def test_a_stop_ends_the_wait_for_the_imports(member):
    answering, stopped = Answering(member.folder), threading.Event()
    stopped.set()
    answering.warm(stopped)  # returns, whether or not the imports were quicker
