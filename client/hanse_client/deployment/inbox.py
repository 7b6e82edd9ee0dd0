"""What a server hands a node: a message within bounds, or an error with a name.

A store trusts its coordinator's server with nothing but its turn. Whatever it answers, the node
neither ends in an error without a name, nor follows it elsewhere, nor fills its memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
from flwr.app import Message
from flwr.common.serde import message_from_proto
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    pull_and_inflate_object_from_tree,
)
from flwr.supernode.fleet_http_client import FleetHttpClient
from google.protobuf.message import DecodeError

from hanse_common.decoding import decoding
from hanse_common.errors import FederationError

LARGEST_ANSWER = 16 * 2**20
"""Bytes of one answer; Flower sends models in pieces of 5 MiB, app bundles of at most 10 MB."""
LARGEST_CONTENT = 2**30
"""Bytes of one message; a model of ten million trained parameters is 40 MB."""
_MOST_OBJECTS = 20_000
_FIRST_WAIT, _LONGEST_WAIT, _TRIES = 0.05, 0.5, 20_000
"""Seconds before an object that is still being uploaded is asked for again; how often."""


def first_message(answer: PullMessagesResponse) -> tuple[Message, ObjectTree] | None:
    """The message that a server hands out, without its content; None if there is none.

    Raises:
        FederationError: It is no message.
    """
    if not answer.messages_list:
        return None
    with decoding("the server's message", FederationError, DecodeError):
        tree = answer.message_object_trees[0]
        if sum(1 for _ in _objects(tree)) > _MOST_OBJECTS:
            raise ValueError(f"it announces more than {_MOST_OBJECTS} objects")
        return message_from_proto(answer.messages_list[0]), tree


def whole_message(
    tree: ObjectTree, pull: Callable[[str], bytes], confirm: Callable[[str], None]
) -> Message:
    """Fetch a message's content.

    Args:
        tree: Of its objects.
        pull: Fetches one.
        confirm: Says that all are here.

    Raises:
        FederationError: It is gone, larger than any model, or no message.
    """
    left = LARGEST_CONTENT

    def counted(object_id: str) -> bytes:
        nonlocal left
        content = pull(object_id)
        left -= len(content)
        if left < 0:
            raise FederationError(f"the message is larger than {LARGEST_CONTENT} bytes")
        return content

    with decoding("the message's content", FederationError, DecodeError, ObjectPullError):
        return pull_and_inflate_object_from_tree(
            tree,
            counted,
            confirm,
            return_type=Message,
            # The message is here before all of its content is; Flower would wait a second.
            initial_backoff=_FIRST_WAIT,
            backoff_cap=_LONGEST_WAIT,
            max_tries_per_object=_TRIES,
        )


def bound_answers(client: FleetHttpClient) -> None:
    """Let a client follow no redirect, and read no answer beyond `LARGEST_ANSWER`."""
    http = client._client  # Flower has no setting for either
    http.follow_redirects = False
    http.event_hooks = {"response": [_bound]}


def _objects(tree: ObjectTree) -> Iterator[ObjectTree]:
    waiting = [tree]
    while waiting:
        one = waiting.pop()
        waiting.extend(one.children)
        yield one


def _bound(response: httpx.Response) -> None:
    """Called with the headers, before the body is read."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise httpx.RemoteProtocolError("the answer is compressed, which was not asked for")
    if isinstance(response.stream, httpx.SyncByteStream):
        response.stream = _Bounded(response.stream)


class _Bounded(httpx.SyncByteStream):
    """An answer's bytes, up to a limit."""

    def __init__(self, stream: httpx.SyncByteStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        left = LARGEST_ANSWER
        for chunk in self._stream:
            left -= len(chunk)
            if left < 0:
                raise httpx.RemoteProtocolError(f"the answer is larger than {LARGEST_ANSWER} bytes")
            yield chunk

    def close(self) -> None:
        self._stream.close()
