"""Pre-training of the category-token transformer on made-up shoppers, without any data.

<folder>/config.json, model.safetensors   the model, as `AutoModel` reads it
<folder>/pretraining.json                 the sets, the seed and the losses
<folder>/README.md                        the model card

Each set has its own hyper-parameters (`shoppers.py`). Of every shopper a few moments are
predicted from what came before them. The priors of a category are the log-odds of rise and
fall among the other half of the set's shoppers, as a federation would release them of its
customers; in a part of the rows they are left out, so that the model can do without.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from hanse_client.features.ragged import Ints
from hanse_client.model.config import CategoryConfig
from hanse_client.pretraining.base_card import write_base_card
from hanse_client.pretraining.shoppers import CATEGORIES, WEEKS, made_up_shoppers
from hanse_client.tasks.interest.category_model import (
    CategoryBatch,
    CategoryModel,
    collate_tokens,
    token_losses,
)
from hanse_client.tasks.interest.category_tokens import (
    HORIZON_DAYS,
    REFERENCE_DAYS,
    CategoryTokens,
    TokenTargets,
    category_tokens,
    token_targets,
)
from hanse_common.durable import write_durably
from hanse_common.errors import AlreadyThere, ConfigError, DataError
from hanse_common.paths import CARD_FILE, PRETRAINING_FILE

SETS: Final = 30
"""Diversity of sets is what pays: more than 30 gained nothing that could be seen."""
SHOPPERS: Final = 1200
"""Shoppers of a set: some 70,000 tokens."""
EPOCHS: Final = 3
FEWEST_SHOPPERS: Final = 20
"""Of fewer, a tenth would be one held-out shopper."""

_MOMENTS = 4
"""Moments of a shopper; more of the same shopper tell less than other shoppers."""
_HELD_OUT = 0.1
_WITHOUT_PRIORS = 0.35
"""Share of the rows whose class priors are left out."""
_PRIOR_WEIGHT = 20.0
"""Pseudo-count of tokens behind a class's prior, so that a rare class has that of all."""
_BATCH = 64
_SHUFFLED = 32 * _BATCH
"""Rows that are sorted by size together: little padding, and batches are still random."""
_MOST_TOKENS = 64
"""Tokens of a row in training, the most frequent; attention is quadratic in them."""
_VISITS_WEIGHT = 0.3
_LEARNING_RATE = 2e-3
_WARM_UP = 100
_LOWEST = 0.02
"""Share of the learning rate that the cosine ends at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainedBase:
    """What a base was made of and what it learnt, as in `pretraining.json`.

    Losses are nats a token on held-out shoppers of the same sets.
    """

    sets: int
    shoppers: int
    """Of a set."""
    seed: int
    epochs: int
    """Passes over the training shoppers; the learning rate's decay depends on it."""
    best_epoch: int
    """The one with the best loss, which was written; 0 for the rules themselves."""
    tokens: int
    parameters: int
    rules_loss: float
    """Cross-entropy of rise, stay and fall by the rules."""
    loss: float
    """The same by the model."""
    loss_without_priors: float
    """The same if no class priors are known."""
    rules_visits_loss: float
    """Negative log-likelihood of the number of visits by the rules' Poisson."""
    visits_loss: float
    """The same by the model."""

    @property
    def command(self) -> str:
        """The command that makes it again."""
        return (
            f"hanse model pretrain shoppers --sets {self.sets} --shoppers {self.shoppers} "
            f"--epochs {self.epochs} --seed {self.seed} --output FOLDER"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Examples:
    """Rows of all sets with their targets."""

    tokens: CategoryTokens
    targets: TokenTargets
    priors: npt.NDArray[np.float32]
    """[n, 2]."""
    held_out: npt.NDArray[np.bool_]
    """[R]."""

    def batch(self, rows: Ints, without_priors: npt.NDArray[np.bool_] | None) -> CategoryBatch:
        """A batch of rows, of which those marked [B] have priors of 0."""
        made = collate_tokens(
            self.tokens, rows, priors=self.priors, targets=self.targets, most=_MOST_TOKENS
        )
        if without_priors is not None and made.priors is not None:
            made.priors[torch.from_numpy(without_priors)] = 0.0
        return made


def pretrain_base(
    *,
    folder: Path,
    sets: int = SETS,
    shoppers: int = SHOPPERS,
    epochs: int = EPOCHS,
    seed: int = 0,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
) -> PretrainedBase:
    """Train a base on made-up shoppers and write it.

    Args:
        folder: The folder to write, which must be empty or not exist.
        sets: Number of sets.
        shoppers: Shoppers of each.
        epochs: Passes over all of them; the one with the best held-out loss is written.
        seed: Of shoppers, initial weights and training. The same seed gives the same bytes
            with the same libraries on the same kind of processor.
        on_epoch: Called with the number and the held-out loss of every epoch.

    Guarantees:
        No data are read: the base is a function of these arguments, and no epsilon has to
        cover it.

    Raises:
        AlreadyThere: The folder is not empty.
        DataError [too-few-customers]: Too few shoppers, or none of them has an interest.
        ConfigError: A number is below 1 or the folder cannot be written.
    """
    for name, value, least in (
        ("sets", sets, 1), ("shoppers", shoppers, 1), ("epochs", epochs, 1), ("seed", seed, 0)
    ):  # fmt: skip
        if value < least:
            raise ConfigError(f"{name}={value} is below {least}", hint=f"use at least {least}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AlreadyThere(f"{folder} is not empty", hint="choose another --output")
    if shoppers < FEWEST_SHOPPERS:
        raise DataError(
            f"shoppers={shoppers}, but a set needs {FEWEST_SHOPPERS}",
            code="too-few-customers",
            hint="raise --shoppers",
        )
    examples = _examples(sets, shoppers, seed)
    with _one_thread(seed):
        model = CategoryModel(CategoryConfig())
        done = _train(model, examples, epochs, seed, on_epoch)
    base = PretrainedBase(
        sets=sets,
        shoppers=shoppers,
        seed=seed,
        epochs=epochs,
        tokens=len(examples.tokens.classes),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        **done,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(folder)
        write_base_card(folder / CARD_FILE, base)
        write_durably(folder / PRETRAINING_FILE, json.dumps(asdict(base), indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror}") from error
    return base


def _examples(sets: int, shoppers: int, seed: int) -> _Examples:
    """Draw all sets, with the tokens and targets of their shoppers at random moments."""
    tokens, targets, priors, held_out = [], [], [], []
    for number in range(sets):
        # By its number, so that more sets are the same sets and more.
        histories = made_up_shoppers((seed, number), shoppers=shoppers)
        rng = np.random.default_rng((seed, number, 1))
        rows = np.repeat(np.arange(shoppers), _MOMENTS)
        moments = rng.uniform(REFERENCE_DAYS, 7 * WEEKS - HORIZON_DAYS, len(rows))
        tokens.append(category_tokens(histories, rows, moments))
        targets.append(token_targets(histories, tokens[-1]))
        # Shoppers of a set are exchangeable, so the last ones are as good as random ones.
        held_out.append(rows >= shoppers - max(1, int(shoppers * _HELD_OUT)))
        half = (rng.permutation(shoppers) < shoppers // 2)[rows[tokens[-1].rows]]
        priors.append(_other_half_priors(tokens[-1].classes, targets[-1].outlook, half))
    examples = _Examples(
        tokens=CategoryTokens.joined(tokens),
        targets=TokenTargets.joined(targets),
        priors=np.concatenate(priors),
        held_out=np.concatenate(held_out),
    )
    speak = examples.tokens.sizes > 0
    if not (speak & examples.held_out).any() or not (speak & ~examples.held_out).any():
        raise DataError(
            f"none of {sets} x {shoppers} made-up shoppers can be learnt from",
            code="too-few-customers",
            hint="raise --sets or --shoppers",
        )
    return examples


def _other_half_priors(
    classes: Ints, outlook: Ints, half: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """[n, 2] log-odds of rise and fall of each token's class among the other half's shoppers.

    Taken from the token's own half they would contain its outcome.
    """
    priors = np.zeros((len(classes), 2), dtype=np.float32)
    for mine in (False, True):
        other = half != mine
        cells = classes[other] * 3 + outlook[other]
        counts = np.bincount(cells, minlength=3 * CATEGORIES).reshape(CATEGORIES, 3)
        overall = (counts.sum(0) + 1) / (counts.sum() + 3)
        share = (counts + _PRIOR_WEIGHT * overall) / (counts.sum(1, keepdims=True) + _PRIOR_WEIGHT)
        odds = np.log(share / (1 - share))[:, [2, 0]]
        # Centred: the base rates of made-up shops say nothing of those of a real one.
        priors[~other] = (odds - odds.mean(0))[classes[~other]]
    return priors


def _train(
    model: CategoryModel,
    examples: _Examples,
    epochs: int,
    seed: int,
    on_epoch: Callable[[int, float], None],
) -> dict[str, Any]:
    """Train in place up to the best epoch; returns the figures of `PretrainedBase`."""
    rng = np.random.default_rng((seed, 0, 2))
    speak = examples.tokens.sizes > 0
    training = np.flatnonzero(speak & ~examples.held_out)
    steps = epochs * len(list(_batches(training, examples.tokens.sizes, rng)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _pace(step, steps))
    rules_loss, rules_visits_loss = _held_out_losses(model, examples, priors=True)
    best, best_weights, best_epoch = rules_loss, copy.deepcopy(model.state_dict()), 0
    for epoch in range(1, epochs + 1):
        model.train()
        for rows in _batches(training, examples.tokens.sizes, rng):
            batch = examples.batch(rows, rng.random(len(rows)) < _WITHOUT_PRIORS)
            outlook, visits = token_losses(model(batch), batch)
            # A mean over tokens: nothing here is private, so rows need no loss of their own.
            loss = (outlook.sum() + _VISITS_WEIGHT * visits.sum()) / batch.present.sum()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        held_out, _ = _held_out_losses(model, examples, priors=True)
        on_epoch(epoch, held_out)
        if held_out < best:
            best, best_weights, best_epoch = held_out, copy.deepcopy(model.state_dict()), epoch
    model.load_state_dict(best_weights)
    model.eval()  # type: ignore[no-untyped-call]
    outlook_loss, visits_loss = _held_out_losses(model, examples, priors=True)
    return {
        "best_epoch": best_epoch,
        "rules_loss": round(rules_loss, 4),
        "loss": round(outlook_loss, 4),
        "loss_without_priors": round(_held_out_losses(model, examples, priors=False)[0], 4),
        "rules_visits_loss": round(rules_visits_loss, 4),
        "visits_loss": round(visits_loss, 4),
    }


def _batches(rows: Ints, sizes: Ints, rng: np.random.Generator) -> Iterator[Ints]:
    """Random batches of rows with about the same number of tokens."""
    order = rng.permutation(rows)
    batches = []
    for first in range(0, len(order), _SHUFFLED):
        part = order[first : first + _SHUFFLED]
        part = part[np.argsort(sizes[part], kind="stable")]
        batches += [part[start : start + _BATCH] for start in range(0, len(part), _BATCH)]
    for index in rng.permutation(len(batches)):
        yield batches[index]


def _pace(step: int, steps: int) -> float:
    """Share of the learning rate at a step: a linear warm-up, then half a cosine."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))
    return min(1.0, (step + 1) / _WARM_UP) * max(_LOWEST, cosine)


@torch.inference_mode()
def _held_out_losses(
    model: CategoryModel, examples: _Examples, *, priors: bool
) -> tuple[float, float]:
    """(outlook, visits) mean loss of the held-out tokens, in nats."""
    model.eval()  # type: ignore[no-untyped-call]
    sizes = examples.tokens.sizes
    rows = np.flatnonzero((sizes > 0) & examples.held_out)
    rows = rows[np.argsort(sizes[rows], kind="stable")]
    totals, tokens = np.zeros(2), 0
    for first in range(0, len(rows), 4 * _BATCH):
        part = rows[first : first + 4 * _BATCH]
        batch = examples.batch(part, None if priors else np.ones(len(part), dtype=bool))
        totals += [float(losses.double().sum()) for losses in token_losses(model(batch), batch)]
        tokens += int(batch.present.sum())
    outlook, visits = totals / tokens
    return float(outlook), float(visits)


@contextmanager
def _one_thread(seed: int) -> Iterator[None]:
    """Seed torch and compute on one thread: sums over several depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)
