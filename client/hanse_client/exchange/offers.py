"""Stage 0 of an exchange at a store, after the guard: compute, and offer it for masking.

Training comes first, so that a store which fails or is slow never enters the roster. What was
computed waits in the node's folder; nothing of it leaves before stage 2.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from hanse_client.exchange.secure import Answer, Waiting
from hanse_client.guard import Admitted, Order
from hanse_common.errors import OutOfTurn, StoreUnable
from hanse_common.instructions import evaluation_names
from hanse_common.roundlog.evidence import COSIGNATURE
from hanse_common.secagg.layout import Integers

if TYPE_CHECKING:
    from torch import nn

    from hanse_client.node import Node
    from hanse_common.config import RunSettings

_log = logging.getLogger(__name__)


def offer(admitted: Admitted) -> Answer:
    """Do what the coordinator asks and the guard let through, and say hello.

    Args:
        admitted: An order to begin an exchange.

    Returns:
        The Hello, with the cosignature of the coordinator's round log.

    Raises:
        StoreUnable: Something went wrong after the store's data were looked at. The words are
            in the store's own log; the error is the same whatever it was.
        ProtocolError: As `SecureExchange.begin` does.

    Guarantees:
        Every vector that is masked was drawn for that attempt alone: lots, noise and rounding
        of a second attempt are fresh, unless the first attempt's vector was never masked.
    """
    order = admitted.order
    if order is None:
        raise OutOfTurn("the message begins no exchange")
    exchange, instructions = admitted.exchange, order.instructions
    kept = exchange.unmasked(order.header, instructions.digest)
    vector = _computed(admitted, order) if kept is None else kept.vector
    hello = exchange.begin(
        Waiting(
            header=order.header,
            asked=instructions.digest,
            kind=instructions.kind,
            number=instructions.round,
            vector=vector,
            cost=order.cost,
        )
    )
    return hello if order.cosignature is None else {**hello, COSIGNATURE: order.cosignature}


def base_model(node: Node, settings: RunSettings) -> nn.Module:
    """The frozen start of the task's model; its trained parameters come with each message."""
    return _base_model(node.settings.base_model, settings.task)


@lru_cache(maxsize=1)
def _base_model(folder: Path, task: str) -> nn.Module:
    from transformers.utils.logging import disable_progress_bar

    from hanse_client.tasks import task_of

    disable_progress_bar()
    return task_of(task).load_model(folder)


def _computed(admitted: Admitted, order: Order) -> Integers:
    """Train or evaluate, and quantise what came of it.

    Raises:
        StoreUnable: For any reason, which may depend on customers and is not told.
    """
    try:
        return _vector(admitted, order)
    except Exception as error:
        with suppress(OSError):  # a full disk may be what is wrong
            admitted.node.log(
                round=order.instructions.round, error=f"{type(error).__name__}: {error}"
            )
        _log.debug("cannot compute", exc_info=True)
        raise StoreUnable from None


def _vector(admitted: Admitted, order: Order) -> Integers:
    from hanse_client.exchange.vector import evaluation_vector, training_vector
    from hanse_client.figures.evaluate import evaluate_round
    from hanse_client.tasks import task_of
    from hanse_client.training.train import at_home, train_round
    from hanse_common.privacy.plan import PrivacyPlan

    node, manifest = admitted.node, admitted.enrolment.manifest
    instructions, settings = order.instructions, order.settings
    model, number = base_model(node, settings), instructions.round
    plan, attempt = PrivacyPlan.from_settings(settings), instructions.attempt
    if instructions.kind == "train":
        trained = train_round(
            node,
            model,
            settings,
            order.arrays,
            number,
            proximal_mu=instructions.proximal_mu,
            attempt=attempt,
        )
        return training_vector(
            node, trained, manifest, plan=plan, exchange=instructions.exchange, attempt=attempt
        )
    figures = evaluate_round(
        node, model, settings, order.arrays, split=instructions.split, number=number
    )
    # Elsewhere the others are counted; the noise is measured by one store a person.
    counted = at_home(node, task_of(settings.task).load_data(node), settings).active()
    found = figures.sums(counted)
    sums = {name: found[name] for name in evaluation_names(settings.task)}
    return evaluation_vector(
        node, sums, manifest, plan=plan, exchange=instructions.exchange, attempt=attempt
    )
