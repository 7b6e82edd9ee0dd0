r"""Logs of long-running commands: one JSON object per line on stderr, without customers' data.

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
"""Extras that a line may hold, besides time, level, logger and event; others are dropped."""

_NO_PROGRESS_BARS = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
_STDERR = 2
_OURS = ("hanse_common", "hanse_client", "hanse_server", "hanse_simulations")
_TAKEN_OVER = ("flwr", "uvicorn", "uvicorn.error", "uvicorn.access")
"""Loggers of other packages that have handlers of their own."""


def set_up(*, store: str = "", level: str = "INFO", stream: TextIO | None = None) -> None:
    """Write all log records to stderr, one JSON object per line.

    Args:
        store: The store's id, for every line of a store's process.
        level: Lowest level of Hanse's own records; other packages' are logged from WARNING on.
        stream: The output; stderr if unset.

    Guarantees:
        Of an exception a line holds kind, code and constant words (`loggable_reason`), no
        traceback and no local variable. Of other packages' records it holds the message template
        without its arguments. Extras that are not in `FIELDS` are dropped. Packages that are
        imported later draw no progress bars.

    Edge cases:
        The messages of Hanse's own records are not filtered: their callers must not put data
        in them. A second call replaces the first. Flower adds a handler when it is imported, so
        this must be called after that. A forked or spawned process must call it again.
    """
    # Packages draw progress bars on stderr, between the lines; both read these when imported.
    os.environ.update(_NO_PROGRESS_BARS)
    take_down()  # a second handler would write every line twice
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
    # A list, since removing a handler changes `root.handlers`.
    for handler in [other for other in root.handlers if isinstance(other, _Handler)]:
        root.removeHandler(handler)
    for name in _OURS:
        logging.getLogger(name).setLevel(logging.NOTSET)
    logging.captureWarnings(False)


class _Writable(Protocol):
    def write(self, text: str, /) -> object: ...


class _Unbuffered:
    """Stderr without a buffer.

    If the disk is full, the text would stay in a buffer, and the next code that flushes it would
    get the error: `multiprocessing` flushes before it starts a process.
    """

    def write(self, text: str) -> None:
        rest = text.encode("utf-8", "backslashreplace")
        # `os.write` may write only a part, as to a pipe that is almost full.
        while rest:
            rest = rest[os.write(_STDERR, rest) :]

    def flush(self) -> None:
        pass


def _stderr() -> _Writable:
    """Return the current stderr, which a test or an interactive shell may have replaced."""
    return _Unbuffered() if sys.stderr is sys.__stderr__ else sys.stderr


class _Handler(logging.StreamHandler[_Writable]):
    """This module's handler, of a class of its own so that `take_down` recognises it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Ignore errors: the inherited method prints the record's arguments, which may be data."""


class _Formatter(logging.Formatter):
    """Formats a record as JSON, leaving out everything that may quote data."""

    def __init__(self, store: str) -> None:
        super().__init__()
        self._store = store

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        error = record.exc_info[1] if record.exc_info else None
        extras = {"store": self._store}
        if isinstance(error, HanseError):
            extras["error_code"] = error.code
        extras |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        moment = datetime.fromtimestamp(record.created, UTC)
        table = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _event(record, error),
            **{name: extras[name] for name in FIELDS if _is_plain(extras.get(name))},
        }
        return json_text(table, indent=None)


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] in _OURS


def _matters(record: logging.LogRecord) -> bool:
    """Return whether a record is logged; other packages may lower their loggers' own levels."""
    return _is_ours(record) or record.levelno >= logging.WARNING


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float) and value != ""


def _event(record: logging.LogRecord, error: BaseException | None) -> str:
    """Return a record's message without anything that may quote data."""
    # The text of a warning quotes a line of source code and whatever its library put into it.
    if record.name == "py.warnings":
        return "a Python warning"
    text = str(record.msg)
    if isinstance(record.msg, BaseException):
        text = _safe(record.msg)
    # Without arguments the message must not be formatted: a % in it would be an error.
    elif _is_ours(record) and record.args:
        with suppress(TypeError, ValueError, KeyError):  # the template alone is better than none
            text = text % _cleaned(record.args)
    return f"{text}: {_safe(error)}" if error is not None else text


def _cleaned(args: Any) -> Any:
    if isinstance(args, dict):
        return {name: _safe(value) for name, value in args.items()}
    return tuple(map(_safe, args))


def _safe(value: object) -> Any:
    return loggable_reason(value) if isinstance(value, BaseException) else value
