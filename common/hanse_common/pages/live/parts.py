"""The parts of a live page: what each one reads, and its HTML."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hanse_common.errors import HanseError

if TYPE_CHECKING:
    from jinja2 import Environment

_log = logging.getLogger(__name__)
_UNREADABLE = "live/unreadable.html.j2"

Values = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One part of a page.

    Args:
        name: Its id within the page.
        title: Its heading; empty for the part at the top of the page.
        template: Name of the template that shows the values.
        read: Reads the values. It is called at every update, so slow results must be kept.
        aside: Whether the part stands in the second column of a wide window.
    """

    name: str
    title: str
    template: str
    read: Callable[[], Values]
    aside: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class LivePage:
    """A page.

    Args:
        title: Title of the window.
        product: The command that serves it.
        environment: The templates; see `hanse_common.pages.page_environment`.
        parts: Returns the parts anew for each update, so that they share what they read.
    """

    title: str
    product: str
    environment: Environment
    parts: Callable[[], Sequence[Part]]


def render(part: Part, environment: Environment) -> str:
    """Return the HTML of a part; an error in reading it becomes words in its place."""
    try:
        return environment.get_template(part.template).render(part.read())
    except HanseError as error:
        shown = {"message": error.message, "hint": error.hint, "code": error.code}
    except OSError as error:
        shown = {"message": error.strerror or "a file cannot be read", "hint": "", "code": ""}
    except Exception as error:
        # A page that is watched must outlive every fault of a file. The exception's text may quote
        # the file, so only its kind is shown and logged.
        kind = type(error).__name__
        _log.warning("part %s of the page cannot be shown: %s", part.name, kind)
        shown = {"message": f"a file has an unexpected content ({kind})", "hint": "", "code": ""}
    return environment.get_template(_UNREADABLE).render(shown)
