"""A store that leaves: up to its round it takes part, from then on it does nothing."""

from __future__ import annotations

from hanse_client.deployment.leave import Leaving, stay
from hanse_common.instructions import ATTEMPT


def test_a_store_takes_part_up_to_its_round_and_then_refuses_before_it_trains(found_federation):
    federation = found_federation({"federation.rounds": 3})
    name = federation.names[0]
    Leaving(after_round=1).save(federation.node(name).folder)
    assert federation.tell(name, **{"server-round": 1}).has_content()
    trained = federation.steps_trained(name)
    assert trained > 0

    refusal = federation.tell(name, **{"server-round": 2, ATTEMPT: 1})
    assert refusal.error.reason.startswith("[store-left] this store left the federation after")
    assert federation.steps_trained(name) == trained

    again = federation.tell(name, **{"server-round": 1, ATTEMPT: 2})
    assert again.error.reason.startswith("[store-left]"), "the door stays closed"
    assert federation.tell_nothing(name).error.reason.startswith("[store-left]")
    assert federation.tell(name, "evaluate", split="validate").has_error()

    stay(federation.node(name).folder)
    assert federation.tell_nothing(name).has_content()


def test_the_others_go_on_without_it(found_federation):
    federation = found_federation({"federation.minimum_cohort": 4})
    name = federation.names[0]
    grid = federation.grid()
    assert len(grid.stores) == 5
    Leaving(after_round=0).save(federation.node(name).folder)
    messages = federation.messages(**{"server-round": 1})
    result = grid.exchange(messages, timeout=5)
    assert result.replies[0].has_content()
    lost = result.refusals
    assert list(lost) == [name] and "[store-left] this store has left" in lost[name]
