"""What the core may import, and what it must never show."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys

import pytest

from hanse_common import errors
from hanse_common.secagg.keys import ExchangeKey, Secret
from kits.errors import raises
from kits.federation import STAGES, Federation


def test_importing_the_core_takes_numpy_and_cryptography_only():
    code = (
        "import sys; before = set(sys.modules); import hanse_common.secagg; "
        "print(*sorted({m.partition('.')[0] for m in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    outside = {
        name
        for name in done.stdout.split()
        if name not in sys.stdlib_module_names and not name.startswith("_")
    }
    assert outside == {"numpy", "cryptography", "hanse_common"}


@pytest.mark.parametrize("stage", STAGES[1:])
def test_no_secret_in_any_repr_or_log(stage, caplog):
    caplog.set_level(logging.DEBUG)
    federation = Federation(5)
    federation.up_to("hello")
    secrets: set[bytes] = set()
    for name in federation.names:
        federation.start(name)
        state = federation.stores[name]._state
        secrets |= {key.secret.reveal() for key in (state.mask_key, state.share_key)}
        secrets.add(state.seed.reveal())
        federation.receive(federation.stores[name].hello)
    outgoing = federation.coordinator.advance()
    for current in STAGES[1 : STAGES.index(stage) + 1]:
        replies = [federation.reply(name, message) for name, message in outgoing.items()]
        for store in federation.stores.values():
            held = store._state
            for kept in (held.channels, held.pairs, held.mask_key_shares, held.seed_shares):
                secrets |= {secret.reveal() for secret in kept.values()}
        for reply in replies:
            federation.receive(reply)
        if current != "unmask":
            outgoing = federation.coordinator.advance()
    shown = caplog.text + "".join(
        repr(thing)
        for store in federation.stores.values()
        for thing in (store, store._state, vars(store), federation.coordinator, *replies)
    )
    for secret in secrets:
        assert secret.hex() not in shown and repr(secret)[2:-1] not in shown


def test_secrets_do_not_print_pickle_or_come_back():
    secret = Secret(b"\x41" * 32)
    assert "A" * 4 not in repr(secret) and "41" * 4 not in repr(secret)
    with raises("protocol", match="pickled"):
        pickle.dumps(secret)
    buffer = secret._data
    assert secret == Secret(b"\x41" * 32) and secret != Secret(b"\x42" * 32)
    secret.wipe()
    assert secret.wiped and bytes(buffer) == bytes(32) and repr(secret) == "Secret(<wiped>)"
    with raises("protocol", match="wiped"):
        secret.reveal()
    key = ExchangeKey(b"\x41" * 32)
    assert "AAAA" not in repr(key) and (b"\x41" * 32).hex() not in repr(key)


def test_errors_survive_pickling_with_their_culprits():
    error = errors.BadSum("x", code="forged-vector", hint="y", culprits=("store-001",))
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.code) == (errors.BadSum, "forged-vector")
    assert (again.message, again.hint, again.culprits) == ("x", "y", ("store-001",))
