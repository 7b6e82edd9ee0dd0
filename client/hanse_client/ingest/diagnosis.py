"""What is odd about a store's data, in words and in figures that tell of no single customer.

Figures of few customers, and of the largest one, are given in bands: a diagnosis is read by more
people than the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from hanse_client.ingest.reasons import GUEST, tolerances
from hanse_client.ingest.schema import UNCATEGORISED
from hanse_client.model.item_texts import MAX_UNKNOWN, PACKAGED, checkpoint_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hanse_client.ingest.pipeline import Ingested
    from hanse_client.ingest.source_settings import Source
    from hanse_client.ingest.store_config import CatalogueSource, EventsSource

_FEW = 5
CROWD_SHARE = 0.05
"""Of the events: a customer who holds more is hardly one person."""
_EDGES = (1, 5, 20, 50)
"""Of bands of shares, in per cent."""
_ROWS_TO_JUDGE = 50
_TEXTS_READ = 2_000
_LAST_MONTH_OF_A_YEAR = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something to look at."""

    what: str
    do: str
    """What to change if it is not meant to be so."""


def band(share: float) -> str:
    """A share as the band that it is in.

    >>> band(0.004), band(0.3), band(1.0)
    ('at most 1 %', '20 to 50 %', 'more than 50 %')
    """
    low = 0
    for edge in _EDGES:
        if share <= edge / 100:
            return f"{low} to {edge} %" if low else f"at most {edge} %"
        low = edge
    return f"more than {low} %"


def few(number: int) -> str:
    """A number of customers; fewer than five are a band.

    >>> few(0), few(3), few(1200)
    ('none', '1 to 4', '1,200')
    """
    if not number:
        return "none"
    return "1 to 4" if number < _FEW else f"{number:,}"


def shares(source: Source, rejects: Mapping[str, int], rows: int) -> dict[str, dict[str, Any]]:
    """Each reason to reject rows with its share, and the share that is tolerated.

    Args:
        source: The table, with its tolerances.
        rejects: Rejected rows by reason.
        rows: Number of rows read.

    Returns:
        Reason -> `share` and `tolerance`, which is None where the reason counts with the others
        against `max_reject_share`.
    """
    own = tolerances(source)
    return {
        reason: {"share": number / rows, "tolerance": own.get(reason)}
        for reason, number in rejects.items()
    }


def diagnose(store: Ingested, source: EventsSource, goods: CatalogueSource) -> dict[str, Any]:
    """Figures of a store's events and catalogue beyond their counts, and what to look at.

    Args:
        store: What was read.
        source: The settings of its events.
        goods: Those of its catalogue.

    Returns:
        Values ready for JSON: `customers`, `times`, `catalogue` and `findings`.
    """
    events, items = store.rows, store.catalogue
    # Never negative, as numbers of visits are not.
    day = (pl.col("timestamp").dt.epoch("d").cast(pl.Int64) + 2**31).cast(pl.UInt64)
    by_customer = events.group_by("user_id").agg(
        rows=pl.len(),
        visits=pl.coalesce("basket_id", day).n_unique(),
    )
    largest = float(by_customer.select(pl.col("rows").max() / events.height).item())
    crowds = by_customer.filter(pl.col("rows") > CROWD_SHARE * events.height).height
    enough = by_customer.height >= 4 * _FEW
    moment = pl.col("timestamp")
    times = events.select(
        first_day_of_a_month=moment.dt.day().min(),
        last_day_of_a_month=moment.dt.day().max(),
        at_midnight=(moment == moment.dt.truncate("1d")).mean(),
        between_1_and_5=moment.dt.hour().is_in([1, 2, 3, 4]).mean(),
    ).row(0, named=True)
    unnamed = items.filter(pl.col("text") == pl.col("category").str.split("/").list.last()).height
    offered = {
        "uncategorised": items.filter(pl.col("category") == UNCATEGORISED).height / items.height,
        "without_a_text_of_their_own": unnamed / items.height,
        "unknown_tokens": unknown_tokens(items["text"].head(_TEXTS_READ).to_list()),
        "bought": events["item_id"].n_unique() / items.height,
    }
    figures = {
        "customers": {
            "visits_of_the_median": _median(by_customer, "visits") if enough else None,
            "events_of_the_median": _median(by_customer, "rows") if enough else None,
            "largest_share": band(largest),
            f"with_over_{CROWD_SHARE:.0%}": few(crowds),
        },
        "baskets": {"numbers_used_again": store.reused_baskets},
        "times": times,
        "catalogue": offered,
        "encodings": list(store.encodings),
    }
    found = [
        *_of_assumptions(store, source, goods),
        *_of_customers(store, by_customer, largest),
        *_of_times(events, times),
        *_of_catalogue(store, offered),
    ]
    return {**figures, "findings": [{"what": one.what, "do": one.do} for one in found]}


def _median(table: pl.DataFrame, name: str) -> float:
    return float(table.select(pl.col(name).median()).item())


def _of_assumptions(
    store: Ingested, source: EventsSource, goods: CatalogueSource
) -> Iterator[Finding]:
    """What the reader took for granted without being told."""
    guests = store.rejects.get(GUEST, 0)
    if guests and "guest_ids" not in source.model_fields_set:
        yield Finding(
            what=f"{guests:,} rows are taken for those of people without an account, by customer "
            f"ids such as {', '.join(source.guest_ids[:3])}",
            do="guest_ids lists these ids: leave out what is a customer's number at your shop, or "
            "write guest_ids = []",
        )
    guessed = (
        [] if source.encoding else [(rows, "events", k) for k, rows in store.encodings.items()]
    )
    if goods.encoding is None:
        guessed += [(store.catalogue_rows_read, "catalogue", k) for k in store.catalogue_encodings]
    for rows, table, name in guessed:
        if not name.startswith("utf"):
            yield Finding(
                what=f"{rows:,} rows of the {table} are read as {name}, by the look of their "
                "letters; no key says so, and encodings of one region differ in a few signs only",
                do=f'if names look right, encoding = "{name}" keeps it so; otherwise name the '
                'export\'s own, e.g. "iso8859-15" or "mac-roman"',
            )


def _of_customers(store: Ingested, by_customer: pl.DataFrame, largest: float) -> Iterator[Finding]:
    number = by_customer.height
    if largest > CROWD_SHARE and number >= 1 / CROWD_SHARE:
        yield Finding(
            what=f"one customer holds {band(largest)} of the events",
            do="an id that stands for many people, a reseller or a robot is no customer: name it "
            "in guest_ids, or leave its rows out by where",
        )
    single = by_customer.filter(pl.col("visits") == 1).height
    if number >= 4 * _FEW and single > 0.9 * number:
        yield Finding(
            what="more than nine of ten customers came once",
            do="is user_id a receipt or a session? the customer's own id is needed",
        )
    if store.reused_baskets:
        yield Finding(
            what=f"{store.reused_baskets:,} basket numbers come again on another day, at another "
            "shop or for another customer",
            do="nothing, if tills count anew: each is a visit of its own",
        )


def _of_times(events: pl.DataFrame, times: Mapping[str, Any]) -> Iterator[Finding]:
    if events.height < _ROWS_TO_JUDGE:
        return
    stamps = events["timestamp"]
    last = times["last_day_of_a_month"]
    spread = stamps.dt.date().n_unique()
    if last <= _LAST_MONTH_OF_A_YEAR < spread:
        yield Finding(
            what=f"no event is after the {last}th of a month",
            do="day and month may be swapped: check timestamp_format, %d/%m or %m/%d",
        )
    if times["at_midnight"] > 0.99:
        yield Finding(
            what="times are days without hours",
            do="nothing, if the source has none; otherwise map the column with the time, too",
        )
    elif times["between_1_and_5"] > 0.3:
        yield Finding(
            what=f"{times['between_1_and_5']:.0%} of the events are between one and five at night",
            do="time_zone is the shop's; source_time_zone says that times are, for example, UTC",
        )
    if stamps.is_in([stamps.min()]).sum() > 0.5 * events.height:
        yield Finding(
            what="more than half of the events have one and the same time",
            do="is it the time of the export? map the time of the sale",
        )


def unknown_tokens(texts: Sequence[str]) -> float:
    """Share of texts' tokens that the encoder of the package does not know; 0 to 1."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(checkpoint_folder(PACKAGED)) / "tokenizer.json"))
    tokenizer.no_padding()
    unknown = tokenizer.token_to_id("[UNK]")
    read = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    shares = [sum(token == unknown for token in one.ids) / max(len(one.ids), 1) for one in read]
    return sum(shares) / max(len(shares), 1)


def _of_catalogue(store: Ingested, figures: Mapping[str, float]) -> Iterator[Finding]:
    if figures["unknown_tokens"] > MAX_UNKNOWN:
        yield Finding(
            what=f"the default encoder does not know {figures['unknown_tokens']:.0%} of the texts' "
            "tokens",
            do="a model of these texts needs model.encoder for their language, such as "
            "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2",
        )
    if figures["uncategorised"] > 0.2:
        yield Finding(
            what=f"{figures['uncategorised']:.0%} of the items have no category",
            do="map a column with the category, or with several steps of it",
        )
    if figures["without_a_text_of_their_own"] > 0.2:
        yield Finding(
            what=f"{figures['without_a_text_of_their_own']:.0%} of the items have no text of their "
            "own, and are described by their category",
            do="map the column with the product's name to text",
        )
    if figures["bought"] == 1.0 and store.catalogue.height >= _ROWS_TO_JUDGE:
        yield Finding(
            what="every item of the catalogue was bought",
            do="a catalogue is public, and must not be made from what customers bought: export "
            "the assortment",
        )
    largest = store.catalogue["category"].value_counts()["count"].max()
    number = store.catalogue["category"].n_unique()
    if store.catalogue.height >= _ROWS_TO_JUDGE and number > 0.5 * store.catalogue.height:
        yield Finding(
            what=f"{number:,} categories for {store.catalogue.height:,} items",
            do="is category the product's name? map the department or group",
        )
    elif isinstance(largest, int) and number == 1 and store.catalogue.height >= _ROWS_TO_JUDGE:
        yield Finding(
            what="all items are in one category",
            do="interests are counted by category: map a finer one",
        )
