"""Stage 0 of an exchange at a store, after the guard: train or evaluate, and quantise.

Training comes before the Hello, so that a store which fails or is slow never enters the roster.
The vector waits in the node's folder, and nothing of it leaves before stage 2.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hanse_client.features.prepare import check_prepared
from hanse_client.guard import Admitted, Order
from hanse_client.node import Randomness
from hanse_client.rounds.secure_exchange import Answer, Waiting
from hanse_client.tasks import task_of
from hanse_client.training import evaluate as evaluate_module
from hanse_client.training import train as train_module
from hanse_client.training.statistics import statistics_sum
from hanse_client.training.train import at_home, check_ready
from hanse_common.errors import OutOfTurn, unable
from hanse_common.instructions import MESSAGE
from hanse_common.phases import EVALUATE, TRAIN, is_released
from hanse_common.privacy.plan import PrivacyPlan
from hanse_common.roundlog.evidence import COSIGNATURE
from hanse_common.secagg.layout import Integers
from hanse_common.vector import (
    Draws,
    Trained,
    encode_evaluation,
    encode_statistics,
    encode_training,
    evaluation_names,
)

if TYPE_CHECKING:
    from torch import nn

    from hanse_client.node import Node
    from hanse_common.config import RunSettings
    from hanse_common.manifest import Manifest

_log = logging.getLogger(__name__)


class Learner(Protocol):
    """What trains and evaluates at a store: the tasks of a shop, or an app of somebody else.

    Guard, journal, ledger, masks and noise are the same for both.
    """

    def current(self, admitted: Admitted, order: Order) -> None:
        """Check that what was prepared is that of the store's data today.

        Raises:
            DataError: It has to be prepared again.
        """
        ...

    def ready(self, admitted: Admitted, order: Order) -> None:
        """Check that the store can train as ordered; an error of it is visible as a refusal.

        Guarantees:
            What it does depends on signed terms and on the store, on nothing that a coordinator
            can choose: a refusal then says nothing about single customers.
        """
        ...

    def vector(self, admitted: Admitted, order: Order, *, noise_alone: bool = False) -> Integers:
        """Train or evaluate, and encode the result as the manifest says.

        Args:
            admitted: The checked message.
            order: Its order.
            noise_alone: Read no data, and encode a result of zeros with its noise.
        """
        ...


def compute_update(admitted: Admitted, learner: Learner | None = None) -> Answer:
    """Train or evaluate as ordered, store the vector for masking, and return the Hello.

    Args:
        admitted: A checked order to begin an exchange.
        learner: What trains here; the shop's task if left out.

    Returns:
        The Hello, with the cosignature of the coordinator's round log.

    Raises:
        ProtocolError [unable]: The store's data cannot be used. The error is the same whatever
            the reason is, which stands in the store's own log.
        ProtocolError: See `SecureExchange.begin`.
        OutOfTurn: The message is not an order to begin an exchange.

    Guarantees:
        A vector is masked in one attempt at most. A second attempt has a fresh sample, noise and
        rounding, unless the first attempt's vector was never masked and the store's data are
        still those that it was computed on.
    """
    order = admitted.order
    if order is None:
        raise OutOfTurn("the message begins no exchange")
    exchange, instructions = admitted.exchange, order.instructions
    unmasked = exchange.unmasked(order.header, instructions.digest)
    # `begin` enters the attempt in the journal before any data are read, so that the coordinator
    # cannot ask again until an answer pleases it; it also deletes the vector that waits.
    hello = exchange.begin(order.header, order.kind)
    vector = _compute(admitted, order, unmasked, learner or ShopLearner())
    # On disk before the Hello leaves.
    exchange.put_aside(
        Waiting(
            header=order.header,
            instructions_digest=instructions.digest,
            kind=order.kind,
            number=instructions.round,
            vector=vector,
            charge=order.charge,
        )
    )
    answer = {MESSAGE: hello.encode()}
    return answer if order.cosignature is None else {**answer, COSIGNATURE: order.cosignature}


def base_model(node: Node, settings: RunSettings) -> nn.Module:
    """The task's initial model, frozen; its trained parameters and sums come with each message.

    Guarantees:
        Its released sums are zero, whatever was loaded into it before: the model is read once a
        process, and a message does not name the sums that are not released yet.
    """
    model = _base_model(node.settings.base_model, settings.task)
    for name, parameter in model.named_parameters():
        if is_released(name):
            parameter.detach().zero_()
    return model


@lru_cache(maxsize=1)
def _base_model(folder: Path, task: str) -> nn.Module:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    return task_of(task).load_model(folder)


def _compute(
    admitted: Admitted, order: Order, unmasked: Waiting | None, learner: Learner
) -> Integers:
    """Train or evaluate, and quantise the result; or return the one of an unmasked attempt.

    Raises:
        ProtocolError [unable]: The data cannot be read, or clipping is not exact on them;
            without privacy also any later failure.

    Guarantees:
        With privacy, a failure after the coordinator's model was loaded is answered with noise
        alone, like a success.
    """
    # This part may fail visibly: it depends on signed settings, and the check of clipping has
    # weights of its own, so that a coordinator learns nothing that it can choose.
    try:
        # First: a customer who was erased meanwhile may be in the unmasked vector too.
        learner.current(admitted, order)
        if unmasked is not None:
            return unmasked.vector
        learner.ready(admitted, order)
    except Exception as error:
        _log_locally(admitted, order, error)
        raise unable() from None
    # This part may not: a model can be crafted to fail for certain customers only.
    try:
        return learner.vector(admitted, order)
    except Exception as error:
        _log_locally(admitted, order, error)
        if order.charge is None:
            raise unable() from None
        return learner.vector(admitted, order, noise_alone=True)


def _log_locally(admitted: Admitted, order: Order, error: Exception) -> None:
    """Write an error to the store's own log; its text may quote data and must not leave."""
    number = order.instructions.round
    with suppress(OSError):  # the error may be that the disk is full
        admitted.node.log(round=number, error=f"{type(error).__name__}: {error}")
    _log.warning("cannot compute on this store's data: its log.jsonl says why")
    _log.debug("cannot compute", exc_info=True)


class ShopLearner:
    """Trains the task that the settings name, on the histories that the shop has prepared."""

    def current(self, admitted: Admitted, order: Order) -> None:
        """See `Learner`."""
        check_prepared(admitted.node, order.settings)

    def ready(self, admitted: Admitted, order: Order) -> None:
        """See `Learner`; checks that clipping is exact, or that the data can be read."""
        node, settings = admitted.node, order.settings
        model = base_model(node, settings)
        if order.kind == TRAIN and order.charge is not None:
            check_ready(node, model, settings, order.instructions.round)
        else:
            task_of(settings.task).load_data(node)

    def vector(self, admitted: Admitted, order: Order, *, noise_alone: bool = False) -> Integers:
        """See `Learner`."""
        model = base_model(admitted.node, order.settings)
        return _vector(admitted, order, model, noise_alone=noise_alone)


def _vector(
    admitted: Admitted, order: Order, model: nn.Module, *, noise_alone: bool = False
) -> Integers:
    node, manifest = admitted.node, admitted.enrolment.manifest
    instructions, settings = order.instructions, order.settings
    plan, number = PrivacyPlan.from_settings(settings), instructions.round
    exchange, attempt = instructions.exchange, instructions.attempt
    if order.kind == TRAIN:
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
    if order.kind != EVALUATE:
        values = statistics_sum(
            node, model, settings, order.arrays, number, noise_alone=noise_alone
        )
        draws = _draws(node, exchange, attempt)
        return encode_statistics(values, manifest, order.kind, plan=plan, draws=draws)
    names = evaluation_names(settings.task, settings.metrics)
    sums = dict.fromkeys(names, 0.0)
    if not noise_alone:
        figures = evaluate_module.evaluate_round(
            node, model, settings, order.arrays, split=instructions.split, number=number
        )
        # People whose home is another store are counted there: the noise covers one store each.
        counted = at_home(node, task_of(settings.task).load_data(node), settings).active()
        all_sums = figures.sums(counted)
        sums = {name: all_sums[name] for name in names}
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
    """Encode a training result with this store's own randomness; see `encode_training`."""
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
    """Encode evaluation sums with this store's own randomness; see `encode_evaluation`."""
    return encode_evaluation(sums, manifest, plan=plan, draws=_draws(node, exchange, attempt))


def _draws(node: Node, exchange: int, attempt: int) -> Draws:
    return Draws(
        rounding=node.generator(exchange, Randomness.ROUNDING, attempt=attempt),
        noise=node.generator(exchange, Randomness.RELEASE_NOISE, attempt=attempt),
    )
