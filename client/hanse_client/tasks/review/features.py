"""Reviews of a store's customers: texts as token ids, each with its stars or its verdict.

    <file>.txt     a review a line: the text, a tab, the label (as UCI's labelled sentences)
    <file>.csv, .tsv, .parquet    columns `text` and `rating`, and `user_id` where one is known

Without `user_id`, every review counts as a customer of its own. A `<file>.labels` beside it is
the public list of what a review can be, one label a line, in order; without it the labels are
those that the customers gave, which no epsilon covers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl

from hanse_client.features.by_customer import lots
from hanse_client.features.public_list import read_public_list
from hanse_client.features.ragged import Entries, Ints, offsets_of
from hanse_client.model.item_texts import reading_encoder
from hanse_common.errors import DataError, MissingColumns, WrongTypes

TRAIN, VALIDATE, TEST = 0, 1, 2
PARTS = {"validate": VALIDATE, "test": TEST}
_LARGEST = 16
"""Labels; more are ids or free text, and no judgement."""
_HEADINGS = frozenset({"label", "rating", "sentiment", "stars", "score", "class"})
"""Labels of a first line that name the column. Whether other lines have the label is no way to
tell: a review would come and go with another customer's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Texts:
    """Reviews as they were read."""

    users: list[str]
    texts: list[str]
    labels: list[int]
    """Indices into `names`."""
    names: list[str]
    """What a review can be, in order."""
    rejected: dict[str, int]
    """Rows left out, by reason."""
    listed: bool = False
    """Whether `names` are those of a public list, and not of the customers."""

    def some(self, rows: Ints) -> Texts:
        """These rows alone."""
        return replace(
            self,
            users=[self.users[i] for i in rows],
            texts=[self.texts[i] for i in rows],
            labels=[self.labels[i] for i in rows],
        )


def read_reviews(path: Path) -> Texts:
    """Read a file of reviews.

    Raises:
        DataError: It cannot be read, or holds no two labels.
        MissingColumns: It has no `text` or no `rating`.
        WrongTypes: A line has no label, or there are too many labels to be judgements.
    """
    table = _lines(path) if path.suffix == ".txt" else _columns(path)
    filled = table.filter(
        pl.col("text").str.strip_chars().str.len_chars().gt(0) & pl.col("rating").is_not_null()
    )
    listed = read_public_list(path, ".labels")
    kept = filled if listed is None else filled.filter(pl.col("rating").is_in(listed))
    names = sorted(kept["rating"].unique().to_list(), key=_order) if listed is None else listed
    rejected = {
        "no text or no rating": table.height - filled.height,
        "a label that the list has not": filled.height - kept.height,
    }
    if len(names) < 2:
        raise DataError(
            f"{path} holds {len(names)} label{'' if len(names) == 1 else 's'}",
            hint="there is nothing to tell apart with fewer than two",
        )
    if len(names) > _LARGEST:
        raise WrongTypes(
            f"{path}: column 'rating' holds {len(names)} different values",
            hint=f"stars or verdicts, at most {_LARGEST} of them",
        )
    place = {name: number for number, name in enumerate(names)}
    return Texts(
        users=kept["user_id"].to_list(),
        texts=kept["text"].to_list(),
        labels=[place[name] for name in kept["rating"]],
        names=names,
        rejected={reason: count for reason, count in rejected.items() if count},
        listed=listed is not None,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Reviews(Entries):
    """Reviews of a store: N customers, E reviews of at most T tokens."""

    BY_CUSTOMER: ClassVar = (*Entries.BY_CUSTOMER, "part")
    BY_ENTRY: ClassVar = ("tokens", "lengths", "labels")
    HOMELESS: ClassVar = "leave privacy.one_home off: a file of reviews knows no home"

    part: npt.NDArray[np.int8]
    """[N] TRAIN, VALIDATE or TEST: a customer is in one of them."""
    tokens: npt.NDArray[np.int32]
    """[E, T] padded on the right to the longest that may be, which is a setting."""
    lengths: Ints
    """[E]."""
    labels: Ints
    """[E]."""

    def of(self, part: int) -> Reviews:
        """The reviews of one part's customers; the others stay, empty."""
        return self.only((self.part == part)[self.owners])


def prepare_reviews(
    texts: Texts, *, encoder: str, tokens: int, seed: int, shares: tuple[float, float] = (0.1, 0.25)
) -> Reviews:
    """Turn texts into token ids, and say whose are held out.

    Args:
        texts: Of one store.
        encoder: Whose tokenizer reads them.
        tokens: Longest text; the rest of a longer one is not read.
        seed: Of who is held out.
        shares: Of the customers, for validation and for test.

    Guarantees:
        A customer's part depends on their own id and the seed. Nothing of a customer depends on
        another one, so that the parts have about the shares that are asked for.

    Raises:
        ConfigError: There is no such encoder.
    """
    from transformers import AutoTokenizer

    with reading_encoder(encoder) as source:
        tokenizer = AutoTokenizer.from_pretrained(source)
    users, owner = np.unique(np.array(texts.users, dtype=np.str_), return_inverse=True)
    order = np.argsort(owner, kind="stable")
    read = tokenizer([texts.texts[i] for i in order], truncation=True, max_length=tokens)
    ids: Sequence[Sequence[int]] = read["input_ids"]
    lengths = np.array([len(one) for one in ids], dtype=np.int64)
    table = np.zeros((len(ids), tokens), dtype=np.int32)
    for row, one in enumerate(ids):
        table[row, : len(one)] = one
    chance = lots(users.tolist(), key=f"part/{seed}")
    part = np.where(chance < shares[1], TEST, np.where(chance < sum(shares), VALIDATE, TRAIN))
    return Reviews(
        customers=users,
        homes=np.full(len(users), -1, dtype=np.int64),
        part=part.astype(np.int8),
        offsets=offsets_of(np.bincount(owner, minlength=len(users))),
        tokens=table,
        lengths=lengths,
        labels=np.array(texts.labels, dtype=np.int64)[order],
    )


def _lines(path: Path) -> pl.DataFrame:
    rows = []
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        text, tab, label = line.rpartition("\t")
        if not tab:
            raise WrongTypes(f"{path}, line {number}: no tab before a label", hint="TEXT<tab>LABEL")
        rows.append((text, label.strip()))
    if rows and rows[0][1].lower() in _HEADINGS:
        rows = rows[1:]
    return _nameless(pl.DataFrame(rows, schema=["text", "rating"], orient="row"))


def _nameless(table: pl.DataFrame) -> pl.DataFrame:
    """Name each review's customer by what it says, and equal ones by how many came before.

    A number of the line would name everybody behind a review otherwise when it is not there.
    """
    again = table.select(pl.int_range(pl.len()).over("text", "rating")).to_series()
    names = [
        hashlib.sha256(f"{text}\t{rating}\t{count}".encode()).hexdigest()[:32]
        for text, rating, count in zip(table["text"], table["rating"], again, strict=True)
    ]
    return table.with_columns(user_id=pl.Series(names, dtype=pl.String))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}", hint="a text file in UTF-8") from error


def _columns(path: Path) -> pl.DataFrame:
    try:
        if path.suffix == ".parquet":
            table = pl.read_parquet(path)
        else:
            separator = "\t" if path.suffix == ".tsv" else ","
            table = pl.read_csv(path, separator=separator, infer_schema=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"cannot read {path}: {error}", hint="Parquet, CSV, TSV or TXT") from error
    missing = [name for name in ("text", "rating") if name not in table.columns]
    if missing:
        raise MissingColumns(
            f"{path} has no column {', '.join(map(repr, missing))}",
            hint=f"it has {', '.join(table.columns)}",
        )
    if "user_id" not in table.columns:
        table = _nameless(table.select(pl.col("text", "rating").cast(pl.String)))
    return table.select(pl.col("user_id", "text", "rating").cast(pl.String))


def _order(label: str) -> tuple[bool, float, str]:
    """Numbers by value, before words by letter."""
    try:
        return False, float(label), label
    except ValueError:
        return True, 0.0, label
