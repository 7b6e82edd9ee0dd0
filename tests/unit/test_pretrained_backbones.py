"""A transformer that somebody trained already becomes the start of ours, or says why not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2Model,
)

from hanse_client.model.item_texts import PACKAGED, checkpoint_folder, encode_texts
from hanse_client.model.pretrained import read_checkpoint, write_checkpoint
from hanse_client.tasks.interest import InterestModel
from hanse_client.tasks.interest.fresh_model import fresh_model
from hanse_common.config import DataSettings, RunSettings
from hanse_common.errors import ConfigError
from kits.errors import raises

LISTED = {"DAIRY/MILK": 2, "DAIRY/BUTTER": 1, "BAKERY/BREAD": 1}


@pytest.fixture(scope="module")
def catalogue():
    import polars as pl

    return pl.DataFrame(
        {
            "item_id": ["1", "2", "3", "4"],
            "text": ["whole milk", "skimmed milk", "butter", "rye bread"],
            "category": ["DAIRY/MILK", "DAIRY/MILK", "DAIRY/BUTTER", "BAKERY/BREAD"],
        }
    )


def settings(**model):
    plain = RunSettings(recipe="x", data=DataSettings(source="synthetic"))
    visits = {"kind": "visits", **model}
    return plain.with_changes({f"model.{name}": value for name, value in visits.items()})


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(1)
    config = GPT2Config(vocab_size=50, n_positions=40, n_embd=24, n_layer=3, n_head=2, n_inner=30)
    GPT2Model(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=50,
        max_position_embeddings=40,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=30,
        hidden_act="relu",
    )
    BertModel(config).save_pretrained(folder)
    return folder


def histories(steps=6):
    generator = torch.Generator().manual_seed(3)
    vectors = torch.randn(2, steps, 384, generator=generator)
    facts = torch.randn(2, steps, 11, generator=generator)
    return vectors, facts, torch.full((2, 1), steps - 1)


@pytest.mark.parametrize(("family", "kind"), [("gpt2", GPT2Model), ("bert", BertModel)])
def test_states_are_those_of_the_transformer_that_was_read(
    family, kind, catalogue, store_cache, request
):
    source = request.getfixturevalue(family)
    model = fresh_model(
        catalogue, LISTED, settings(checkpoint=str(source), max_steps=32), cache=store_cache
    ).eval()
    assert (model.config.backbone, model.config.n_embd, model.config.n_layer) == (family, 24, 3)
    vectors, facts, last = histories()
    original = kind.from_pretrained(source).eval()
    with torch.inference_mode():
        states = model.visits(vectors, facts, last)
        tokens = model.visits.tokens(vectors, facts)
        expected = original(inputs_embeds=tokens).last_hidden_state[:, -1:]
    torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("trainable", ["heads", "top:3", "lora:4"])
def test_the_model_needs_the_checkpoint_never_again(
    gpt2, catalogue, store_cache, tmp_path, trainable
):
    run = settings(checkpoint=str(gpt2), max_steps=32, trainable=trainable)
    model = fresh_model(catalogue, LISTED, run, cache=store_cache).eval()
    model.save_pretrained(tmp_path)
    again = InterestModel.from_pretrained(tmp_path).eval()
    asked = histories()
    with torch.inference_mode():
        assert torch.equal(model.visits(*asked), again.visits(*asked))
    assert again.train_only(trainable) == model.train_only(trainable)


def test_visits_get_the_spread_that_words_had(gpt2, catalogue, store_cache):
    spread = read_checkpoint(str(gpt2)).token_spread
    words = GPT2Model.from_pretrained(gpt2).wte.weight.detach()
    assert spread == pytest.approx(float(words.square().mean().sqrt()))
    model = fresh_model(
        catalogue, LISTED, settings(checkpoint=str(gpt2), max_steps=32), cache=store_cache
    )
    texts = encode_texts(sorted(catalogue["text"]), cache=store_cache)
    with torch.inference_mode():
        tokens = model.visits.text(torch.from_numpy(texts)).numpy()
    # As many coordinates as the texts span are used, each with that spread.
    used = tokens.std(axis=0)[: len(texts) - 1]
    np.testing.assert_allclose(used, spread, rtol=1e-2)


def test_a_checkpoint_of_ours_brings_its_projections(gpt2, catalogue, store_cache, tmp_path):
    run = settings(n_embd=16, n_head=2, n_layer=1)
    trained = fresh_model(catalogue, LISTED, run, cache=store_cache).eval()
    with torch.no_grad():
        for parameter in trained.visits.parameters():
            parameter.add_(0.01)
    write_checkpoint(trained.visits, tmp_path, encoder=PACKAGED)
    other = settings(checkpoint=str(tmp_path)).model_copy(update={"seed": 99})
    found = fresh_model(catalogue, LISTED, other, cache=store_cache).eval()
    asked = histories()
    with torch.inference_mode():
        assert torch.equal(trained.visits(*asked), found.visits(*asked))


def test_minilm_itself_can_read_visits(catalogue, store_cache):
    model = fresh_model(
        catalogue,
        LISTED,
        settings(checkpoint=checkpoint_folder(PACKAGED), trainable="lora:2"),
        cache=store_cache,
    ).eval()
    assert (model.config.backbone, model.config.n_embd) == ("bert", 384)
    with torch.inference_mode():
        assert torch.isfinite(model.visits(*histories())).all()


# What is no start


def refused(source, **model) -> ConfigError:
    with raises("config") as caught:
        found = read_checkpoint(str(source))
        run = settings(checkpoint=str(source), **model)
        found.fit(
            encoder=run.model.encoder,
            max_steps=run.model.max_steps,
            vector_size=384,
            visit_facts=11,
        )
    assert caught.value.hint
    return caught.value


def test_a_folder_that_holds_none(tmp_path):
    assert "there is no checkpoint" in refused(tmp_path).message
    assert "there is no checkpoint" in refused(tmp_path / "nothing").message


def test_another_family(tmp_path):
    DistilBertModel(
        DistilBertConfig(vocab_size=9, dim=8, n_layers=1, n_heads=1, hidden_dim=8)
    ).save_pretrained(tmp_path)
    error = refused(tmp_path)
    assert "'distilbert'" in error.message
    assert "GPT-2 or BERT" in error.hint


def test_weights_that_are_missing_or_damaged(gpt2, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((gpt2 / name).read_bytes())
    weights = load_file(gpt2 / "model.safetensors")
    weights.pop("h.1.mlp.c_fc.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert "h.1.mlp.c_fc.weight" in refused(tmp_path, max_steps=32).message
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    assert "cannot be read" in refused(tmp_path, max_steps=32).message
    (tmp_path / "model.safetensors").unlink()
    assert "cannot be read" in refused(tmp_path, max_steps=32).message


def test_histories_longer_than_it_reads(gpt2):
    assert "max_steps = 40" in refused(gpt2, max_steps=41).hint


def test_another_text_encoder(gpt2, catalogue, store_cache, tmp_path):
    trained = fresh_model(catalogue, LISTED, settings(n_layer=1), cache=store_cache)
    write_checkpoint(trained.visits, tmp_path, encoder="another")
    assert "model.encoder = 'another'" in refused(tmp_path).hint
    (tmp_path / "projections.safetensors").write_bytes(b"\0" * 20)
    assert "cannot be read" in refused(tmp_path).message


@pytest.mark.parametrize("trainable", ["top:4", "lora:25", "adapters:25"])
def test_more_than_the_checkpoint_has(gpt2, catalogue, store_cache, trainable):
    run = settings(checkpoint=str(gpt2), max_steps=32, trainable=trainable)
    with raises("config") as caught:
        fresh_model(catalogue, LISTED, run, cache=store_cache)
    assert caught.value.hint


def test_settings_without_a_checkpoint_know_their_own_shape():
    for trainable in ("top:3", "lora:65", "lora:0", "tops", "lora:-1"):
        with raises("config", match="trainable") as caught:
            settings(trainable=trainable)
        assert "take" in caught.value.hint
    assert settings(trainable="top:3", checkpoint="any").model.trainable == "top:3"
