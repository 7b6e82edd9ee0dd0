"""The three ways to a person: a webhook, a program, an e-mail.

Each way has a time limit and three tries, and raises one error that names no secret: neither an
address nor an answer of the other side is in it.

>>> ways(NotifySettings(), source="baltic", folder=Path())
{}
"""

from __future__ import annotations

import json
import os
import signal
import smtplib
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from email.message import EmailMessage
from email.utils import formatdate
from http.client import HTTPException
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from hanse_common.alerting.events import Event
from hanse_common.alerting.settings import (
    CommandSettings,
    EmailSettings,
    NotifySettings,
    WebhookSettings,
    is_loopback,
)
from hanse_common.alerting.watcher import Way
from hanse_common.errors import HanseError, NotReady

_PAUSES = (1.0, 4.0)
"""Seconds before the second and the third try."""
_PASSING = (408, 429)
"""HTTP statuses below 500 that may be over soon."""


class _Refused(Exception):
    """A failure that another try does not change."""


class _NoRedirect(HTTPRedirectHandler):
    """Follows no redirect, which would take the token to another host."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: object, newurl: str
    ) -> None:
        """Return no request."""


def ways(settings: NotifySettings, *, source: str, folder: Path) -> dict[str, Way]:
    """Return the ways that are configured, by name.

    Args:
        settings: The table `[notify]`.
        source: The federation or the store that tells.
        folder: Folder at which relative paths in the settings begin.

    Returns:
        Functions that tell one event; each raises `NotReady [not-told]`, or an error about the
        secret that it needs.
    """
    made: dict[str, Way] = {}
    if settings.webhook is not None:
        made["webhook"] = _way(_webhook(settings.webhook, source, folder), "the webhook")
    if settings.command is not None:
        made["command"] = _way(_command(settings.command, source), "the command")
    if settings.email is not None:
        made["email"] = _way(_email(settings.email, source, folder), "the mail server")
    return made


def _way(send: Callable[[Event], None], what: str) -> Way:
    """Add tries, and one kind of error, to a function that tells an event once."""

    def tell(event: Event) -> None:
        for pause in (*_PAUSES, None):
            try:
                send(event)
                return
            except HanseError:
                raise
            except Exception as error:
                if pause is None or isinstance(error, _Refused):
                    raise NotReady(
                        f"{what} {_reason(error)}",
                        code="not-told",
                        hint="`… notify --test` tries it again",
                    ) from None
                time.sleep(pause)

    return tell


def _reason(error: Exception) -> str:
    """What went wrong, without the other side's words and without any address."""
    if isinstance(error, HTTPError):
        return f"answers {error.code}"
    if isinstance(error, smtplib.SMTPResponseException):
        return f"answers {error.smtp_code} ({type(error).__name__})"
    inner = error.reason if isinstance(error, URLError) else error
    if isinstance(inner, ssl.SSLCertVerificationError):
        return f"has a certificate that is not trusted: {inner.verify_message}"
    if isinstance(inner, _Refused | TimeoutError):
        return str(inner) if isinstance(inner, _Refused) else "took too long"
    reached = inner.strerror if isinstance(inner, OSError) else None
    return f"cannot be reached: {reached}" if reached else f"failed ({type(inner).__name__})"


def _within(seconds: float, call: Callable[[], None]) -> None:
    """Run a call, and give up on it after some seconds.

    A socket's timeout is for one read: a server that sends a byte now and then would hold the
    call for ever. The thread is a daemon, and what it still does is of no effect.
    """
    errors: list[Exception] = []

    def run() -> None:
        try:
            call()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="alerting-send", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError("took too long")
    if errors:
        raise errors[0]


def _body(event: Event, source: str) -> bytes:
    return json.dumps(event.row(source=source)).encode() + b"\n"


def _webhook(settings: WebhookSettings, source: str, folder: Path) -> Callable[[Event], None]:
    def send(event: Event) -> None:
        url, token = settings.address(folder), settings.token(folder)
        headers = {"Content-Type": "application/json", "User-Agent": "hanse"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        request = Request(url, data=_body(event, source), headers=headers, method="POST")
        # The environment's proxy, but not for this machine.
        direct = [ProxyHandler({})] if is_loopback(urlsplit(url).hostname or "") else []
        opener = build_opener(_NoRedirect, *direct)

        def post() -> None:
            try:
                with opener.open(request, timeout=settings.seconds):
                    pass  # the answer's body is of no interest, and is not read
            except HTTPError as error:
                error.close()
                if error.code < 500 and error.code not in _PASSING:
                    raise _Refused(f"answers {error.code}") from None
                raise
            except (HTTPException, ValueError) as error:
                raise _Refused(f"failed ({type(error).__name__})") from None

        _within(settings.seconds, post)

    return send


def _command(settings: CommandSettings, source: str) -> Callable[[Event], None]:
    def send(event: Event) -> None:
        try:
            process = subprocess.Popen(
                settings.argv,
                stdin=subprocess.PIPE,
                # Its output is not ours to log.
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise _Refused(f"cannot be started: {error.strerror}") from None
        try:
            process.communicate(_body(event, source), timeout=settings.seconds)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                if hasattr(os, "killpg"):  # the group: it may have started others
                    os.killpg(process.pid, signal.SIGKILL)
                else:
                    process.kill()
            process.wait()
            raise TimeoutError("took too long") from None
        if process.returncode:
            raise _Refused(f"ended with status {process.returncode}")

    return send


def _email(settings: EmailSettings, source: str, folder: Path) -> Callable[[Event], None]:
    def send(event: Event) -> None:
        password = "" if settings.user is None else settings.password(folder)
        letter = _letter(event, settings, source)

        def post() -> None:
            trust = ssl.create_default_context(cafile=settings.ca and folder / settings.ca)
            server: smtplib.SMTP
            if settings.tls == "implicit":
                server = smtplib.SMTP_SSL(
                    settings.host, settings.port, timeout=settings.seconds, context=trust
                )
            else:
                server = smtplib.SMTP(settings.host, settings.port, timeout=settings.seconds)
            with server:
                if settings.tls == "starttls":
                    # It raises where the server offers no TLS: nothing is sent in the clear.
                    server.starttls(context=trust)
                if settings.user is not None:
                    server.login(settings.user, password)
                server.send_message(letter)

        try:
            _within(settings.seconds, post)
        except (smtplib.SMTPAuthenticationError, smtplib.SMTPNotSupportedError) as error:
            raise _Refused(_reason(error)) from None

    return send


def _letter(event: Event, settings: EmailSettings, source: str) -> EmailMessage:
    row = event.row(source=source)
    letter = EmailMessage()
    letter["Subject"] = f"[hanse] {source}: {row['title']}: {row['subject']}"[:200]
    letter["From"] = settings.sender
    letter["To"] = ", ".join(settings.to)
    letter["Date"] = formatdate(localtime=False)
    letter["Auto-Submitted"] = "auto-generated"  # RFC 3834: no vacation replies
    lines = (f"{row['title']}: {row['subject']}", row["message"], f"Next: {row['next']}")
    letter.set_content("\n\n".join(lines) + f"\n\n{row['time']}, {source}\n")
    return letter
