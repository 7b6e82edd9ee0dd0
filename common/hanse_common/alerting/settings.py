"""`[notify]` of a settings file: who is told of events, and from when on.

    [notify]
    lost_rounds = 3

    [notify.webhook]
    url = "https://hooks.example.org/hanse"
    token_env = "HANSE_WEBHOOK_TOKEN"

    [notify.command]
    argv = ["/usr/local/bin/page", "on-call"]

    [notify.email]
    host = "mail.example.org"
    sender = "hanse@example.org"
    to = ["on-call@example.org"]
    user = "hanse"
    password_file = "mail.password"

A password, a token, or a webhook's address that is a secret itself is in a file that only its
owner can read, or in the environment, and never in the settings.

>>> NotifySettings().ways
()
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, model_validator

from hanse_common.errors import ConfigError
from hanse_common.identity import read_private
from hanse_common.settings_files import Settings

_Address = Annotated[str, StringConstraints(pattern=r"^[^\s@,<>]+@[^\s@,<>]+$", max_length=254)]
_Host = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.:-]+$", max_length=253)]
_Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]


class WebhookSettings(Settings):
    """An HTTPS address that gets the event as JSON."""

    url: str | None = None
    url_file: Path | None = None
    url_env: _Variable | None = None
    """Where the address is, if it is a secret."""
    token_file: Path | None = None
    token_env: _Variable | None = None
    """Where the token for `Authorization: Bearer` is; none is sent if both are unset."""
    seconds: float = Field(default=10.0, gt=0, le=60)
    """Longest time of one try."""

    # After the fields: an error of a whole table does not quote its values, which are secrets.
    @model_validator(mode="after")
    def _one_address(self) -> Self:
        if sum(each is not None for each in (self.url, self.url_file, self.url_env)) != 1:
            raise ValueError("give exactly one of url, url_file and url_env")
        if self.token_file is not None and self.token_env is not None:
            raise ValueError("give token_file or token_env, not both")
        if self.url is not None:
            check_url(self.url)
        return self

    def address(self, folder: Path) -> str:
        """Return the address.

        Raises:
            ConfigError: The variable is unset, or it holds no such address.
            KeyFileError: The file is missing, or readable by others.
        """
        url = self.url or _secret(folder, self.url_file, self.url_env)
        try:
            check_url(url)
        except ValueError as error:
            raise ConfigError(f"notify.webhook: {error}") from None
        return url

    def token(self, folder: Path) -> str:
        """Return the token; empty if there is none.

        Raises:
            ConfigError, KeyFileError: See `address`.
        """
        if self.token_file is None and self.token_env is None:
            return ""
        return _secret(folder, self.token_file, self.token_env)


class CommandSettings(Settings):
    """A program that gets the event as JSON on its standard input; no shell is between."""

    argv: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    seconds: float = Field(default=30.0, gt=0, le=300)
    """Longest time that it may run."""


class EmailSettings(Settings):
    """A mail server, and who gets a letter."""

    host: _Host
    port: int = Field(default=587, ge=1, le=65_535)
    tls: Literal["starttls", "implicit", "none"] = "starttls"
    """`none` is for a relay on this machine."""
    ca: Path | None = None
    """PEM roots of the mail server; those of this machine if unset."""
    sender: _Address
    to: Annotated[tuple[_Address, ...], Field(min_length=1)]
    user: str | None = None
    password_file: Path | None = None
    password_env: _Variable | None = None
    seconds: float = Field(default=20.0, gt=0, le=120)
    """Longest time of one try."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        passwords = sum(each is not None for each in (self.password_file, self.password_env))
        if passwords != (self.user is not None):
            raise ValueError("user goes with exactly one of password_file and password_env")
        if self.tls == "none" and not is_loopback(self.host):
            raise ValueError("tls = 'none' is for a mail server on this machine only")
        return self

    def password(self, folder: Path) -> str:
        """Return the password.

        Raises:
            ConfigError: The variable is unset.
            KeyFileError: The file is missing, or readable by others.
        """
        return _secret(folder, self.password_file, self.password_env)


class NotifySettings(Settings):
    """The table `[notify]`."""

    lost_rounds: int = Field(default=3, ge=1, le=1000)
    """Rounds in a row without a store, after which somebody is told."""
    budget_share: float = Field(default=0.9, gt=0, le=1)
    """Share of a store's `max_epsilon` from which on somebody is told."""
    webhook: WebhookSettings | None = None
    command: CommandSettings | None = None
    email: EmailSettings | None = None

    @property
    def ways(self) -> tuple[str, ...]:
        """The names of the ways that are configured."""
        names = ("webhook", "command", "email")
        return tuple(name for name in names if getattr(self, name) is not None)


def check_url(url: str) -> None:
    """Check that a webhook's address is HTTPS, or on this machine.

    Raises:
        ValueError: It is not; the address, which may be a secret, is not quoted.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        raise ValueError("the webhook's address is not a URL") from None
    if not host or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("the webhook's address is not a URL")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise ValueError("the webhook's address must begin with https://")


def is_loopback(host: str) -> bool:
    """Whether a host name is this machine's loopback."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _secret(folder: Path, file: Path | None, variable: str | None) -> str:
    if file is not None:
        return read_private(folder / file.expanduser()).strip()
    value = os.environ.get(variable or "", "")
    if not value:
        raise ConfigError(
            f"notify: the environment variable {variable} is not set",
            hint="set it for the process that tells, such as in its systemd unit",
        )
    return value.strip()
