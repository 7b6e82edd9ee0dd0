"""`hanse simulate reviews`: predict the stars or the sentiment of reviews."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from transformers.utils.logging import set_verbosity_error

from hanse_client.tasks.review.features import (
    TEST,
    TRAIN,
    Reviews,
    Texts,
    prepare_reviews,
    read_reviews,
)
from hanse_client.tasks.review.metrics import Verdicts
from hanse_client.tasks.review.model import ReviewModel
from hanse_common.config import RunSettings
from hanse_common.recipes import (
    RECIPES,
    reviews,
    reviews_centralized,
    reviews_federated,
)
from hanse_simulations.experiment.study import Study, data_file
from hanse_simulations.monitoring.progress import Progress


def read_study(settings: RunSettings, progress: Progress) -> Study:
    """Read the file of reviews that the settings name.

    Raises:
        ConfigError: The settings name no file, or there is no such encoder.
        DataError: The file cannot be used.
    """
    path = data_file(settings, "reviews.csv")
    set_verbosity_error()  # transformers warns that the pooling layer is missing, on purpose
    progress.note(f"reading {path}")
    texts = read_reviews(path)
    data = prepare_reviews(
        texts,
        encoder=settings.model.encoder,
        tokens=settings.model.max_steps,
        seed=settings.seed,
    )
    left_out = sum(texts.rejected.values())
    return replace(
        study_of(texts, data, recipe=settings.recipe),
        data_note=f"{path.name}: {len(texts.texts):,} reviews by {len(data):,} customers, "
        f"{len(texts.names)} labels; {left_out:,} rows left out",
        baselines=lambda: rules(texts, data),
        notes=_notes(settings, texts, data),
    )


def study_of(texts: Texts, data: Reviews, *, recipe: str = "reviews") -> Study:
    """The study of a file of reviews.

    Args:
        texts: The reviews.
        data: The same, prepared.
        recipe: Name of the private arm's recipe.
    """

    def fresh(settings: RunSettings) -> ReviewModel:
        model = settings.model
        return ReviewModel.fresh(
            texts.names,
            encoder=model.encoder,
            trainable=model.trainable,
            seed=settings.seed,
            statistics=bool(settings.schedule.statistics),
        )

    return Study(
        data=data,
        base=fresh,
        private=RECIPES.get(recipe, reviews),
        federated=reviews_federated,
        centralized=reviews_centralized,
    )


def rules(texts: Texts, data: Reviews) -> dict[str, dict[str, float]]:
    """The most frequent label, and logistic regression on words, both centralized.

    Returns:
        Metrics on the customers held out for the test, by rule.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    place = np.searchsorted(data.customers, np.array(texts.users, dtype=np.str_))
    part = data.part[place]
    labels, words = np.array(texts.labels), np.array(texts.texts, dtype=object)
    known, held = part == TRAIN, part == TEST
    counts = np.bincount(labels[known], minlength=len(texts.names)).astype(np.float64)
    shares = np.tile(counts / counts.sum(), (int(held.sum()), 1))
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        LogisticRegression(C=10.0, max_iter=1000),
    ).fit(words[known], labels[known])
    chances = np.zeros_like(shares)
    chances[:, model.classes_] = model.predict_proba(words[held])
    return {
        name: Verdicts(
            chances=rule.astype(np.float32), labels=labels[held], customers=place[held]
        ).metrics()
        for name, rule in (("most_frequent", shares), ("words", chances))
    }


def _notes(settings: RunSettings, texts: Texts, data: Reviews) -> list[str]:
    counts = np.bincount(data.part, minlength=3)
    notes = [
        f"{counts[0]:,} customers train, {counts[1]:,} validate, {counts[2]:,} are the test; "
        "no customer is in two of them.",
        "Privacy unit: a customer with all their reviews; "
        + (
            "a sum of statistics has their mean."
            if settings.schedule.gradient is None
            else "one of them is drawn a step."
        ),
        "Sampling and noise are seeded, so that the run can be repeated: a simulation, not a "
        "release.",
    ]
    if not texts.listed:
        notes.append(
            "The labels are those that the file's customers gave: epsilon does not cover which "
            "there are. A list of them, one a line, in a file .labels next to the data is public."
        )
    return notes
