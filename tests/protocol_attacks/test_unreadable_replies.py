"""One reply of one store that cannot be read costs that store its place, and no other its own."""

from __future__ import annotations

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from hanse_common.instructions import MESSAGE
from hanse_server.store_grid import UNREADABLE

CULPRIT = "synthetic-04"


def names_another(reply: Message) -> None:
    """The reply says that it answers another message, and comes from another node."""
    reply.metadata.__dict__["_src_node_id"] = 10**9
    reply.metadata.__dict__["_reply_to_message_id"] = "m1"


def holds_nothing(reply: Message) -> None:
    reply.__dict__["_content"] = None


def holds_other_bytes(reply: Message) -> None:
    reply.content = RecordDict({"config": ConfigRecord({MESSAGE: b"\xff" * 100})})


def holds_other_records(reply: Message) -> None:
    reply.content = RecordDict({"other": ConfigRecord({"x": 1})})


@pytest.mark.parametrize("stage", ["train", "train.share", "train.mask", "query.confirm"])
@pytest.mark.parametrize(
    "harm", [names_another, holds_nothing, holds_other_bytes, holds_other_records]
)
def test_a_reply_that_cannot_be_read_costs_its_store_alone(harm, stage, federation):
    def to_server(store: str, reply: Message) -> Message:
        if store == CULPRIT and reply.metadata.message_type == stage:
            harm(reply)
        return reply

    federation.faults.to_server = to_server
    grid = federation.grid()
    result = grid.exchange(federation.messages(), timeout=0.05)
    lost = result.refusals
    assert set(lost) <= {CULPRIT}
    assert len(result.aggregate.survivors) >= 4


def test_bytes_that_flower_cannot_decode_cost_their_store_alone(federation, monkeypatch):
    """Flower reads what a store pushed while the coordinator pulls it."""
    faults = federation.faults
    real, node = type(faults).pull_messages, faults.node_of(CULPRIT)

    def pull(self, message_ids):
        wanted = list(message_ids)
        for identifier in wanted:
            reply = self._replies.get(identifier)
            found = reply is not None and reply.metadata.src_node_id == node
            if found and reply.metadata.message_type == "train":
                del self._replies[identifier]
                raise IndexError("list index out of range")
        return real(self, wanted)

    monkeypatch.setattr(type(faults), "pull_messages", pull)
    grid = federation.grid()
    result = grid.exchange(federation.messages(), timeout=0.05)
    assert result.refusals == {CULPRIT: f"at stage 'hello': {UNREADABLE}"}
    assert len(result.aggregate.survivors) == 4
