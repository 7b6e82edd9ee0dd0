"""Somebody is told: each way with a real server at its end, and each event once."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from email import message_from_string
from email.policy import default

import pytest

from hanse_common.alerting.delivery import ways
from hanse_common.alerting.events import EVENTS, Event, expiring
from hanse_common.alerting.settings import NotifySettings
from hanse_common.alerting.watcher import Watcher
from hanse_common.monitoring.service_manager import ServiceManager
from hanse_common.settings_files import parse_settings
from kits.alerting import Datagrams, MailServer, Webhook
from kits.apps.deployment import make_tls
from kits.errors import raises

EVENT = Event(kind="run-failed", subject="spring", message="it failed [round-failed]\r\nBcc: a@b")
SECRET = "open sesame"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr("hanse_common.alerting.delivery._PAUSES", (0.0, 0.0))


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mail") / "tls"
    make_tls(folder)
    return folder


def way(table, folder, name):
    return ways(parse_settings(NotifySettings, {name: table}), source="baltic", folder=folder)[name]


# The webhook


def test_a_webhook_gets_the_event_and_the_token(tmp_path, monkeypatch):
    hook = Webhook()
    monkeypatch.setenv("TOKEN", SECRET)
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    way({"url": hook.url, "token_env": "TOKEN"}, tmp_path, "webhook")(EVENT)
    (body,) = hook.bodies
    assert {key: body[key] for key in ("version", "event", "source", "subject", "next")} == {
        "version": 1,
        "event": "run-failed",
        "source": "baltic",
        "subject": "spring",
        "next": "hanse server status",
    }
    assert set(body) == {
        *("version", "event", "source", "subject", "title", "message", "next", "time")
    }
    assert "\r" not in body["message"]
    assert hook.headers[0]["authorization"] == f"Bearer {SECRET}"


def test_an_address_that_is_a_secret_is_in_a_private_file(tmp_path):
    hook = Webhook()
    (tmp_path / "hook").write_text(hook.url + "\n")
    (tmp_path / "hook").chmod(0o644)
    tell = way({"url_file": "hook"}, tmp_path, "webhook")
    with raises("key-file", match="can be read by others"):
        tell(EVENT)
    (tmp_path / "hook").chmod(0o600)
    tell(EVENT)
    assert len(hook.bodies) == 1


@pytest.mark.parametrize(
    ("statuses", "tries", "told"),
    [((503, 429, 200), 3, True), ((503,), 3, False), ((404,), 1, False), ((302,), 1, False)],
)
def test_a_webhook_is_tried_three_times_where_that_may_help(tmp_path, statuses, tries, told):
    hook = Webhook(*statuses)
    tell = way({"url": hook.url}, tmp_path, "webhook")
    if told:
        tell(EVENT)
    else:
        with raises("not-told", match=str(statuses[-1])) as caught:
            tell(EVENT)
        assert hook.url not in str(caught.value)
    assert len(hook.bodies) == tries


def test_a_webhook_that_drips_is_given_up(tmp_path):
    hook = Webhook(slow=0.05)
    with raises("not-told", match="took too long"):
        way({"url": hook.url, "seconds": 0.3}, tmp_path, "webhook")(EVENT)


# The command


def test_a_command_gets_the_event_on_its_input_and_no_shell_is_between(tmp_path):
    program = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_bytes(sys.stdin.buffer.read())"
    target = tmp_path / "got; touch never"
    argv = [sys.executable, "-c", program, str(target)]
    way({"argv": argv}, tmp_path, "command")(EVENT)
    assert json.loads(target.read_text())["event"] == "run-failed"
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


@pytest.mark.parametrize(
    ("program", "words"),
    [("raise SystemExit(7)", "status 7"), ("import time; time.sleep(60)", "took too long")],
)
def test_a_command_that_fails_or_hangs_is_said(tmp_path, program, words):
    argv = [sys.executable, "-c", program]
    with raises("not-told", match=words):
        way({"argv": argv, "seconds": 1.0}, tmp_path, "command")(EVENT)


def test_a_command_that_is_not_there_is_said(tmp_path):
    with raises("not-told", match="cannot be started"):
        way({"argv": [str(tmp_path / "none")]}, tmp_path, "command")(EVENT)


# E-mail


def mail(server, folder, **more):
    return {
        "host": "localhost",
        "port": server.port,
        "ca": str(folder / "ca.crt"),
        "sender": "hanse@example.org",
        "to": ["one@example.org", "two@example.org"],
        "user": "hanse",
        "password_env": "MAIL",
        **more,
    }


@pytest.mark.parametrize("implicit", [False, True])
def test_a_letter_goes_over_tls_only(tls, monkeypatch, implicit):
    server = MailServer(tls, implicit=implicit)
    monkeypatch.setenv("MAIL", SECRET)
    kind = {"tls": "implicit" if implicit else "starttls"}
    way(mail(server, tls, **kind), tls, "email")(EVENT)
    (text,) = server.letters
    letter = message_from_string(text, policy=default)
    assert letter["Subject"] == "[hanse] baltic: A run has failed: spring"
    assert letter["To"] == "one@example.org, two@example.org" and letter["Bcc"] is None
    assert "Next: hanse server status" in letter.get_content()
    assert not any(line.startswith(("AUTH", "MAIL")) for line in server.heard_in_the_clear)


def test_without_tls_nothing_is_sent(tls, monkeypatch):
    server = MailServer(tls, offers_tls=False)
    monkeypatch.setenv("MAIL", SECRET)
    with raises("not-told"):
        way(mail(server, tls), tls, "email")(EVENT)
    assert not server.letters
    assert not any(line.startswith(("AUTH", "MAIL")) for line in server.heard_in_the_clear)


def test_a_mail_server_of_another_root_gets_nothing(tls, tmp_path, monkeypatch):
    server = MailServer(tls)
    make_tls(tmp_path / "other")
    monkeypatch.setenv("MAIL", SECRET)
    with raises("not-told", match="not trusted"):
        way(mail(server, tmp_path / "other"), tls, "email")(EVENT)
    assert not server.letters


def test_a_wrong_password_is_said_once_and_never_shown(tls, monkeypatch):
    server = MailServer(tls, password="another")
    monkeypatch.setenv("MAIL", SECRET)
    with raises("not-told", match="535") as caught:
        way(mail(server, tls), tls, "email")(EVENT)
    assert SECRET not in str(caught.value) and "secret words" not in str(caught.value)


# Settings


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("webhook", {}),
        ("webhook", {"url": f"http://hooks.example.org/{SECRET}"}),
        ("webhook", {"url": f"ftp://{SECRET}"}),
        ("webhook", {"url": "https://a.example", "url_env": "HOOK"}),
        ("webhook", {"url": "https://a.example", "token": SECRET}),
        ("command", {"argv": []}),
        ("command", {"argv": "page on-call"}),
        ("email", {"host": "a", "sender": "a@b", "to": ["a@b"], "user": "u"}),
        ("email", {"host": "a", "sender": "a@b", "to": ["a@b"], "tls": "none"}),
        ("email", {"host": "a", "sender": "a@b", "to": ["a@b\r\nBcc: c@d"]}),
        ("pager", {}),
    ],
)
def test_a_setting_that_is_wrong_is_refused_without_its_secret(name, table):
    with raises("config") as caught:
        parse_settings(NotifySettings, {name: table})
    assert "url" not in table or SECRET not in str(caught.value)


def test_a_variable_that_is_not_set_is_named(tmp_path):
    with raises("config", match="HOOK"):
        way({"url_env": "HOOK"}, tmp_path, "webhook")(EVENT)


# Events and the thread that looks for them


def test_every_kind_of_event_has_a_title_and_a_next_command():
    for name, kind in EVENTS.items():
        event = Event(kind=name, subject="x", message="y")
        assert kind.title and event.row(source="s")["next"] == kind.command


def test_a_certificate_is_told_of_at_thirty_days_seven_one_and_none():
    day, keys = 86_400, []
    for left in range(40 * 24, -24, -6):
        keys += [e.key for e in expiring("tls-near-end", "it", left * 3600.0 + 1, now=0.0)]
    assert list(dict.fromkeys(keys)) == [f"tls-near-end it {step}" for step in (30, 7, 1, 0)]
    assert not list(expiring("tls-near-end", "it", 31.0 * day, now=0.0))


class Told:
    """A way that remembers, and fails as often as it is asked to."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.fails = 0

    def __call__(self, event: Event) -> None:
        from hanse_common.errors import NotReady

        if self.fails:
            self.fails -= 1
            raise NotReady(f"not now, {SECRET} or not", code="not-told")
        self.keys.append(event.key)


def test_an_event_is_told_once_until_it_is_over_also_after_a_restart(tmp_path, caplog):
    told, now = Told(), [EVENT]

    def watcher():
        return Watcher(lambda: list(now), told=tmp_path / "told.json", ways={"one": told})

    first = watcher()
    first.look()
    first.look()
    watcher().look()
    assert told.keys == [EVENT.key]
    now.clear()
    first.look()
    now.append(EVENT)
    first.look()
    assert told.keys == [EVENT.key] * 2
    assert "A run has failed: spring" in caplog.text and "\r" not in caplog.text


def test_a_way_that_fails_is_tried_again_later_and_the_others_are_not_told_twice(
    tmp_path, monkeypatch, caplog
):
    flaky, sound = Told(), Told()
    flaky.fails = 1
    watcher = Watcher(
        lambda: [EVENT], told=tmp_path / "told.json", ways={"flaky": flaky, "sound": sound}
    )
    watcher.look()
    watcher.look()
    assert (flaky.keys, sound.keys) == ([], [EVENT.key]), "not at once again"
    monkeypatch.setattr(watcher, "_not_before", {})
    watcher.look()
    assert (flaky.keys, sound.keys) == ([EVENT.key], [EVENT.key])
    assert "nobody was told by flaky" in caplog.text


def test_errors_of_looking_end_nothing(tmp_path, caplog):
    looked = threading.Event()

    def read():
        looked.set()
        raise KeyError("Ada")

    with caplog.at_level(logging.WARNING):
        with Watcher(read, told=tmp_path / "told.json", ways={}, seconds=0.01):
            assert looked.wait(10)
        with Watcher(lambda: [EVENT], told=tmp_path / "no" / "told.json", ways={}) as watcher:
            watcher.look()
    assert "cannot keep what was told" in caplog.text


# The service manager


def test_the_watchdog_is_fed_only_while_the_command_goes_on(tmp_path):
    heard = Datagrams(tmp_path / "notify")
    environment = {
        "NOTIFY_SOCKET": str(heard.path),
        "WATCHDOG_USEC": "30000",
        "WATCHDOG_PID": "1",
        "HOME": "/",
    }
    silent = ServiceManager.of_environment(dict(environment))
    silent.ready("up\x1b[31m")
    time.sleep(0.1)
    assert heard.read() == ["READY=1\nSTATUS=up\\x1b[31m"], "the watchdog is another process's"
    del environment["WATCHDOG_PID"]
    manager = ServiceManager.of_environment(environment)
    assert environment == {"HOME": "/"}, "child processes must not speak for this one"
    time.sleep(0.1)
    assert "WATCHDOG=1" in heard.read()
    manager.expect(-1.0)
    time.sleep(0.05)
    heard.read()
    time.sleep(0.1)
    assert heard.read() == [], "it is stuck"
    manager.expect(60.0)
    time.sleep(0.1)
    assert "WATCHDOG=1" in heard.read()


def test_a_service_manager_that_is_gone_stops_nothing(tmp_path):
    ServiceManager(str(tmp_path / "gone")).ready("up")
    ServiceManager("@hanse-no-such-socket").status("up")
    ServiceManager().stopping()
