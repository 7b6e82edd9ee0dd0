"""`hanse simulate sequences`: next-item prediction on a research data set, compared with papers."""

from __future__ import annotations

from dataclasses import replace

from hanse_client.model.config import SequenceConfig
from hanse_client.tasks.next_item.item_vectors import ItemVectors, public_vectors
from hanse_client.tasks.next_item.metrics import Ranks
from hanse_client.tasks.next_item.model import SequenceModel
from hanse_client.tasks.next_item.task import NextItemModel, NextItemTask, next_item
from hanse_client.tasks.next_item.text_model import TextItemModel
from hanse_common.config import RunSettings
from hanse_common.errors import ConfigError
from hanse_common.paths import TEXTS_FOLDER
from hanse_common.recipes import (
    sequences,
    sequences_by_texts,
    sequences_centralized,
    sequences_federated,
)
from hanse_simulations.datasets.item_catalogue import ItemCatalogue, read_item_catalogue
from hanse_simulations.datasets.sequences import Read, read_sequences
from hanse_simulations.evaluation.next_item_baselines import (
    markov,
    nearest_texts,
    popularity,
)
from hanse_simulations.evaluation.published_figures import published
from hanse_simulations.experiment.prepare import cache_folder
from hanse_simulations.experiment.study import Study, data_file
from hanse_simulations.monitoring.progress import Progress

_TASK = NextItemTask()


def read_study(settings: RunSettings, progress: Progress) -> Study:
    """Read the data set that the settings name, and its catalogue if they name one.

    Raises:
        ConfigError: The settings name no data set, phases without a catalogue, or an encoder
            that is not here.
        DataError: The data set or the catalogue cannot be read.
    """
    path = data_file(settings, "Beauty.txt")
    catalogue = None
    if settings.data.catalogue is None and settings.phases:
        raise ConfigError(
            f"the recipe {settings.recipe!r} needs a catalogue of the items",
            hint="name one: --catalogue items.tsv",
        )
    if settings.data.catalogue is not None:
        progress.note(f"reading {settings.data.catalogue}")
        catalogue = read_item_catalogue(settings.data.catalogue)
    progress.note(f"reading {path}")
    read = read_sequences(
        path,
        min_count=next_item(settings).min_count,
        catalogue=None if catalogue is None else catalogue.items,
    )
    data = read.sequences
    vectors = None
    if catalogue is not None:
        progress.note("encoding the catalogue")
        vectors = _encoded(catalogue.arranged(read.names), settings)

    def baselines() -> dict[str, Ranks]:
        known = _TASK.training_data(data, settings)
        by_name = {
            "global_popularity": popularity(known, data, "test"),
            "markov": markov(known, data, "test"),
        }
        if vectors is not None:
            by_name["nearest_texts"] = nearest_texts(vectors, data, "test")
        return by_name

    return replace(
        study_of(read, vectors),
        data_note=f"{path.name}: {read.note}",
        baselines=baselines,
        published=published(len(data), data.items, read.interactions),
        notes=_notes(settings, read),
    )


def study_of(read: Read, vectors: ItemVectors | None = None) -> Study:
    """The study of a data set of sequences.

    Args:
        read: The data set.
        vectors: Public vectors of its items, with which private arms begin; without them they
            train an item table, as arms without privacy do.
    """

    def fresh(settings: RunSettings) -> NextItemModel:
        if vectors is not None and settings.privacy.mode != "none":
            return TextItemModel.fresh(
                vectors,
                max_steps=settings.model.max_steps,
                partners=next_item(settings).partners,
            )
        shape = SequenceConfig(
            items=read.sequences.items,
            n_layer=settings.model.n_layer,
            n_head=settings.model.n_head,
            n_embd=settings.model.n_embd,
            max_steps=settings.model.max_steps,
            dropout=next_item(settings).dropout,
            item_dropout=next_item(settings).item_dropout,
            score_temperature=next_item(settings).temperature,
        )
        return SequenceModel.fresh(shape, seed=settings.seed)

    return Study(
        data=read.sequences,
        base=fresh,
        private=sequences if vectors is None else sequences_by_texts,
        federated=sequences_federated,
        centralized=sequences_centralized,
    )


def _encoded(catalogue: ItemCatalogue, settings: RunSettings) -> ItemVectors:
    return public_vectors(
        catalogue.texts,
        catalogue.vectors,
        encoder=settings.model.encoder,
        cache=cache_folder() / TEXTS_FOLDER,
    )


def _notes(settings: RunSettings, read: Read) -> list[str]:
    through, least = next_item(settings).train_through_validation, next_item(settings).min_count
    notes = [
        "Leave-one-out: the last item is the test, the one before it the validation; training "
        + ("goes through the validation item." if through else "ends before the validation item."),
        "Full ranking of all items that the customer had not taken before, as S3-Rec and the "
        "papers after it rank; all_… lets everything rank. Between equal scores a hash of "
        "customer and item decides, not the item's number.",
        "Sampling and noise are seeded, so that the run can be repeated: a simulation, not a "
        "release.",
    ]
    if settings.data.catalogue is not None and settings.privacy.mode != "none":
        notes.append(
            f"Private arms start from the public vectors of {settings.data.catalogue.name} and "
            "train no item table; the row of nearest texts is what these alone reach. Arms "
            "without privacy train an item table and read no catalogue."
        )
    if not read.listed:
        notes.append(
            "The items are those that the file's customers took: epsilon does not cover which "
            "there are. A list of all items, one a line, in a file .items next to the data is "
            "public."
        )
    if least > 1:
        notes.append(
            f"Customers and items with fewer than {least} interactions were dropped, counted over "
            "everybody and without noise: epsilon does not cover who and what is left."
        )
    return notes
