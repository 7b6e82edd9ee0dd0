"""Pre-train a transformer on public histories, and write it where a federation can start from it.

<folder>/config.json, model.safetensors   the transformer, as `AutoModel` reads it
<folder>/projections.safetensors          how it reads text vectors and facts of visits
<folder>/pretraining.json                 what it was trained on, and how well it learnt
<folder>/README.md                        the same for people, with the data's licence
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
from hanse_client.model.base_model import fresh_model
from hanse_client.model.item_texts import encode_texts
from hanse_client.model.pretrained import write_checkpoint
from hanse_client.pretraining.card import write_card
from hanse_client.pretraining.objective import Contents, Objective, Rows, rows_of
from hanse_client.pretraining.public_data import PublicData
from hanse_common.config import Level, RunSettings
from hanse_common.durable import write_durably
from hanse_common.errors import AlreadyThere, ConfigError, DataError
from hanse_common.paths import CARD_FILE, PRETRAINING_FILE

MOST_CLASSES = 4096
FEWEST_CUSTOMERS = 20

_HELD_OUT = 0.1
_BATCH = 32
_PATIENCE = 8
"""Epochs without a better loss on held-out customers after which training ends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretrained:
    """What was done, and what came of it."""

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
    """Until the best loss."""
    popularity_loss: float
    """Cross-entropy on held-out customers of each class's share alone, in nats."""
    loss: float
    """The same of what was trained."""


def pretrain(
    public: PublicData,
    settings: RunSettings,
    *,
    folder: Path,
    cache: Path,
    objective: Objective,
    epochs: int,
    learning_rate: float = 1e-3,
    told: Callable[[int, float], None] = lambda epoch, loss: None,
) -> Pretrained:
    """Train on all that is there but a tenth of the customers, who say when it is enough.

    Args:
        public: What to learn from; nothing protects it.
        settings: Encoder, shape and start of the transformer, level of contents, seed.
        folder: Where to; it must not exist or be empty.
        cache: Folder for text vectors.
        objective: What is learnt.
        epochs: At most so many.
        learning_rate: Of AdamW.
        told: Hears the held-out loss of every epoch.

    Raises:
        AlreadyThere: The folder holds something.
        DataError [too-few-customers]: Fewer than 20 have two visits.
        ConfigError: Encoder, checkpoint or folder cannot be used.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AlreadyThere(f"{folder} holds something already", hint="name another --folder")
    histories, model, classes = _prepared(public, settings, cache)
    rng = np.random.default_rng(settings.seed)
    able = np.flatnonzero(np.diff(histories.visit_offsets) > 1)
    if len(able) < FEWEST_CUSTOMERS:
        raise DataError(
            f"{public.name} has {len(able)} customers of two visits or more, and "
            f"{FEWEST_CUSTOMERS} are needed",
            code="too-few-customers",
            hint="pre-train on more data",
        )
    able = rng.permutation(able)
    held, learnt = np.split(able, [max(1, int(len(able) * _HELD_OUT))])
    steps = settings.model.max_steps

    def batches(customers: npt.NDArray[np.int64], draw: np.random.Generator) -> Iterator[Rows]:
        for first in range(0, len(customers), _BATCH):
            part = customers[first : first + _BATCH]
            yield rows_of(histories, part, len(model.popularity), steps, draw)

    def judged() -> float:
        # The same windows and the same hidden visits every time.
        draw, hide = np.random.default_rng(1), torch.Generator().manual_seed(1)
        model.eval()
        with torch.inference_mode():
            losses = [float(model(rows, objective, hide)) for rows in batches(held, draw)]
        return float(np.mean(losses))

    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    hide = torch.Generator().manual_seed(settings.seed)
    start = judged()
    best, kept, best_epoch = start, copy.deepcopy(model.state_dict()), 0
    for epoch in range(1, epochs + 1):
        model.train()
        for rows in batches(rng.permutation(learnt), rng):
            optimizer.zero_grad()
            model(rows, objective, hide).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        loss = judged()
        told(epoch, loss)
        if loss < best:
            best, kept, best_epoch = loss, copy.deepcopy(model.state_dict()), epoch
        elif epoch - best_epoch >= _PATIENCE:
            break
    model.load_state_dict(kept)
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
    """Histories, and what is trained on them."""
    data, level = public.ingested, settings.data.level
    category = dict(data.catalogue.select("item_id", "category").iter_rows())
    known = data.events["item_id"].value_counts().sort(["count", "item_id"], descending=True)
    bought: dict[str, int] = {}
    for item, count in known.iter_rows():
        name = item_class(category[item], item, level)
        bought[name] = bought.get(name, 0) + count
    classes = sorted(sorted(bought, key=lambda name: (-bought[name], name))[:MOST_CLASSES])
    catalogue = data.catalogue.filter(pl.col("item_id").is_in(known["item_id"].implode()))
    texts = sorted(catalogue["text"].unique())
    vectors = encode_texts(texts, encoder=settings.model.encoder, cache=cache)
    by_text = dict(zip(texts, vectors, strict=True))
    histories = prepare(
        replace(data, catalogue=catalogue), classes=classes, level=level, text_vectors=by_text
    )
    listed = dict.fromkeys(classes, 1)
    whole = fresh_model(catalogue, listed, settings, cache=cache)
    sums = dict.fromkeys(classes, np.zeros(vectors.shape[1], np.float32))
    for item, text in catalogue.select("item_id", "text").iter_rows():
        name = item_class(category[item], item, level)
        if name in sums:
            sums[name] = sums[name] + by_text[text]
    places = torch.nn.functional.normalize(
        torch.from_numpy(np.stack([sums[name] for name in classes])), dim=-1
    )
    shares = np.bincount(histories.pair_classes, minlength=len(classes)) + 1.0
    popularity = torch.from_numpy(np.log(shares / shares.sum()).astype(np.float32))
    torch.manual_seed(settings.seed)
    return histories, Contents(whole.visits, places - places.mean(0), popularity), len(classes)


def _write(model: Contents, done: Pretrained, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_checkpoint(model.visits, folder, encoder=done.encoder)
        write_card(folder / CARD_FILE, done)
        write_durably(folder / PRETRAINING_FILE, json.dumps(asdict(done), indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror}") from error
