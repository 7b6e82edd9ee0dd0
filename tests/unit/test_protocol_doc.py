"""The parameter table of `docs/protocol.md` is what the code does."""

from __future__ import annotations

from pathlib import Path

import pytest

from hanse_common.roundlog.records import Closed
from hanse_common.secagg import Layout, Section, Terms
from hanse_common.secagg.messages import Confirmation, MaskedVector
from kits.federation import Federation
from kits.vectors import CHECKPOINT, RECEIPT, messages, records

DOC = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
ROWS = [
    [int(cell.replace(",", "")) for cell in line.strip("| ").split(" | ")[:6]]
    for line in DOC.partition("| n | threshold t |")[2].splitlines()[2:9]
]
LOG_ROWS = {
    row[0]: row[1]
    for line in DOC.partition("| structure | bytes | fields |")[2].splitlines()[2:7]
    if (row := line.strip("| ").split(" | "))
}
BEYOND = 847, 255
"""Bytes beside the vector: a constant, and for each store of the roster."""


def test_the_table_has_the_promised_sizes():
    assert [row[0] for row in ROWS] == [3, 5, 10, 30, 100, 300, 1000]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"n={row[0]}")
def test_rows_follow_from_the_terms(row):
    count, threshold, dropouts, colluders, honest, size = row
    layout = Layout((Section("update", 1, clip=1.0),))

    def terms(colluding: int) -> Terms:
        return Terms(
            layout=layout,
            minimum_cohort=min(count, 5),
            maximum_cohort=max(count, 5),
            colluders=colluding,
        )

    assert terms(1).threshold(count) == threshold
    assert count - terms(1).survivors(count) == dropouts
    assert terms(1).survivors(count) - 1 == honest

    def keeps_threshold(colluding: int) -> bool:
        needed = max(threshold, (count + colluding) // 2 + 1, colluding + 2)
        return needed == threshold

    assert keeps_threshold(colluders) and not keeps_threshold(colluders + 1)
    assert BEYOND[0] + BEYOND[1] * count == size


@pytest.mark.parametrize("count", [3, 5, 10, 30])
def test_a_store_sends_just_that_much(count):
    federation = Federation(count)
    sent = dict.fromkeys(federation.names, 0)

    def weigh(name, message):
        if not isinstance(message, MaskedVector):
            sent[name] += len(message.encode())
        return message

    federation.run(to_coordinator=weigh)
    # The table is for ids of ten characters; these have nine, in each of four messages.
    assert len(set(sent.values())) == 1
    assert abs(sent["store-000"] - BEYOND[0] - BEYOND[1] * count) <= 8


def test_the_structures_of_the_round_log_have_the_sizes_that_the_table_says():
    made = records()
    name = len(RECEIPT.store_id)
    assert {
        "Announced": f"{len(made['Announced'].encode())}",
        "Closed": "144 + 611 n + 3 ids",
        "Published": f"{len(made['Published'].encode())}",
        "Checkpoint": f"{len(CHECKPOINT.encode())}",
        "Receipt": f"{len(RECEIPT.encode()) - name} + id",
    } == LOG_ROWS
    # What a store that stays to the end adds to a closed attempt.
    closed, confirmation = made["Closed"], messages()["Confirmation"]
    assert isinstance(closed, Closed) and isinstance(confirmation, Confirmation)
    for count in (1, 5):
        many = Closed(
            header=closed.header,
            outcome=closed.outcome,
            roster_digest=closed.roster_digest,
            members=closed.members * count,
            sharers=tuple(range(count)),
            survivors=tuple(range(count)),
            receipts=(RECEIPT,) * count,
            confirmations=(confirmation,) * count,
        )
        assert len(many.encode()) == 144 + (611 + 3 * name) * count
    # A cosignature, and a receipt: what a store sends more than without a log.
    assert f"A store sends {64 + len(RECEIPT.encode()) - name} bytes and its id more" in DOC
