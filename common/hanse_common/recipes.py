"""Recipes: named functions, each of which returns the complete configuration of a run.

>>> RECIPES["grocery"]().data.partition
'regions'
>>> print(*list(RECIPES)[-4:])
sequences-texts reviews reviews-gradient conversion
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final

from hanse_common.config import (
    DataSettings,
    FederationSettings,
    ModelSettings,
    NextItemSettings,
    Partition,
    PrivacySettings,
    RunSettings,
    Split,
    TrainingSettings,
)
from hanse_common.phase_settings import PhaseSettings


def grocery() -> RunSettings:
    """Twelve co-shopping regions of Complete Journey; households disjoint by home region.

    Two sums of statistics, then a small head on the frozen base. Without privacy the base is
    trained whole.
    """
    return RunSettings(
        recipe="grocery",
        data=DataSettings(source="complete-journey", partition="regions", min_items=20),
        model=ModelSettings(trainable="heads"),
        phases=(
            PhaseSettings(name="category-pairs", release="statistics", share=0.16),
            PhaseSettings(name="class-residuals", release="statistics", share=0.24),
            PhaseSettings(share=0.6),
        ),
        # All customers in every round: what the frozen base makes of them is kept, so that a
        # round is cheap, and of all sampling rates 1 has the most signal for the noise.
        training=TrainingSettings(
            sample_rate=1.0,
            learning_rate=2.0,
            # That of twelve regions at epsilon 2.
            reference_noise=0.011,
            expected_batch_size=175.0,
        ),
        transformer_training=TrainingSettings(
            sample_rate=0.1,
            local_steps=5,
            anchors=1,
            non_private_optimizer="adam",
            non_private_learning_rate=0.002,
        ),
        privacy=PrivacySettings(
            mode="distributed",
            target_epsilon=4.0,
            max_grad_norm=0.0625,
            # Gradients have noise of ten times the clip: as little on counts and losses would
            # cost as much of epsilon as they do.
            statistics_noise_multiplier=100.0,
        ),
        federation=FederationSettings(
            rounds=42,
            strategy="FedAvgM",
            strategy_options={"server_momentum": 0.9},
            average_last=0.5,
            evaluate_every=42,
        ),
    )


def grocery_rules() -> RunSettings:
    """The same regions by a transformer over visits that amends rules; the rules are trained."""
    return RunSettings(
        recipe="grocery-rules",
        data=DataSettings(source="complete-journey", partition="regions", min_items=20),
        model=ModelSettings(kind="visits", trainable="rules"),
        training=TrainingSettings(
            sample_rate=0.1,
            learning_rate=3.2,
            expected_batch_size=16.0,
            outlook_weight=2.0,
            non_private_learning_rate=1.6,
        ),
        transformer_training=TrainingSettings(
            sample_rate=0.1,
            outlook_weight=2.0,
            non_private_optimizer="adam",
            non_private_learning_rate=0.004,
        ),
        privacy=PrivacySettings(mode="distributed", target_epsilon=4.0, max_grad_norm=0.5),
        federation=FederationSettings(rounds=80, strategy="FedAvg", evaluate_every=20),
    )


def grocery_shops() -> RunSettings:
    """The 99 home shops with at least ten households: many small stores."""
    return _single_shops("grocery-shops", "home")


def grocery_visits() -> RunSettings:
    """Shops of purchase: a household is a customer of 4.2 shops, the hard case for privacy."""
    return _single_shops("grocery-visits", "visits")


def _single_shops(recipe: str, partition: Partition) -> RunSettings:
    """Grocery with shops instead of regions: some 21 customers each, so a smaller divisor."""
    return grocery().with_changes(
        {
            "recipe": recipe,
            "data.partition": partition,
            "training.expected_batch_size": 21.0,
        }
    )


def smoke() -> RunSettings:
    """Four small real regions and a few rounds: a complete run in well under a minute."""
    return grocery().with_changes(
        {
            "recipe": "smoke",
            "data.stores": 4,
            "data.customers": 40,
            "federation.rounds": 4,
            "federation.evaluate_every": 2,
        }
    )


def synthetic() -> RunSettings:
    """Seeded synthetic shoppers of any size: for machinery and scale, not for claims."""
    return grocery_rules().with_changes(
        {
            "recipe": "synthetic",
            "data": DataSettings(source="synthetic", stores=6, customers=40).model_dump(),
            "federation.rounds": 10,
        }
    )


def sequences() -> RunSettings:
    """Next item of a research data set (`data.path`), private: fifty stores, noise shared.

    Only the popularity of items is trained. An item table is as large as the list of items,
    and noise on all of it leaves nothing (`docs/published.md`).
    """
    return RunSettings(
        recipe="sequences",
        task="next-item",
        data=DataSettings(source="sequences", stores=50, min_customers=2),
        model=ModelSettings(n_layer=1, n_head=2, n_embd=64, max_steps=50, trainable="rules"),
        next_item=NextItemSettings(negatives=2048, dropout=0.3),
        training=TrainingSettings(sample_rate=0.5, learning_rate=1000.0, expected_batch_size=224.0),
        privacy=PrivacySettings(mode="distributed", target_epsilon=8.0, max_grad_norm=0.5),
        federation=FederationSettings(rounds=5, evaluate_every=5, max_drawn=512),
    )


def sequences_by_texts() -> RunSettings:
    """Next item from public texts of the items (`data.catalogue`), private: fifty stores.

    Noisy popularity first, then a linear head in twelve rounds of all customers, then noisy
    counts of pairs on the graph that popularity and head propose.
    """
    base = sequences()
    return RunSettings(
        recipe="sequences-texts",
        task="next-item",
        data=base.data,
        model=ModelSettings(max_steps=20, trainable="heads"),
        next_item=NextItemSettings(negatives=256),
        # Head and clip were chosen on Amazon Beauty's validation items.
        training=TrainingSettings(
            sample_rate=1.0,
            learning_rate=300.0,
            final_learning_rate=0.3,
            expected_batch_size=447.0,
            loss_clip=200.0,
        ),
        privacy=base.privacy.model_copy(
            # The default of 10 takes four fifths of the head's budget at epsilon 4, and all of
            # it at 2.
            update={"statistics_noise_multiplier": 100.0}
        ),
        federation=FederationSettings(
            rounds=14,
            evaluate_every=14,
            # The first rounds' sums have a norm of 2,000 clips on Amazon Beauty; a smaller bound
            # would shorten them.
            max_drawn=2048,
            strategy="FedAvgM",
            strategy_options={"server_learning_rate": 1.0, "server_momentum": 0.5},
        ),
        phases=(
            PhaseSettings(name="popularity", release="statistics", share=0.07),
            PhaseSettings(share=0.23),
            PhaseSettings(name="pairs", release="statistics", share=0.7),
        ),
    )


def _sequences_by_item_table() -> RunSettings:
    """Next item without privacy, all parameters: scores are cosines of states and items."""
    return sequences().with_changes(
        {
            "model.trainable": "all",
            "model.n_embd": 128,
            "next_item": NextItemSettings(
                negatives=512, dropout=0.2, item_dropout=0.2, temperature=0.07
            ).model_dump(),
            "privacy": {"mode": "none"},
        }
    )


def sequences_federated() -> RunSettings:
    """The same stores without privacy: a gradient per round, Adam at the server.

    Averages of several local steps do not train an item table: most items are known to one
    store, and the average divides what it learnt by their number.
    """
    return _sequences_by_item_table().with_changes(
        {
            "training": TrainingSettings(
                sample_rate=0.1, non_private_optimizer="sgd", non_private_learning_rate=1.0
            ).model_dump(),
            "federation": FederationSettings(
                rounds=150,
                evaluate_every=150,
                strategy="FedAdam",
                strategy_options={"eta": 0.01, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-9},
                # In place of smaller late steps: Adam's do not follow the stores' learning rate.
                average_last=0.3,
            ).model_dump(),
        }
    )


def sequences_centralized() -> RunSettings:
    """All customers in one place, no privacy: the setting of the papers."""
    return _sequences_by_item_table().with_changes(
        {
            "data.stores": 1,
            # 175 steps of 128 customers in expectation are one pass over Amazon Beauty.
            "training": TrainingSettings(
                sample_rate=128 / 22_363,
                local_steps=175,
                non_private_optimizer="adam",
                non_private_learning_rate=0.002,
            ).model_dump(),
            "federation": FederationSettings(rounds=10, evaluate_every=10).model_dump(),
        }
    )


def reviews() -> RunSettings:
    """Stars or sentiment of reviews (`data.path`), private: ten stores, noise shared.

    The public text encoder is frozen; what reads its vectors is computed from two noisy sums, to
    each of which half of the budget goes (`docs/model.md`). No gradient is released.
    """
    return reviews_gradient().with_changes(
        {
            "recipe": "reviews",
            "phases": [
                {"name": "label-means", "release": "statistics", "share": 0.5},
                {"name": "text-moments", "release": "statistics", "share": 0.5},
            ],
            "federation.rounds": 2,
            "federation.evaluate_every": 2,
        }
    )


def reviews_gradient() -> RunSettings:
    """The same by thirty noisy steps of the head that reads the encoder's vectors."""
    return RunSettings(
        recipe="reviews-gradient",
        task="review",
        data=DataSettings(source="reviews", stores=10, min_customers=2),
        model=ModelSettings(max_steps=64, trainable="heads"),
        training=TrainingSettings(sample_rate=0.2, learning_rate=0.3, expected_batch_size=26.0),
        privacy=PrivacySettings(mode="distributed", target_epsilon=8.0, max_grad_norm=1.0),
        federation=FederationSettings(rounds=30, evaluate_every=30),
    )


def reviews_federated() -> RunSettings:
    """The same stores without privacy: low-rank factors in addition to the encoder, averaged."""
    return reviews_gradient().with_changes(
        {
            "model.trainable": "lora:4",
            "privacy": {"mode": "none"},
            "training": TrainingSettings(
                sample_rate=0.25,
                local_steps=4,
                non_private_optimizer="adam",
                non_private_learning_rate=0.002,
            ).model_dump(),
            "federation": FederationSettings(rounds=12, evaluate_every=12).model_dump(),
        }
    )


def reviews_centralized() -> RunSettings:
    """All reviews in one place, without privacy: low-rank factors in addition to the encoder."""
    return reviews_gradient().with_changes(
        {
            "model.trainable": "lora:4",
            "data.stores": 1,
            "privacy": {"mode": "none"},
            "training": TrainingSettings(
                sample_rate=0.05,
                local_steps=5,
                non_private_optimizer="adam",
                non_private_learning_rate=0.002,
            ).model_dump(),
            "federation": FederationSettings(rounds=12, evaluate_every=12).model_dump(),
        }
    )


def conversion() -> RunSettings:
    """Who redeems a campaign's coupons, private: twelve regions of Complete Journey.

    The split is the task's own: in the other recipes' test weeks only three campaigns would
    begin, and many of those in training would not be over. Clip, rate and rounds were chosen on
    the campaign of 8 August, with training on those over by then.
    """
    return RunSettings(
        recipe="conversion",
        task="conversion",
        data=DataSettings(
            source="complete-journey",
            split=Split(
                train_until=datetime(2017, 9, 25),
                validate_until=datetime(2017, 10, 16),
                test_until=datetime(2017, 12, 25),
            ),
        ),
        training=TrainingSettings(
            sample_rate=0.5,
            learning_rate=10.0,
            expected_batch_size=58.0,
            non_private_learning_rate=3.0,
        ),
        privacy=PrivacySettings(mode="distributed", target_epsilon=8.0, max_grad_norm=1.0),
        federation=FederationSettings(rounds=40, evaluate_every=40),
    )


def conversion_federated() -> RunSettings:
    """The same stores without privacy: all customers in every round."""
    return conversion().with_changes({"privacy": {"mode": "none"}, "training.sample_rate": 1.0})


def conversion_centralized() -> RunSettings:
    """All customers in one place, without privacy."""
    return conversion_federated().with_changes({"data.stores": 1})


def attack() -> RunSettings:
    """The default of `hanse audit attack`: many small synthetic stores.

    Thirty stores, so that sigma/n is well below sigma/sqrt(n); more trained parameters than
    the rules have, so that a thousand canaries can have one each.
    """
    return synthetic().with_changes(
        {
            "recipe": "attack",
            "data.stores": 30,
            "data.customers": 10,
            "model.trainable": "heads",
            "training.sample_rate": 0.5,
            "privacy.target_epsilon": 2.0,
            "federation.rounds": 8,
            # The claim under attack is what these rounds cost, with nothing set aside.
            "federation.spare_exchanges": 0,
        }
    )


RECIPES: Final[dict[str, Callable[[], RunSettings]]] = {
    "grocery": grocery,
    "grocery-rules": grocery_rules,
    "grocery-shops": grocery_shops,
    "grocery-visits": grocery_visits,
    "smoke": smoke,
    "synthetic": synthetic,
    "attack": attack,
    "sequences": sequences,
    "sequences-texts": sequences_by_texts,
    "reviews": reviews,
    "reviews-gradient": reviews_gradient,
    "conversion": conversion,
}
