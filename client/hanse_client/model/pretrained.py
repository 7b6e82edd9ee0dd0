"""A transformer that somebody trained already, as the start of `VisitEncoder`.

Any GPT-2 or BERT checkpoint will do; its table of words is left out, for visits come in as
vectors. Where `hanse model pretrain` wrote it, its projections of text vectors and facts come
along; for any other they are fitted: visits get the spread that its words had.

    <folder>/config.json, model.safetensors   the transformer, as `AutoModel` reads it
    <folder>/projections.safetensors          `hanse model pretrain` only
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from hanse_client.model.backbone import VisitEncoder
from hanse_client.model.config import InterestConfig
from hanse_common.decoding import decoding, json_object
from hanse_common.errors import ConfigError
from hanse_common.paths import PROJECTIONS_FILE

MODEL_ERRORS = (SafetensorError, StrictDataclassError)
"""What `from_pretrained` raises of damaged files, beyond Python's own errors."""

_ABOUT = "hanse"
_GIVE = "give a folder that `hanse model pretrain` wrote, or a GPT-2 or BERT checkpoint"


@dataclass(frozen=True, slots=True)
class _Family:
    """What the parts of a family are called."""

    shape: tuple[str, str, str, str]
    """Settings of its width, layers, heads and positions."""
    options: tuple[str, ...]
    """Other settings that change what it computes."""
    words: str
    positions: str
    kinds: str | None = None


_FAMILIES = {
    "gpt2": _Family(
        ("n_embd", "n_layer", "n_head", "n_positions"),
        (
            "n_inner",
            "activation_function",
            "layer_norm_epsilon",
            "scale_attn_weights",
            "scale_attn_by_inverse_layer_idx",
            "reorder_and_upcast_attn",
        ),
        words="wte.weight",
        positions="wpe.weight",
    ),
    "bert": _Family(
        ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"),
        ("intermediate_size", "hidden_act", "layer_norm_eps"),
        words="embeddings.word_embeddings.weight",
        positions="embeddings.position_embeddings.weight",
        kinds="embeddings.token_type_embeddings.weight",
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCheckpoint:
    """A transformer's shape and weights."""

    source: str
    backbone: Literal["gpt2", "bert"]
    n_embd: int
    n_layer: int
    n_head: int
    positions: int
    """Longest history that it can read."""
    options: Mapping[str, Any]
    """More of its configuration: `InterestConfig.backbone_options`."""
    weights: Mapping[str, Tensor] = field(repr=False)
    token_spread: float
    """Root mean square of its words' vectors, coordinate by coordinate."""
    projections: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """Of text vectors and facts, by their names in `VisitEncoder`; empty if it has none."""
    encoder: str | None = None
    """The text encoder that the projections were trained with."""

    def fit(self, *, encoder: str, max_steps: int, vector_size: int, visit_facts: int) -> None:
        """Refuse a use that the checkpoint is not made for.

        Raises:
            ConfigError: Another text encoder, other facts, or histories that are too long.
        """
        if max_steps > self.positions:
            raise ConfigError(
                f"checkpoint {self.source!r} reads at most {self.positions} visits, and "
                f"model.max_steps={max_steps}",
                hint=f"set model.max_steps = {self.positions}",
            )
        if not self.projections:
            return
        if encoder != self.encoder:
            raise ConfigError(
                f"checkpoint {self.source!r} was trained on texts as {self.encoder!r} embeds "
                f"them, and model.encoder={encoder!r}",
                hint=f"set model.encoder = {self.encoder!r}, or pre-train again",
            )
        own = tuple(self.projections[name].shape[1] for name in ("text.weight", "facts.weight"))
        if own != (vector_size, visit_facts):
            raise ConfigError(
                f"checkpoint {self.source!r} reads {own[0]} numbers of text and {own[1]} facts, "
                f"the model {vector_size} and {visit_facts}",
                hint="pre-train again with this version and encoder",
            )

    def shape(self, config: InterestConfig) -> None:
        """Give a model's configuration the transformer's shape."""
        config.backbone, config.backbone_options = self.backbone, dict(self.options)
        config.n_embd, config.n_layer, config.n_head = self.n_embd, self.n_layer, self.n_head

    def load_into(self, visits: VisitEncoder) -> None:
        """Copy the weights into an encoder of the checkpoint's shape."""
        positions = _FAMILIES[self.backbone].positions
        with torch.no_grad():
            for name, parameter in visits.blocks.named_parameters():
                found = self.weights[name]
                # Positions beyond the longest history would be noised and never read.
                parameter.copy_(found[: len(parameter)] if name == positions else found)
            for name, tensor in self.projections.items():
                visits.get_parameter(name).copy_(tensor)


def read_checkpoint(source: str) -> ModelCheckpoint:
    """Read a transformer to start from.

    Args:
        source: A checkpoint's folder, or a hub id where there is a network.

    Raises:
        ConfigError: There is none, it is of another family, or weights are missing.
    """
    try:
        table, _ = PreTrainedConfig.get_config_dict(source)
    except (OSError, ValueError) as error:
        raise ConfigError(f"there is no checkpoint {source!r}", hint=_GIVE) from error
    if not table:
        raise ConfigError(f"there is no checkpoint {source!r}", hint=_GIVE)
    kind = table.get("model_type")
    if kind not in _FAMILIES:
        raise ConfigError(
            f"checkpoint {source!r} is of the family {kind!r}, which cannot read visits",
            hint=_GIVE,
        )
    family = _FAMILIES[kind]
    body = _open(source, kind, family)
    weights = {name: tensor.detach() for name, tensor in body.named_parameters()}
    words = weights.pop(family.words)
    if family.kinds is not None:
        weights[family.kinds] = weights[family.kinds][:1]  # every visit is of the first kind
    width, layers, heads, positions = (getattr(body.config, name) for name in family.shape)
    projections, encoder = _projections(Path(source))
    return ModelCheckpoint(
        source=source,
        backbone=kind,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        positions=positions,
        options={name: getattr(body.config, name) for name in family.options},
        weights=weights,
        token_spread=float(words.square().mean().sqrt()),
        projections=projections,
        encoder=encoder,
    )


def write_checkpoint(visits: VisitEncoder, folder: Path, *, encoder: str) -> None:
    """Write a trained encoder so that `read_checkpoint` reads it.

    Args:
        visits: Without adaptation.
        folder: It must exist.
        encoder: The text encoder whose vectors it reads.
    """
    blocks = cast(PreTrainedModel, visits.blocks)
    blocks.save_pretrained(folder)
    projections = {
        name: parameter.detach().contiguous()
        for name, parameter in visits.named_parameters()
        if not name.startswith("blocks.")
    }
    about = json.dumps({"encoder": encoder})
    save_file(projections, folder / PROJECTIONS_FILE, metadata={_ABOUT: about})


def _open(source: str, kind: str, family: _Family) -> PreTrainedModel:
    pooler = {"add_pooling_layer": False} if kind == "bert" else {}
    loud = logging.get_verbosity()
    hint = "is it a whole copy, with config.json and model.safetensors?"
    try:
        logging.set_verbosity_error()  # it would warn of words that nobody reads
        with decoding(f"checkpoint {source!r}", ConfigError, *MODEL_ERRORS, hint=hint):
            body, found = AutoModel.from_pretrained(source, output_loading_info=True, **pooler)
    finally:
        logging.set_verbosity(loud)
    # Ours have no words, and nobody reads anybody's.
    missing = sorted(set(found["missing_keys"]) - {family.words})
    if missing or found.get("mismatched_keys"):
        raise ConfigError(
            f"checkpoint {source!r} lacks weights that its config.json asks for"
            + (f", such as {missing[0]!r}" if missing else ""),
            hint="copy it as a whole",
        )
    return cast(PreTrainedModel, body.float())


def _projections(folder: Path) -> tuple[dict[str, Tensor], str | None]:
    path = folder / PROJECTIONS_FILE
    if not path.is_file():
        return {}, None
    with (
        decoding(path, ConfigError, SafetensorError, hint="bring back a whole copy"),
        safe_open(path, framework="pt") as file,
    ):
        about = json_object((file.metadata() or {})[_ABOUT])
        names = ("text.weight", "text.bias", "facts.weight")
        return {name: file.get_tensor(name) for name in names}, str(about["encoder"])
