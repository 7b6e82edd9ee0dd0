import json

import numpy as np
import pytest

from hanse_common.durable import write_durably
from hanse_server.checkpoint import (
    RunCheckpoint,
    check_resumable,
    latest_checkpoint,
    read_arrays,
    save_checkpoint,
    settings_digest,
    significant_settings,
    write_arrays,
)
from kits.apps.federations import make_settings
from kits.errors import raises

SETTINGS = make_settings()


def checkpoint(number, settings=SETTINGS):
    return RunCheckpoint(
        round=number,
        arrays={"w": np.full((2, 3), number, np.float32), "scalar": np.ones((), np.float32)},
        strategy={"m_t/w": np.full((2, 3), -number, np.float64)} if number else {},
        settings=significant_settings(settings),
    )


def test_comes_back_as_it_was(tmp_path):
    place = save_checkpoint(tmp_path, checkpoint(7))
    assert place == tmp_path / "checkpoints" / "round-0007"
    assert sorted(part.name for part in place.iterdir()) == [
        "arrays.safetensors",
        "state.json",
        "strategy.safetensors",
    ]
    last = latest_checkpoint(tmp_path)
    assert last.round == 7
    assert last.arrays["w"].tolist() == [[7.0] * 3] * 2
    assert last.arrays["scalar"].shape == ()
    assert last.strategy["m_t/w"].dtype == np.float64
    state = json.loads((place / "state.json").read_text())
    assert state["settings_digest"] == settings_digest(significant_settings(SETTINGS))


def test_keeps_the_last_two(tmp_path):
    for number in (8, 9, 10, 11):
        save_checkpoint(tmp_path, checkpoint(number))
    names = sorted(entry.name for entry in (tmp_path / "checkpoints").iterdir())
    assert names == ["round-0010", "round-0011"]


def test_none_yet(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    with raises("run-not-resumable"):
        check_resumable(None, SETTINGS)


def _without_state(place):
    (place / "state.json").unlink()


def _cut_off(place):
    path = place / "arrays.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def _bad_state(place):
    (place / "state.json").write_text('{"round": 2, "sett')


@pytest.mark.parametrize("damage", [_without_state, _cut_off, _bad_state])
def test_passes_over_a_damaged_one(tmp_path, damage):
    save_checkpoint(tmp_path, checkpoint(1))
    damage(save_checkpoint(tmp_path, checkpoint(2)))
    assert latest_checkpoint(tmp_path).round == 1


def test_a_crash_while_writing_leaves_the_one_before(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, checkpoint(1))

    def crash(path, data, **_):
        if path.name == "state.json":
            raise KeyboardInterrupt
        write_durably(path, data)

    with monkeypatch.context() as patch:
        patch.setattr("hanse_server.checkpoint.write_durably", crash)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, checkpoint(2))
    assert latest_checkpoint(tmp_path).round == 1
    save_checkpoint(tmp_path, checkpoint(2))
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_replaces_one_of_the_same_round(tmp_path):
    save_checkpoint(tmp_path, checkpoint(1))
    save_checkpoint(tmp_path, checkpoint(1))
    assert latest_checkpoint(tmp_path).round == 1


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    with raises("run-directory", match="round-0001"):
        save_checkpoint(tmp_path, checkpoint(1))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 8}, "seed was 7 and is 8"),
        ({"federation.rounds": 9}, "federation.rounds was 4 and is 9"),
        ({"training.learning_rate": 0.5}, "training.learning_rate was 0.1 and is 0.5"),
        (
            {"federation.strategy_options": {"min_train_nodes": 3}},
            "federation.strategy_options.min_train_nodes was None and is 3",
        ),
    ],
)
def test_a_changed_setting_is_named(changes, words):
    with raises("run-not-resumable", match=words):
        check_resumable(checkpoint(1), SETTINGS.with_changes(changes))


def test_compute_may_change():
    changed = SETTINGS.with_changes({"compute.engine": "ray", "compute.workers": 7})
    assert check_resumable(checkpoint(1), changed).round == 1


def test_arrays_need_not_be_contiguous(tmp_path):
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T
    write_arrays(tmp_path / "a.safetensors", {"a": array})
    assert read_arrays(tmp_path / "a.safetensors")["a"].tolist() == array.tolist()
