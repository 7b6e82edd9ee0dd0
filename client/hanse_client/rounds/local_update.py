"""Stage 0 of an exchange at a store, after the guard: compute, and offer it for masking.

Training comes first, so that a store which fails or is slow never enters the roster. What was
computed waits in the node's folder; nothing of it leaves before stage 2.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from hanse_client.guard import Admitted, Order
from hanse_client.node import Randomness
from hanse_client.rounds.secure_exchange import Answer, Waiting
from hanse_client.tasks import task_of
from hanse_client.tasks.interest import metrics as evaluate_module
from hanse_client.training import train as train_module
from hanse_client.training.train import at_home, check_ready
from hanse_common.errors import OutOfTurn, unable
from hanse_common.instructions import MESSAGE
from hanse_common.privacy.plan import PrivacyPlan
from hanse_common.roundlog.evidence import COSIGNATURE
from hanse_common.secagg.layout import Integers
from hanse_common.vector import Draws, Trained, encode_evaluation, encode_training, evaluation_names

if TYPE_CHECKING:
    from torch import nn

    from hanse_client.node import Node
    from hanse_common.config import RunSettings
    from hanse_common.manifest import Manifest

_log = logging.getLogger(__name__)


def offer(admitted: Admitted) -> Answer:
    """Do what the coordinator asks and the guard let through, and say hello.

    Args:
        admitted: An order to begin an exchange.

    Returns:
        The Hello, with the cosignature of the coordinator's round log.

    Raises:
        ProtocolError [unable]: The store's data cannot be used. The words are in the store's own
            log; the error is the same whatever it was.
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
    hello = exchange.begin(order.header, instructions.kind)
    vector = _computed(admitted, order) if kept is None else kept.vector
    exchange.put_aside(
        Waiting(
            header=order.header,
            asked=instructions.digest,
            kind=instructions.kind,
            number=instructions.round,
            vector=vector,
            charge=order.charge,
        )
    )
    answer = {MESSAGE: hello.encode()}
    return answer if order.cosignature is None else {**answer, COSIGNATURE: order.cosignature}


def base_model(node: Node, settings: RunSettings) -> nn.Module:
    """The frozen start of the task's model; its trained parameters come with each message."""
    return _base_model(node.settings.base_model, settings.task)


@lru_cache(maxsize=1)
def _base_model(folder: Path, task: str) -> nn.Module:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    return task_of(task).load_model(folder)


def _computed(admitted: Admitted, order: Order) -> Integers:
    """Train or evaluate, and quantise what came of it.

    Raises:
        ProtocolError [unable]: The data cannot be read, or clipping is not exact on them; or,
            without privacy, anything else. The settings are signed and the check has weights of its
            own, so that a coordinator cannot ask anything by it.

    Guarantees:
        With privacy, what fails once the coordinator's model is in play is answered by noise
        alone: a model can be crafted to fail for some customers and not for others.
    """
    node, settings = admitted.node, order.settings
    try:
        model = base_model(node, settings)
        if order.instructions.kind == "train" and order.charge is not None:
            check_ready(node, model, settings, order.instructions.round)
        else:
            task_of(settings.task).load_data(node)
    except Exception as error:
        _keep_words(admitted, order, error)
        raise unable() from None
    try:
        return _vector(admitted, order, model)
    except Exception as error:
        _keep_words(admitted, order, error)
        if order.charge is None:
            raise unable() from None
        return _vector(admitted, order, model, noise_alone=True)


def _keep_words(admitted: Admitted, order: Order, error: Exception) -> None:
    """Write an error into the store's own log; its words may quote data."""
    number = order.instructions.round
    with suppress(OSError):  # a full disk may be what is wrong
        admitted.node.log(round=number, error=f"{type(error).__name__}: {error}")
    _log.warning("cannot compute on this store's data: its log.jsonl says why")
    _log.debug("cannot compute", exc_info=True)


def _vector(
    admitted: Admitted, order: Order, model: nn.Module, *, noise_alone: bool = False
) -> Integers:
    node, manifest = admitted.node, admitted.enrolment.manifest
    instructions, settings = order.instructions, order.settings
    plan, number = PrivacyPlan.from_settings(settings), instructions.round
    exchange, attempt = instructions.exchange, instructions.attempt
    if instructions.kind == "train":
        trained = train_module.train_round(
            node,
            model,
            settings,
            order.arrays,
            number,
            proximal_mu=instructions.proximal_mu,
            attempt=attempt,
            noise_alone=noise_alone,
        )
        return training_vector(
            node, trained, manifest, plan=plan, exchange=exchange, attempt=attempt
        )
    names = evaluation_names(settings.task)
    sums = dict.fromkeys(names, 0.0)
    if not noise_alone:
        figures = evaluate_module.evaluate_round(
            node, model, settings, order.arrays, split=instructions.split, number=number
        )
        # Elsewhere the others are counted; the noise is measured by one store a person.
        counted = at_home(node, task_of(settings.task).load_data(node), settings).active()
        found = figures.sums(counted)
        sums = {name: found[name] for name in names}
    return evaluation_vector(node, sums, manifest, plan=plan, exchange=exchange, attempt=attempt)


def training_vector(
    node: Node,
    trained: Trained,
    manifest: Manifest,
    *,
    plan: PrivacyPlan | None,
    exchange: int,
    attempt: int = 1,
) -> Integers:
    """Encode a round of training with this store's own randomness; see `encode_training`."""
    return encode_training(trained, manifest, plan=plan, draws=_draws(node, exchange, attempt))


def evaluation_vector(
    node: Node,
    sums: Mapping[str, float],
    manifest: Manifest,
    *,
    plan: PrivacyPlan | None,
    exchange: int,
    attempt: int = 1,
) -> Integers:
    """Encode an evaluation with this store's own randomness; see `encode_evaluation`."""
    return encode_evaluation(sums, manifest, plan=plan, draws=_draws(node, exchange, attempt))


def _draws(node: Node, exchange: int, attempt: int) -> Draws:
    return Draws(
        rounding=node.generator(exchange, Randomness.ROUNDING, attempt=attempt),
        noise=node.generator(exchange, Randomness.RELEASE_NOISE, attempt=attempt),
    )
