"""`hanse model explain`: credits add up, go to the visits behind them, and stay private."""

import json
import re

import numpy as np
import pytest
import torch

from hanse_client.inference.attribution import attribute
from hanse_client.inference.choices import When
from hanse_client.inference.load import open_model, open_store
from hanse_client.inference.predict import moment_of
from kits.errors import raises
from kits.trained import ask, is_private, node, run  # noqa: F401


def changed(trained, *, all_layers):
    """As after training: the rules moved, or every layer."""
    trained.model.basket.start_from_own_frequency()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in trained.model.named_parameters():
            rules = ("basket.repeat.", "basket.habit.", "basket.popularity.")
            if all_layers or name.startswith(rules):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return trained


@pytest.mark.parametrize("all_layers", [False, True])
def test_credits_add_up_to_the_difference_from_an_empty_history(run, node, all_layers):
    trained = changed(open_model(run), all_layers=all_layers)
    store = open_store(node.folder, trained)
    moment = moment_of(store, When.LATEST, None)
    customer = int(store.histories.active()[0])
    for category in (0, 3):
        found = attribute(
            store.histories, trained.model, customer=customer, category=category, moment=moment
        )
        assert found.uses_transformer == all_layers
        tolerance = 0.01 * max(abs(found.difference), 1.0)
        assert found.left_over == pytest.approx(0.0, abs=tolerance)
        assert found.by_visit.sum() == pytest.approx(sum(found.by_feature.values()), abs=tolerance)
        assert len(found.by_visit) == len(found.visits)


def test_visits_without_the_category_carry_next_to_nothing_of_an_untrained_score(run, node):
    trained = open_model(run)
    trained.model.basket.start_from_own_frequency()
    store = open_store(node.folder, trained)
    histories = store.histories
    customer = int(histories.active()[0])
    first, stop = histories.visit_offsets[customer : customer + 2]
    pairs = slice(histories.pair_offsets[first], histories.pair_offsets[stop])
    category = int(np.bincount(histories.pair_classes[pairs]).argmax())
    moment = moment_of(store, When.LATEST, None)
    found = attribute(histories, trained.model, customer=customer, category=category, moment=moment)
    holds = np.array(
        [
            category in histories.pair_classes[slice(*histories.pair_offsets[v : v + 2])]
            for v in found.visits
        ]
    )
    assert np.abs(found.by_visit[~holds]).max(initial=0) < 1e-6
    assert (found.by_visit[holds] > 0).all()
    latest = found.by_visit[holds]
    assert (np.diff(latest) > 0).all()  # the later, the more it counts


def test_the_page_is_private_and_says_that_the_transformer_is_silent(run, node, tmp_path):
    trained = changed(open_model(run), all_layers=False)
    trained.model.save_pretrained(tmp_path / "model")
    run = tmp_path / "model"
    user, page = str(node.histories.customers[0]), tmp_path / "why.html"
    store = ("--store", node.folder, "--user", user)
    printed = ask("explain", run, *store, "--output", page, "--format", "json").stdout
    assert user not in printed
    files = json.loads(printed)
    assert is_private(page)
    assert is_private(tmp_path / "why.html.json")
    text, plain = page.read_text(), json.loads((tmp_path / "why.html.json").read_text())
    assert files["json"] == str(tmp_path / "why.html.json")
    assert user in text
    assert plain["user_id"] == user
    assert "does not use its transformer" in plain["says"]
    assert "does not use its transformer" in text
    assert not re.search(r"(src|href)=.http", text)
    assert sum(v["carries"] for v in plain["visits"]) == pytest.approx(
        plain["difference"], abs=0.01 * max(abs(plain["difference"]), 1)
    )


def test_whom_and_what_nobody_knows_is_refused(run, node, tmp_path):
    user, page = str(node.histories.customers[0]), tmp_path / "why.html"
    for words, code in (
        (("--user", "nobody"), "unknown-customer"),
        (("--user", user, "--category", "MOON/CHEESE"), "unknown-category"),
    ):
        with raises(code):
            ask("explain", run, "--store", node.folder, *words, "--output", page)
    assert not page.exists()
