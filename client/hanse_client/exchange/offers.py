"""Stage 0 of an exchange at a store: check what is asked, compute, and offer it for masking.

Training comes first, so that a store which fails or is slow never enters the roster. What was
computed waits in the node's folder; nothing of it leaves before stage 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hanse_client.enrolment import Enrolment
from hanse_client.exchange.secure import Answer, Cost, SecureExchange, Waiting, release
from hanse_client.exchange.witness import Witness
from hanse_client.leaving import check_staying
from hanse_client.node import Node
from hanse_common.config import RunSettings
from hanse_common.federation import check_instructions, grant_of
from hanse_common.instructions import Instructions, NDArray, evaluation_names
from hanse_common.privacy.plan import PrivacyPlan
from hanse_common.roundlog.evidence import COSIGNATURE
from hanse_common.secagg.layout import Integers

if TYPE_CHECKING:
    from torch import nn


def offer(
    node: Node,
    enrolment: Enrolment,
    told: Instructions,
    settings: RunSettings,
    model: nn.Module,
    arrays: Mapping[str, NDArray],
) -> Answer:
    """Do what the coordinator asks, if the manifest allows it, and say hello.

    Args:
        node: The store.
        enrolment: Its membership.
        told: The exchange.
        settings: The run's.
        model: Anything of the right shape; it is overwritten with `arrays`.
        arrays: Trained parameters of the global model.

    Returns:
        The Hello, with the cosignature of the coordinator's round log.

    Raises:
        LogForked: The exchange is not announced in the round log that this store knows.
        StoreLeft: The store takes part in no round as late as this.
        PolicyViolation: The message asks for something beyond the manifest, or the
            manifest for something beyond the store's policy.
        BudgetSpent: It would cost more than the store's policy allows.
        AttemptRefused: The attempt, or a later one, was made before.
        HanseError: As training and evaluation do.

    Edge cases:
        A second attempt offers the update of the first, if it is still there: nothing is
        trained or noised anew.
    """
    check_staying(node.folder, told.round)
    check_instructions(told, settings, arrays, enrolment.manifest)
    cosignature = Witness(node, enrolment).cosign(told)
    exchange = SecureExchange(node, enrolment)
    header = exchange.header(told)
    plan = PrivacyPlan.from_settings(settings)
    cost = _cost(told, plan)
    if cost is not None:
        node.check_affordable(
            cost.steps,
            target_delta=cost.target_delta,
            budget=enrolment.policy.budget,
            grant=grant_of(enrolment.manifest),
            release=release(header, told.kind, told.round, cost),
        )
    kept = exchange.waiting(header, told.digest)
    if kept is not None:
        vector = kept.vector
    else:
        vector = _computed(node, enrolment, told, settings, model, arrays, plan)
    hello = exchange.begin(
        Waiting(
            header=header,
            asked=told.digest,
            kind=told.kind,
            number=told.round,
            vector=vector,
            cost=cost,
        )
    )
    return hello if cosignature is None else {**hello, COSIGNATURE: cosignature}


def _computed(
    node: Node,
    enrolment: Enrolment,
    told: Instructions,
    settings: RunSettings,
    model: nn.Module,
    arrays: Mapping[str, NDArray],
    plan: PrivacyPlan | None,
) -> Integers:
    """Train or evaluate, and quantise what came of it."""
    from hanse_client.exchange.vector import evaluation_vector, training_vector
    from hanse_client.figures.evaluate import evaluate_round
    from hanse_client.tasks import task_of
    from hanse_client.training.train import at_home, train_round

    manifest, number, exchange = enrolment.manifest, told.round, told.exchange
    if told.kind == "train":
        trained = train_round(node, model, settings, arrays, number, proximal_mu=told.proximal_mu)
        return training_vector(node, trained, manifest, plan=plan, exchange=exchange)
    figures = evaluate_round(node, model, settings, arrays, split=told.split, number=number)
    # Elsewhere the others are counted; the noise is measured by one store a person.
    counted = at_home(node, task_of(settings.task).load_data(node), settings).active()
    found = figures.sums(counted)
    sums = {name: found[name] for name in evaluation_names(settings.task)}
    return evaluation_vector(node, sums, manifest, plan=plan, exchange=exchange)


def _cost(told: Instructions, plan: PrivacyPlan | None) -> Cost | None:
    if plan is None:
        return None
    trains = told.kind == "train"
    steps = plan.round_cost() if trains else plan.evaluation_cost()
    if steps is None:
        return None
    return Cost(
        steps=steps,
        target_delta=plan.target_delta,
        mode=plan.mode,
        max_grad_norm=plan.max_grad_norm if trains else 0.0,
    )
