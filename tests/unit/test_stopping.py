"""A signal ends a node's wait at once, and nothing else that it does."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from hanse_client.deployment.heartbeat import beating
from hanse_client.deployment.join import _stopped_by_signal
from hanse_client.deployment.stopping import Stop
from kits.errors import raises


def test_sigterm_ends_a_call_that_would_never_return():
    here, there = socket.socketpair()
    with here, there, _stopped_by_signal() as stop:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with raises("interrupted"), stop.interrupts():
            here.recv(1)  # without a timeout, as on a line that is down
        assert stop.is_set()


def test_sigterm_outside_of_a_wait_only_sets_the_event():
    with _stopped_by_signal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(10)
        with raises("interrupted"), stop.interrupts():
            pytest.fail("the next wait does not begin")


def test_an_event_that_is_set_without_a_signal_interrupts_nothing():
    stop = Stop()
    stop.set()
    with stop.interrupts():
        pass


def test_a_beat_that_hangs_does_not_hold_a_node():
    hanging, begun = threading.Event(), threading.Event()

    def beat() -> None:
        begun.set()
        hanging.wait(60)

    with beating(beat, pause=0.01):
        assert begun.wait(10)
    assert not hanging.is_set(), "the block ended first"
    hanging.set()


def test_packages_draw_no_progress_bar_between_the_lines_of_a_log():
    program = (
        "from hanse_common import logs; logs.set_up()\n"
        "import logging, tqdm, tqdm.auto\n"
        "for bar in (tqdm.tqdm, tqdm.auto.tqdm, tqdm.trange):\n"
        "    list(bar(range(3) if bar is not tqdm.trange else 3))\n"
        "logging.getLogger('hanse_client').info('done')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert [json.loads(line)["event"] for line in done.stderr.splitlines()] == ["done"]
