"""Pre-trained transformers as the initial weights of a `VisitEncoder`.

Any GPT-2 or BERT checkpoint can be used. Its word table is left out, as visits are vectors. A
checkpoint of `hanse model pretrain` brings its projections of text vectors and facts; for
others the projection is initialised so that visits have the spread of the words.

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
"""Exceptions of `from_pretrained` on damaged files, in addition to Python's own."""

_ABOUT = "hanse"
_GIVE = "use a folder that `hanse model pretrain` wrote, or a GPT-2 or BERT checkpoint"


@dataclass(frozen=True, slots=True)
class _Family:
    """Names of the settings and parameters of a family of transformers."""

    shape: tuple[str, str, str, str]
    """Settings of its width, layers, heads and positions."""
    options: tuple[str, ...]
    """Other settings that affect its computations."""
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
    """The shape and weights of a pre-trained transformer."""

    source: str
    backbone: Literal["gpt2", "bert"]
    n_embd: int
    n_layer: int
    n_head: int
    positions: int
    """Maximum number of visits in a history."""
    options: Mapping[str, Any]
    """Further settings: `InterestConfig.backbone_options`."""
    weights: Mapping[str, Tensor] = field(repr=False)
    token_spread: float
    """Root mean square over all coordinates of its word vectors."""
    projections: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """Weights of the projections by their names in `VisitEncoder`; empty if there are none."""
    encoder: str | None = None
    """The text encoder that the projections were trained with."""

    def fit(self, *, encoder: str, max_steps: int, vector_size: int, visit_facts: int) -> None:
        """Check that the checkpoint can be used with these settings.

        Raises:
            ConfigError: Another text encoder, other facts, or histories that are too long.
        """
        if max_steps > self.positions:
            raise ConfigError(
                f"checkpoint {self.source!r} reads at most {self.positions} visits, but "
                f"model.max_steps={max_steps}",
                hint=f"set model.max_steps = {self.positions}",
            )
        if not self.projections:
            return
        if encoder != self.encoder:
            raise ConfigError(
                f"checkpoint {self.source!r} was trained with the text encoder "
                f"{self.encoder!r}, but model.encoder={encoder!r}",
                hint=f"set model.encoder = {self.encoder!r}, or pre-train again",
            )
        own = tuple(self.projections[name].shape[1] for name in ("text.weight", "facts.weight"))
        if own != (vector_size, visit_facts):
            raise ConfigError(
                f"checkpoint {self.source!r} reads vectors of {own[0]} and {own[1]} facts, "
                f"the model {vector_size} and {visit_facts}",
                hint="pre-train again with this version and encoder; a catalogue's own vectors "
                'go with no such checkpoint (columns = { vector = "" })',
            )

    def shape(self, config: InterestConfig) -> None:
        """Set the transformer's shape in a model's configuration."""
        config.backbone, config.backbone_options = self.backbone, dict(self.options)
        config.n_embd, config.n_layer, config.n_head = self.n_embd, self.n_layer, self.n_head

    def load_into(self, visits: VisitEncoder) -> None:
        """Copy the weights into an encoder of the checkpoint's shape."""
        positions = _FAMILIES[self.backbone].positions
        with torch.no_grad():
            for name, parameter in visits.blocks.named_parameters():
                weight = self.weights[name]
                # Positions beyond the longest history would be noised and never read.
                parameter.copy_(weight[: len(parameter)] if name == positions else weight)
            for name, tensor in self.projections.items():
                visits.get_parameter(name).copy_(tensor)


def read_checkpoint(source: str) -> ModelCheckpoint:
    """Read a pre-trained transformer.

    Args:
        source: A checkpoint's folder, or a hub id if there is a network.

    Raises:
        ConfigError: There is no checkpoint, it is of another family, or weights are missing.
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
            f"checkpoint {source!r} is of the family {kind!r}, which is not supported",
            hint=_GIVE,
        )
    family = _FAMILIES[kind]
    body = _open(source, kind, family)
    weights = {name: tensor.detach() for name, tensor in body.named_parameters()}
    words = weights.pop(family.words)
    if family.kinds is not None:
        # All visits have token type 0; other rows would be noised and never read.
        weights[family.kinds] = weights[family.kinds][:1]
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
    """Write a trained encoder in the format of `read_checkpoint`.

    Args:
        visits: An encoder without adaptation.
        folder: An existing folder.
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
    hint = "is it a complete copy, with config.json and model.safetensors?"
    try:
        logging.set_verbosity_error()  # transformers warns of the missing, unused word table
        with decoding(f"checkpoint {source!r}", ConfigError, *MODEL_ERRORS, hint=hint):
            body, report = AutoModel.from_pretrained(source, output_loading_info=True, **pooler)
    finally:
        logging.set_verbosity(loud)
    # `from_pretrained` fills missing weights with random ones and only warns. The word table may
    # be missing: our checkpoints have none, and it is never read.
    missing = sorted(set(report["missing_keys"]) - {family.words})
    if missing or report.get("mismatched_keys"):
        raise ConfigError(
            f"checkpoint {source!r} lacks weights that its config.json requires"
            + (f", such as {missing[0]!r}" if missing else ""),
            hint="copy the complete folder",
        )
    return cast(PreTrainedModel, body.float())  # checkpoints may be stored in half precision


def _projections(folder: Path) -> tuple[dict[str, Tensor], str | None]:
    path = folder / PROJECTIONS_FILE
    if not path.is_file():
        return {}, None
    with (
        decoding(path, ConfigError, SafetensorError, hint="restore a complete copy"),
        safe_open(path, framework="pt") as file,
    ):
        about = json_object((file.metadata() or {})[_ABOUT])
        names = ("text.weight", "text.bias", "facts.weight")
        return {name: file.get_tensor(name) for name in names}, str(about["encoder"])
