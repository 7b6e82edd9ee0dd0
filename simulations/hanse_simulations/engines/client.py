"""Call a ClientApp for an engine: load it by reference, and turn failures into error replies."""

from __future__ import annotations

import copy
import importlib
import logging
from functools import cache

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from hanse_common.errors import ConfigError, HanseError
from hanse_simulations.flower_internals import ErrorCode

_log = logging.getLogger(__name__)


@cache
def load_client_app(reference: str) -> ClientApp:
    """Import a ClientApp.

    Args:
        reference: `module:attribute`, e.g. `hanse_client.app:app`.

    Raises:
        ConfigError: The reference is malformed, or names no ClientApp.
    """
    module, _, attribute = reference.partition(":")
    try:
        app = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"cannot load the ClientApp {reference!r}: {error}") from error
    if not isinstance(app, ClientApp):
        raise ConfigError(f"{reference!r} is not a Flower ClientApp")
    return app


class AnsweringClientApp:
    """Calls a ClientApp and replies for it when it fails, in the same form on every engine.

    Flower's engines wrap an exception in class names and tracebacks, each in its own way.
    Here the reply's reason is `[code] message (hint)` for a `HanseError`. A call that fails
    leaves the node's state as it was, as a SuperNode does.

    Only the reference is pickled, so that Ray's workers import the app for themselves.
    """

    def __init__(self, reference: str) -> None:
        self.reference = reference

    def __call__(self, message: Message, context: Context) -> Message:
        """Return the app's reply, or an error reply."""
        # A copy: the app may have changed the state before it failed.
        state = copy.deepcopy(context.state)
        try:
            reply = load_client_app(self.reference)(message, context)
            if isinstance(reply, Message):
                return reply
            raise TypeError(f"the ClientApp returned {type(reply).__name__}, not a Message")
        except HanseError as error:
            reason = f"[{error.code}] {error}"
        except Exception as error:
            # A fault at one store must not stop the others, whatever it is.
            _log.debug("ClientApp failed", exc_info=True)
            reason = f"{type(error).__name__}: {error}"
        context.state = state
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
