"""How a store says that it could not do what was asked, without saying anything about its data.

Flower would send the exception and its traceback, and an exception's words may quote a
customer's row. From a member of a federation, errors of the protocol leave in full: they speak
of public terms. Of any other error only its kind leaves; the words stay in the store's log.
"""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context, Error, Message
from flwr.common.constant import ErrorCode

from hanse_client.node import Node
from hanse_common.errors import ConfigError, HanseError, ProtocolError

_PUBLIC = (ProtocolError, ConfigError)


def answering(open_node: Callable[[Context], Node]) -> Callable[..., Message]:
    """Make a Flower mod that turns a member's exceptions into error replies.

    Args:
        open_node: Finds the store that the process answers for.
    """

    def mod(
        message: Message, context: Context, call_next: Callable[[Message, Context], Message]
    ) -> Message:
        node = open_node(context)
        if node.enrolment is None:
            return call_next(message, context)
        try:
            return call_next(message, context)
        except Exception as error:
            node.log(error=f"{type(error).__name__}: {error}")
            return Message(
                Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, public_reason(error)),
                reply_to=message,
            )

    return mod


def public_reason(error: Exception) -> str:
    """Say what may leave the store about an error.

    >>> from hanse_common.errors import DataError, WeakKey
    >>> public_reason(WeakKey("public key 00… has small order"))
    '[weak-key] public key 00… has small order'
    >>> public_reason(DataError("customer 'Ada' bought twice"))
    "[data] A store's data cannot be read or used. (the store's own log says more)"
    >>> public_reason(KeyError("Ada"))
    "[internal] KeyError (the store's own log says more)"
    """
    if isinstance(error, _PUBLIC):
        return f"[{error.code}] {error}"
    where = "(the store's own log says more)"
    if isinstance(error, HanseError):
        first = (type(error).__doc__ or "").strip().splitlines()[0]
        return f"[{error.code}] {first} {where}"
    return f"[internal] {type(error).__name__} {where}"
