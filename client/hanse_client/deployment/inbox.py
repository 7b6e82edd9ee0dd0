"""Bounded decoding of the messages that a server hands to a node.

A store does not trust its coordinator's server. Whatever the server answers, the node raises a
named error or returns a message; it follows no redirect, and reads no more than a limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
from flwr.app import Message
from google.protobuf.message import DecodeError

from hanse_client.flower_internals import (
    FleetHttpClient,
    ObjectPullError,
    ObjectTree,
    PullMessagesResponse,
    message_from_proto,
    pull_and_inflate_object_from_tree,
)
from hanse_common.decoding import decoding
from hanse_common.errors import FederationError

LARGEST_ANSWER = 16 * 2**20
"""Bytes of one answer; Flower sends models in pieces of 5 MiB, app bundles of at most 10 MB."""
LARGEST_CONTENT = 2**30
"""Bytes of one message; a model of ten million trained parameters is 40 MB."""
_MOST_OBJECTS = 20_000
"""Objects of one message; each of them costs a request."""
_FIRST_WAIT, _LONGEST_WAIT, _TRIES = 0.05, 0.5, 20_000
"""Seconds before an object that is still being uploaded is requested again, first and at most;
number of requests. Flower's first wait is a second (docs/lab-notes.md)."""


def first_message(answer: PullMessagesResponse) -> tuple[Message, ObjectTree] | None:
    """The message in a server's answer, without its content; None if there is none.

    Raises:
        FederationError: The answer is not a message.
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
        tree: The tree of the message's objects.
        pull: Fetches one object by its id.
        confirm: Confirms to the server that all objects have arrived.

    Raises:
        FederationError: The content is gone, larger than `LARGEST_CONTENT`, or not a message.
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
            # A message is announced before its content is uploaded.
            initial_backoff=_FIRST_WAIT,
            backoff_cap=_LONGEST_WAIT,
            max_tries_per_object=_TRIES,
        )


def bound_answers(client: FleetHttpClient) -> None:
    """Make a client follow no redirect, and read no answer beyond `LARGEST_ANSWER`."""
    http = client._client  # Flower has no setting for either
    # A redirect would take requests that are signed with the node's key to another host.
    http.follow_redirects = False
    http.event_hooks = {"response": [_bound]}


def _objects(tree: ObjectTree) -> Iterator[ObjectTree]:
    # Iterative: the server chooses the depth, and recursion would end in a `RecursionError`.
    waiting = [tree]
    while waiting:
        one = waiting.pop()
        waiting.extend(one.children)
        yield one


def _bound(response: httpx.Response) -> None:
    """Replace the body by a bounded one; called with the headers, before the body is read."""
    # A compressed body within the limit can unpack to any size.
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
