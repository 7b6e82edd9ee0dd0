"""Key files and certificates: what is refused, and how it says so."""

from __future__ import annotations

import os
import pickle
import stat

import pytest

from hanse_common.identity import (
    AuthorityKey,
    Certificate,
    StoreKey,
    check_store_id,
    fingerprint,
    verify,
)
from kits.errors import raises


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o377])
def test_key_files_are_for_their_owner_only(tmp_path, umask):
    path = tmp_path / "store.key"
    before = os.umask(umask)
    try:
        key = StoreKey.generate()
        key.save(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert StoreKey.load(path).public == key.public


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o601, 0o777])
def test_a_key_file_that_others_can_touch_is_refused(tmp_path, mode):
    path = tmp_path / "store.key"
    StoreKey.generate().save(path)
    path.chmod(mode)
    with raises("key-file", match=f"{mode:04o}") as refusal:
        StoreKey.load(path)
    assert refusal.value.hint.startswith(f"chmod 600 {path}")


def test_a_read_only_key_file_is_fine(tmp_path):
    path = tmp_path / "store.key"
    StoreKey.generate().save(path)
    path.chmod(0o400)
    StoreKey.load(path)


def test_a_key_is_never_overwritten(tmp_path):
    path = tmp_path / "store.key"
    key = StoreKey.generate()
    key.save(path)
    with raises("key-file", match="exists"):
        StoreKey.generate().save(path)
    assert StoreKey.load(path).public == key.public


def test_a_missing_key_file(tmp_path):
    with raises("key-file"):
        StoreKey.load(tmp_path / "store.key")
    with raises("key-file"):
        StoreKey.generate().save(tmp_path / "nowhere" / "store.key")


def test_keys_of_one_kind_are_not_loaded_as_the_other(tmp_path):
    path = tmp_path / "authority.key"
    AuthorityKey.generate().save(path)
    with raises("key-file", match="store-key"):
        StoreKey.load(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"hanse-store-key-1", b"hanse-store-key-1 zz", b"hanse-store-key-1 00ff"],
)
def test_other_content_is_refused(tmp_path, content):
    path = tmp_path / "store.key"
    path.touch(0o600)
    path.write_bytes(content)
    with raises("key-file", match="is not a"):
        StoreKey.load(path)


def test_private_keys_hide(tmp_path):
    key = StoreKey.generate()
    path = tmp_path / "store.key"
    key.save(path)
    private = path.read_text().split()[1]
    assert private not in repr(key) and private not in str(vars(key))
    with raises("key-file", match="pickled"):
        pickle.dumps(key)


def test_certificate_files_come_back(tmp_path):
    authority, store = AuthorityKey.generate(), StoreKey.generate()
    certificate = authority.certify("bremen", store.public, valid_from=1, valid_until=2)
    certificate.save(tmp_path / "store.cert")
    assert Certificate.load(tmp_path / "store.cert") == certificate


@pytest.mark.parametrize("content", ["", "hanse-certificate-1 zz", "other 00", "\xff"])
def test_other_certificate_files_are_refused(tmp_path, content):
    (tmp_path / "store.cert").write_text(content, encoding="latin-1")
    with raises("key-file", match="certificate"):
        Certificate.load(tmp_path / "store.cert")


def test_a_missing_certificate_file(tmp_path):
    with raises("key-file"):
        Certificate.load(tmp_path / "store.cert")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"valid_from": 5, "valid_until": 5}, "valid_from=5"),
        ({"valid_from": -1}, "valid_from=-1"),
        ({"node_key": b"short"}, "node_key 5"),
    ],
)
def test_certificates_that_make_no_sense(changes, words):
    fields = {"valid_from": 1, "valid_until": 9} | changes
    with raises("bad-certificate", match=words):
        AuthorityKey.generate().certify("bremen", bytes(32), **fields)


@pytest.mark.parametrize("name", ["a", "luebeck", "store-007", "shop.1_a", "0" * 64])
def test_store_ids(name):
    assert check_store_id(name) == name


@pytest.mark.parametrize("name", ["", "A", "-a", "a-", "a b", "a/b", "lübeck", "a" * 65, "a\n"])
def test_other_store_ids_are_refused(name):
    with raises("malformed-message"):
        check_store_id(name)


def test_labels_separate_signatures():
    key = StoreKey.generate()
    signature = key.sign(b"one", b"payload")
    verify(key.public, signature, b"one", b"payload")
    for label, payload in ((b"two", b"payload"), (b"onep", b"ayload"), (b"one", b"payloae")):
        with raises("bad-signature"):
            verify(key.public, signature, label, payload)


def test_fingerprints_read_aloud():
    assert fingerprint(bytes(32)).startswith("6668:7aad:f862:bd77")
