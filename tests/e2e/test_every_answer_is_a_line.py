"""Lines of the ledger are exchanges answered, over a run with every kind of failure."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import Message as ProtoMessage

from hanse_common.errors import HanseError
from hanse_common.secagg.messages import MaskedVector
from hanse_server.rounds import run_rounds
from kits.apps.counting_task import PHASE
from kits.apps.secure_federation import STAGES, said
from kits.forgery import forge, trained

TERMS = {
    "federation.rounds": 14,
    "federation.spare_exchanges": 3,
    "federation.minimum_cohort": 3,
    "federation.evaluate_every": 14,
    "privacy.noise_multiplier": 20.0,
}
MORE = {
    **{key: value for key, value in TERMS.items() if key != "privacy.noise_multiplier"},
    "privacy.target_epsilon": 60.0,
    "phases": [
        {"name": PHASE, "release": "statistics", "share": 0.5, "rounds": 3},
        {"share": 0.5},
    ],
}
"""Three rounds of statistics, then gradients."""


def masked_vectors(federation) -> Counter[str]:
    """How many masked vectors each store has sent, whether they arrived or not."""
    found: Counter[str] = Counter()
    for sent in federation.faults.sent_by_stores:
        if sent.kind != STAGES["mask"]:
            continue
        reply = message_from_proto(ProtoMessage.FromString(sent.data))
        if not reply.has_error() and isinstance(said(reply), MaskedVector):
            found[sent.store] += 1
    return found


@pytest.mark.parametrize("terms", ["gradients", "statistics"])
def test_lines_of_the_ledger_are_exchanges_answered(terms, found_federation, counting):
    """Lost messages, silence, forged vectors, second attempts, crashes and a spent grant."""
    federation = found_federation(TERMS) if terms == "gradients" else counting(**MORE)
    lots = random.Random(11)
    forge(federation, {"synthetic-04"}, when=lambda: lots.random() < 0.3)
    federation.faults.to_store = lambda store, message: message if lots.random() > 0.07 else None
    federation.faults.to_server = lambda store, reply: reply if lots.random() > 0.07 else None
    ends = Counter()
    for resume in (False, True, True, True):  # a coordinator that is started again and again
        try:
            run_rounds(
                federation.grid(stage_seconds=0.02),
                federation.folder.path,
                federation.settings,
                resume=resume,
                timeout=0.02,
            )
        except HanseError as error:
            ends[error.code] += 1
    outcomes = Counter(line["outcome"] for line in trained(federation))
    assert len(outcomes) > 2, outcomes  # rounds were summed, and lost in several ways
    assert any(line["attempts"] == 2 for line in trained(federation))
    sent = masked_vectors(federation)
    manifest = federation.manifest()
    # The figures themselves, for who runs this with -s.
    print(f"{terms}: {sum(sent.values())} exchanges answered, rounds {dict(outcomes)}")
    for name in federation.names:
        entries = list(federation.node(name).ledger)
        charges = [entry for entry in entries if entry.kind == "charge"]
        assert len(charges) == sent[name]
        for kind in manifest.kinds:
            assert sum(e.release.kind == kind for e in charges) <= manifest.granted(kind)
        exchanges = {(e.release.run, e.release.exchange, e.release.attempt) for e in charges}
        assert len(exchanges) == len(charges)
        assert len(entries) - len(charges) <= 1 + len(charges)
