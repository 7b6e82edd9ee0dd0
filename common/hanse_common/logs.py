r"""Logs of long-running commands: a JSON object a line on stderr, nothing of a customer in it.

>>> import io, json
>>> stream = io.StringIO()
>>> set_up(store="luebeck", stream=stream)
>>> log = logging.getLogger("hanse_client.example")
>>> log.info("answered", extra={"round": 3, "stage": "train.mask", "customer": "Ada"})
>>> log.warning("could not train: %s", KeyError("Ada"))
>>> for line in stream.getvalue().splitlines():
...     table = json.loads(line)
...     _ = table.pop("time"), table.pop("logger")
...     print(table)
{'level': 'info', 'event': 'answered', 'store': 'luebeck', 'round': 3, 'stage': 'train.mask'}
{'level': 'warning', 'event': 'could not train: [internal] KeyError', 'store': 'luebeck'}
>>> take_down()
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Protocol, TextIO

from hanse_common.errors import HanseError, loggable_reason
from hanse_common.wording import json_text

FIELDS = (
    *("store", "run", "round", "stage", "split", "attempt"),
    *("error_code", "stores", "seconds", "epsilon"),
)
"""What a line may hold beside time, level, logger and event; other extras are left out."""

_STDERR = 2
_OURS = ("hanse_common", "hanse_client", "hanse_server", "hanse_simulations")
_TAKEN_OVER = ("flwr", "uvicorn", "uvicorn.error", "uvicorn.access")
"""Loggers of others that would write in their own way."""


def set_up(*, store: str = "", level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send everything that is logged to stderr, one JSON object a line.

    Args:
        store: Its id, for every line of a store's process.
        level: Least level of the project's own lines; of others', warnings at the least.
        stream: Where to, if not stderr.

    Guarantees:
        An exception leaves its kind, code and constant words, as it would leave the store
        (`loggable_reason`); no traceback, no local variable. Of other packages' lines the
        template is kept and what was put into it is not. Extras that are not in `FIELDS` are
        dropped. What the project's own lines say in words is theirs to answer for.

    Edge cases:
        Called again, it replaces what it set up before. Flower adds a handler of its own when
        it is imported: call this after that. A forked or spawned process calls it anew.
    """
    take_down()
    handler = _Handler(stream or _stderr())
    handler.setFormatter(_Formatter(store))
    handler.addFilter(_matters)
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for name in _OURS:
        logging.getLogger(name).setLevel(level)
    for name in _TAKEN_OVER:
        other = logging.getLogger(name)
        other.handlers.clear()
        other.propagate = True
    logging.captureWarnings(True)


def take_down() -> None:
    """Undo `set_up`: the levels and handlers of the root and of the project's loggers."""
    root = logging.getLogger()
    for handler in [found for found in root.handlers if isinstance(found, _Handler)]:
        root.removeHandler(handler)
    for name in _OURS:
        logging.getLogger(name).setLevel(logging.NOTSET)
    logging.captureWarnings(False)


class _Writable(Protocol):
    def write(self, text: str, /) -> object: ...


class _Unbuffered:
    """Stderr without a buffer.

    In a buffer stays what a full disk did not take, and whoever flushes next gets the error:
    `multiprocessing` does before it starts a process.
    """

    def write(self, text: str) -> None:
        rest = text.encode("utf-8", "backslashreplace")
        while rest:
            rest = rest[os.write(_STDERR, rest) :]

    def flush(self) -> None:
        pass


def _stderr() -> _Writable:
    """What stderr is by now: a test or a person at a prompt may have put another in its place."""
    return _Unbuffered() if sys.stderr is sys.__stderr__ else sys.stderr


class _Handler(logging.StreamHandler[_Writable]):
    """Tells this module's handler from others."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Say nothing: the standard way prints the record's arguments."""


class _Formatter(logging.Formatter):
    """Writes what a record may tell, and nothing else of it."""

    def __init__(self, store: str) -> None:
        super().__init__()
        self._store = store

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        error = record.exc_info[1] if record.exc_info else None
        found = {"store": self._store}
        if isinstance(error, HanseError):
            found["error_code"] = error.code
        found |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        moment = datetime.fromtimestamp(record.created, UTC)
        table = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _event(record, error),
            **{name: found[name] for name in FIELDS if _is_plain(found.get(name))},
        }
        return json_text(table, indent=None)


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] in _OURS


def _matters(record: logging.LogRecord) -> bool:
    """Other packages set levels of their own."""
    return _is_ours(record) or record.levelno >= logging.WARNING


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float) and value != ""


def _event(record: logging.LogRecord, error: BaseException | None) -> str:
    """A record's words, without what they may quote."""
    if record.name == "py.warnings":
        return "a Python warning"
    text = str(record.msg)
    if isinstance(record.msg, BaseException):
        text = _told(record.msg)
    elif _is_ours(record) and record.args:
        with suppress(TypeError, ValueError, KeyError):  # the template alone is better than none
            text = text % _cleaned(record.args)
    return f"{text}: {_told(error)}" if error is not None else text


def _cleaned(args: Any) -> Any:
    if isinstance(args, dict):
        return {name: _told(value) for name, value in args.items()}
    return tuple(map(_told, args))


def _told(value: object) -> Any:
    return loggable_reason(value) if isinstance(value, BaseException) else value
