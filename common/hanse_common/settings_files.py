"""Tables of settings: frozen values that are read from TOML and JSON and checked by pydantic.

An error names the first wrong setting, its value and what is expected; unknown names are errors.
"""

from __future__ import annotations

import reprlib
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from hanse_common.decoding import decoding, json_object
from hanse_common.errors import ConfigError

_LONGEST_SHOWN = 200
_LONGEST_REASON = 600
"""Most characters that an error quotes of a faulty value, and of the reason."""
_SettingsT = TypeVar("_SettingsT", bound="Settings")


class Settings(BaseModel):
    """Base class of tables read from files and messages: frozen; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def is_default(default: object) -> Callable[[object], bool]:
    """For `exclude_if` of a setting that stores of an earlier version do not know.

    They refuse unknown keys, so that it is written only where it says something.
    """
    return lambda value: value == default


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file as plain values.

    Raises:
        ConfigError: The file cannot be read, or is not TOML.
    """
    try:
        return parse_toml(path.read_text(encoding="utf-8"), path)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text") from error


def parse_toml(text: str, path: Path) -> dict[str, Any]:
    """Read TOML as plain values.

    Args:
        text: Content of a file.
        path: The file's name for error messages.

    Raises:
        ConfigError: The text is not TOML.
    """
    try:
        return tomllib.loads(text)
    # Also for integers beyond Python's digit limit (ValueError) and for nesting too deep.
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises:
        ConfigError: The file cannot be read, or holds something else.
    """
    with decoding(path, ConfigError):
        return json_object(path.read_bytes())


def parse_settings(kind: type[_SettingsT], table: Mapping[str, Any]) -> _SettingsT:
    """Validate a table of plain values.

    Raises:
        ConfigError: A setting is wrong; the message names the first one, its value and what is
            expected.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"settings are a table of names and values, not {_shown(table)}")
    try:
        return kind.model_validate(dict(table))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "settings"
        if first["type"] == "extra_forbidden":
            raise ConfigError(
                f"unknown setting {name!r}", hint=f"known: {_known(kind, first['loc'])}"
            ) from error
        reason = first["msg"].removeprefix("Value error, ")[:_LONGEST_REASON]
        # A table is not quoted: its reason names the faulty parts, and it would fill the screen.
        given = "" if isinstance(first["input"], dict) else f"={_shown(first['input'])}"
        raise ConfigError(f"{name}{given}: {reason}") from error


def _shown(value: object) -> str:
    """Return a value shortened for an error message; it may be a long list or a file's text."""
    brief = reprlib.Repr()
    brief.maxstring = brief.maxother = _LONGEST_SHOWN
    return brief.repr(value)


def _known(kind: type[BaseModel], location: tuple[int | str, ...]) -> str:
    """Return the names that are valid where an unknown setting was."""
    for part in location[:-1]:
        field = kind.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return "see the documentation"
        kind = annotation
    return ", ".join(sorted(kind.model_fields))
