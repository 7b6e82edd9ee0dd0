"""Reviews of a store's customers: texts as token ids, with labels such as stars.

    <file>.txt     a review a line: the text, a tab, the label (as UCI's labelled sentences)
    <file>.csv, .tsv, .parquet    columns `text` and `rating`, and optionally `user_id`
    <file>.toml    a `store.toml` whose `[reviews]` names source and columns

Without `user_id`, every review counts as a customer of its own. `<file>.labels` is the public
list of labels, one a line, in order; without it the labels are collected from the reviews,
which no epsilon covers.
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
from hanse_client.model.item_texts import check_readable, reading_encoder
from hanse_common.errors import DataError, MissingColumns, WrongTypes

TRAIN, VALIDATE, TEST = 0, 1, 2
PARTS = {"validate": VALIDATE, "test": TEST}
_LARGEST = 16
"""Largest number of labels; a column with more holds ids or free text."""
_HEADINGS = frozenset({"label", "rating", "sentiment", "stars", "score", "class"})
"""Labels of a first line that is a heading. A rule that looked at the other lines would let one
customer's review decide whether another's is read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Texts:
    """Reviews as read from a file."""

    users: list[str]
    texts: list[str]
    labels: list[int]
    """Indices into `names`."""
    names: list[str]
    """The names of the labels, in order."""
    rejected: dict[str, int]
    """Number of rejected rows by reason."""
    listed: bool = False
    """Whether `names` come from a public list; otherwise they come from the reviews."""

    def select(self, rows: Ints) -> Texts:
        """Only these rows."""
        return replace(
            self,
            users=[self.users[i] for i in rows],
            texts=[self.texts[i] for i in rows],
            labels=[self.labels[i] for i in rows],
        )


def read_reviews(path: Path) -> Texts:
    """Read a file of reviews.

    Raises:
        DataError: It cannot be read, or has fewer than two labels.
        MissingColumns: It has no `text` or no `rating`.
        WrongTypes: A line has no label, or there are more than 16 labels.
    """
    rejects: dict[str, int] = {}
    if path.suffix == ".toml":
        table, rejects = _of_store(path)
    else:
        table = _lines(path) if path.suffix == ".txt" else _columns(path)
    filled = table.filter(
        pl.col("text").str.strip_chars().str.len_chars().gt(0) & pl.col("rating").is_not_null()
    )
    listed = read_public_list(path, ".labels")
    rows = filled if listed is None else filled.filter(pl.col("rating").is_in(listed))
    names = sorted(rows["rating"].unique().to_list(), key=_order) if listed is None else listed
    rejected = {
        **rejects,
        "no text or no rating": table.height - filled.height,
        "a label that the list has not": filled.height - rows.height,
    }
    check_labels(names, path)
    place = {name: number for number, name in enumerate(names)}
    return Texts(
        users=rows["user_id"].to_list(),
        texts=rows["text"].to_list(),
        labels=[place[name] for name in rows["rating"]],
        names=names,
        rejected={reason: count for reason, count in rejected.items() if count},
        listed=listed is not None,
    )


def check_labels(names: Sequence[str], path: Path) -> None:
    """Refuse a list that is no list of labels.

    Raises:
        DataError: There are fewer than two.
        WrongTypes: There are more than 16, as of ids or free text.
    """
    if len(names) < 2:
        raise DataError(
            f"{path} has {len(names)} label{'' if len(names) == 1 else 's'}",
            hint="a classifier needs at least two",
        )
    if len(names) > _LARGEST:
        raise WrongTypes(
            f"{path}: there are {len(names)} different labels",
            hint=f"stars or verdicts, at most {_LARGEST} of them",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Reviews(Entries):
    """Reviews of a store: N customers, E reviews of at most T tokens."""

    BY_CUSTOMER: ClassVar = (*Entries.BY_CUSTOMER, "part")
    BY_ENTRY: ClassVar = ("tokens", "lengths", "labels")

    part: npt.NDArray[np.int8]
    """[N] TRAIN, VALIDATE or TEST; all reviews of a customer are in one part."""
    tokens: npt.NDArray[np.int32]
    """[E, T] token ids, padded on the right to the public maximum length T, which is a setting."""
    lengths: Ints
    """[E] number of tokens."""
    labels: Ints
    """[E] index of the label."""

    def of(self, part: int) -> Reviews:
        """Only the reviews of one part's customers; the others stay, without reviews."""
        return self.only((self.part == part)[self.owners])


def prepare_reviews(
    texts: Texts, *, encoder: str, tokens: int, seed: int, shares: tuple[float, float] = (0.1, 0.25)
) -> Reviews:
    """Tokenize reviews, and assign customers to training, validation and test.

    Args:
        texts: The reviews of one store.
        encoder: The text encoder whose tokenizer is used.
        tokens: Maximum length T; longer texts are cut off.
        seed: Of the assignment.
        shares: Expected shares of customers in validation and in test.

    Guarantees:
        A customer's part depends only on their own id and the seed, so that the shares hold in
        expectation only. No array of a customer depends on another customer.

    Raises:
        ConfigError: There is no such encoder.
        DataError [unreadable-texts]: It does not know the reviews' language.
    """
    from transformers import AutoTokenizer

    with reading_encoder(encoder) as source:
        tokenizer = AutoTokenizer.from_pretrained(source)
    users, owner = np.unique(np.array(texts.users, dtype=np.str_), return_inverse=True)
    order = np.argsort(owner, kind="stable")
    check_readable(texts.texts, tokenizer, encoder, personal=True)
    read = tokenizer([texts.texts[i] for i in order], truncation=True, max_length=tokens)
    ids: Sequence[Sequence[int]] = read["input_ids"]
    lengths = np.array([len(text) for text in ids], dtype=np.int64)
    # As wide as the setting, not as the longest review, which is one customer's.
    table = np.zeros((len(ids), tokens), dtype=np.int32)
    for row, text in enumerate(ids):
        table[row, : len(text)] = text
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
        text, tab, label = line.rpartition("\t")  # a text may contain tabs, a label does not
        if not tab:
            raise WrongTypes(f"{path}, line {number}: no tab before a label", hint="TEXT<tab>LABEL")
        rows.append((text, label.strip()))
    if rows and rows[0][1].lower() in _HEADINGS:
        rows = rows[1:]
    return _nameless(pl.DataFrame(rows, schema=["text", "rating"], orient="row"))


def _nameless(table: pl.DataFrame) -> pl.DataFrame:
    """Add a `user_id` that is a hash of the review and its number among equal reviews.

    Line numbers would not do: removing one review would rename the customers of all later ones.
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


def _of_store(path: Path) -> tuple[pl.DataFrame, dict[str, int]]:
    """The reviews that a `store.toml` describes, and how many rows were rejected for what."""
    # Imported on use: ingestion is not needed by a store that computes on prepared reviews.
    from hanse_client.features.public_store import public_store
    from hanse_client.ingest.reviews import ingest_reviews

    with public_store(path) as store:
        found = ingest_reviews(store)
    return found.rows.select("user_id", "text", "rating"), found.rejects


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
            hint=f"it has {', '.join(table.columns)}; name them in the [reviews] of a store.toml, "
            "and give that file instead",
        )
    if "user_id" not in table.columns:
        table = _nameless(table.select(pl.col("text", "rating").cast(pl.String)))
    return table.select(pl.col("user_id", "text", "rating").cast(pl.String))


def _order(label: str) -> tuple[bool, float, str]:
    """Sort key of a label: numbers by value, then words by letter."""
    try:
        return False, float(label), label
    except ValueError:
        return True, 0.0, label
