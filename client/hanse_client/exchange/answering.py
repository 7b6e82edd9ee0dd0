"""How a store says that it could not do what was asked, without saying anything about its data.

Flower would send the exception and its traceback, and an exception's words may quote a
customer's row. From a member of a federation, errors of the protocol leave in full: they speak
of public terms. Of any other error only its kind leaves; the words stay in the store's log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress

from flwr.app import Context, Error, Message
from flwr.common.constant import ErrorCode

from hanse_client.node import Node
from hanse_common.errors import HanseError, public_reason

__all__ = ["answering", "public_reason"]

_log = logging.getLogger(__name__)


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
        about = {"store": node.name, "stage": message.metadata.message_type}
        started = time.monotonic()
        try:
            reply = call_next(message, context)
            _log.info("answered", extra=about | {"seconds": round(time.monotonic() - started, 3)})
            return reply
        except Exception as error:
            with suppress(OSError):  # a full disk may be what is wrong
                node.log(error=f"{type(error).__name__}: {error}")
            code = error.code if isinstance(error, HanseError) else "internal"
            reason = public_reason(error)
            _log.info("refused: %s", reason, extra=about | {"error_code": code})
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)

    return mod
