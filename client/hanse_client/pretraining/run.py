"""Pre-training on public histories, which writes a checkpoint for `model.checkpoint`.

<folder>/config.json, model.safetensors   the transformer, as `AutoModel` reads it
<folder>/projections.safetensors          the projections of text vectors and facts
<folder>/pretraining.json                 the training data and the losses
<folder>/README.md                        the model card, with the data's licence
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from hanse_client.features.histories import Histories, item_class, prepare
from hanse_client.model.item_texts import encode_texts
from hanse_client.model.pretrained import write_checkpoint
from hanse_client.pretraining.card import write_card
from hanse_client.pretraining.objective import Contents, Objective, Rows, rows_of
from hanse_client.pretraining.public_data import PublicData
from hanse_client.tasks.interest.fresh_model import fresh_model
from hanse_common.config import Level, RunSettings
from hanse_common.durable import is_taken, write_durably
from hanse_common.errors import AlreadyThere, ConfigError, DataError
from hanse_common.paths import CARD_FILE, PRETRAINING_FILE

_MOST_CLASSES = 4096  # contents are dense [B, T, C] tables
_FEWEST_CUSTOMERS = 20  # of fewer, a tenth would be one held-out customer

_HELD_OUT = 0.1
_BATCH = 32
_PATIENCE = 8
"""Training ends after this many epochs without a better loss on held-out customers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretrained:
    """The data, settings and losses of a pre-training, as in `pretraining.json`."""

    folder: str
    data: str
    terms: str
    objective: Objective
    backbone: str
    encoder: str
    level: Level
    customers: int
    visits: int
    classes: int
    left_out: int
    parameters: int
    epochs: int
    """Number of epochs until the best loss."""
    popularity_loss: float
    """Cross-entropy of each class's share on held-out customers, in nats."""
    loss: float
    """Cross-entropy of the trained model on held-out customers, in nats."""


def pretrain(
    public: PublicData,
    settings: RunSettings,
    *,
    folder: Path,
    cache: Path,
    objective: Objective,
    epochs: int,
    learning_rate: float = 1e-3,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
) -> Pretrained:
    """Train on nine tenths of the customers, with early stopping on the others.

    Args:
        public: The training data, which get no privacy protection.
        settings: Encoder, shape and initial weights of the transformer, level of classes, seed.
        folder: The folder to write, which must be empty or not exist.
        cache: Folder in which text vectors are cached.
        objective: causal or masked.
        epochs: Maximum number of epochs.
        learning_rate: Of AdamW.
        on_epoch: Called with the number and held-out loss of every epoch.

    Raises:
        AlreadyThere: The folder is not empty.
        DataError [too-few-customers]: Fewer than 20 have two visits.
        ConfigError: Encoder, checkpoint or folder cannot be used.
    """
    if is_taken(folder):
        raise AlreadyThere(f"{folder} is not empty", hint="choose another --output")
    # The model of visits alone has a transformer that begins elsewhere.
    settings = settings.with_changes({"model.kind": "visits"})
    histories, model, classes = _prepared(public, settings, cache)
    rng = np.random.default_rng(settings.seed)
    able = np.flatnonzero(np.diff(histories.visit_offsets) > 1)
    if len(able) < _FEWEST_CUSTOMERS:
        raise DataError(
            f"{public.name} has {len(able)} customers with two visits or more, but "
            f"{_FEWEST_CUSTOMERS} are needed",
            code="too-few-customers",
            hint="pre-train on more data",
        )
    able = rng.permutation(able)
    held_out, training = np.split(able, [max(1, int(len(able) * _HELD_OUT))])
    steps = settings.model.max_steps

    def batches(customers: npt.NDArray[np.int64], draw: np.random.Generator) -> Iterator[Rows]:
        for first in range(0, len(customers), _BATCH):
            part = customers[first : first + _BATCH]
            yield rows_of(histories, part, len(model.popularity), steps, draw)

    def held_out_loss() -> float:
        # The same windows and hidden visits in every epoch, so that losses are comparable.
        draw, hide = np.random.default_rng(1), torch.Generator().manual_seed(1)
        model.eval()
        with torch.inference_mode():
            losses = [float(model(rows, objective, hide)) for rows in batches(held_out, draw)]
        return float(np.mean(losses))

    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    hide = torch.Generator().manual_seed(settings.seed)
    # Measured before training, when the model predicts by popularity.
    start = held_out_loss()
    best, best_weights, best_epoch = start, copy.deepcopy(model.state_dict()), 0
    for epoch in range(1, epochs + 1):
        model.train()
        for rows in batches(rng.permutation(training), rng):
            optimizer.zero_grad()
            model(rows, objective, hide).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        loss = held_out_loss()
        on_epoch(epoch, loss)
        if loss < best:
            best, best_weights, best_epoch = loss, copy.deepcopy(model.state_dict()), epoch
        elif epoch - best_epoch >= _PATIENCE:
            break
    model.load_state_dict(best_weights)
    done = Pretrained(
        folder=str(folder),
        data=public.name,
        terms=public.terms,
        objective=objective,
        backbone="bert" if model.visits.both_ways else "gpt2",
        encoder=settings.model.encoder,
        level=settings.data.level,
        customers=len(able),
        visits=len(histories.visit_days),
        classes=classes,
        left_out=public.left_out,
        parameters=sum(p.numel() for p in model.visits.parameters()),
        epochs=best_epoch,
        popularity_loss=round(start, 4),
        loss=round(best, 4),
    )
    _write(model, done, folder)
    return done


def _prepared(
    public: PublicData, settings: RunSettings, cache: Path
) -> tuple[Histories, Contents, int]:
    """Histories, the model to train on them, and its number of classes."""
    data, level = public.ingested, settings.data.level
    category = dict(data.catalogue.select("item_id", "category").iter_rows())
    sold = data.events["item_id"].value_counts().sort(["count", "item_id"], descending=True)
    bought: dict[str, int] = {}
    for item, count in sold.iter_rows():
        name = item_class(category[item], item, level)
        bought[name] = bought.get(name, 0) + count
    # By purchases, which a federation must not do: these data are public.
    classes = sorted(sorted(bought, key=lambda name: (-bought[name], name))[:_MOST_CLASSES])
    catalogue = data.catalogue.filter(pl.col("item_id").is_in(sold["item_id"].implode()))
    # Texts alone: with own vectors the checkpoint would fit no catalogue by another encoder.
    catalogue = catalogue.with_columns(vector=pl.lit(None, catalogue.schema["vector"]))
    texts = sorted(catalogue["text"].unique())
    vectors = encode_texts(texts, encoder=settings.model.encoder, cache=cache)
    by_text = dict(zip(texts, vectors, strict=True))
    histories = prepare(
        replace(data, catalogue=catalogue), classes=classes, level=level, text_vectors=by_text
    )
    listed = dict.fromkeys(classes, 1)
    model = fresh_model(catalogue, listed, settings, cache=cache)
    sums = dict.fromkeys(classes, np.zeros(vectors.shape[1], np.float32))
    for item, text in catalogue.select("item_id", "text").iter_rows():
        name = item_class(category[item], item, level)
        if name in sums:
            sums[name] = sums[name] + by_text[text]
    # The direction of a class is the sum of its items' unit vectors.
    vectors_of_classes = torch.nn.functional.normalize(
        torch.from_numpy(np.stack([sums[name] for name in classes])), dim=-1
    )
    # One pseudo-count, so that the logarithm is finite.
    shares = np.bincount(histories.pair_classes, minlength=len(classes)) + 1.0
    popularity = torch.from_numpy(np.log(shares / shares.sum()).astype(np.float32))
    torch.manual_seed(settings.seed)
    # Centred: what all class vectors have in common would shift every score alike.
    centred = vectors_of_classes - vectors_of_classes.mean(0)
    return histories, Contents(model.visits, centred, popularity), len(classes)


def _write(model: Contents, done: Pretrained, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_checkpoint(model.visits, folder, encoder=done.encoder)
        write_card(folder / CARD_FILE, done)
        write_durably(folder / PRETRAINING_FILE, json.dumps(asdict(done), indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror}") from error
