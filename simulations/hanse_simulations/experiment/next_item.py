"""`hanse simulate sequences`: next-item prediction on a research data set, compared with papers."""

from __future__ import annotations

from dataclasses import replace

from hanse_client.model.config import SequenceConfig
from hanse_client.tasks.next_item.metrics import Ranks
from hanse_client.tasks.next_item.model import SequenceModel
from hanse_client.tasks.next_item.task import NextItemTask, next_item
from hanse_common.config import RunSettings
from hanse_simulations.datasets.sequences import Read, read_sequences
from hanse_simulations.evaluation.next_item_baselines import markov, popularity
from hanse_simulations.evaluation.published_figures import published
from hanse_simulations.experiment.study import Study, data_file
from hanse_simulations.monitoring.progress import Progress
from hanse_simulations.recipes import sequences, sequences_centralized, sequences_federated

_TASK = NextItemTask()


def read_study(settings: RunSettings, progress: Progress) -> Study:
    """Read the data set that the settings name.

    Raises:
        ConfigError: The settings name no data set.
        DataError: The data set cannot be read.
    """
    path = data_file(settings, "Beauty.txt")
    progress.note(f"reading {path}")
    read = read_sequences(path, min_count=next_item(settings).min_count)
    data = read.sequences

    def baselines() -> dict[str, Ranks]:
        known = _TASK.training_data(data, settings)
        return {
            "global_popularity": popularity(known, data, "test"),
            "markov": markov(known, data, "test"),
        }

    return replace(
        study_of(read),
        data_note=f"{path.name}: {read.note}",
        baselines=baselines,
        published=published(len(data), data.items, read.interactions),
        notes=_notes(settings, read),
    )


def study_of(read: Read) -> Study:
    """The study of a data set of sequences."""

    def fresh(settings: RunSettings) -> SequenceModel:
        shape = SequenceConfig(
            items=read.sequences.items,
            n_layer=settings.model.n_layer,
            n_head=settings.model.n_head,
            n_embd=settings.model.n_embd,
            max_steps=settings.model.max_steps,
            dropout=next_item(settings).dropout,
        )
        return SequenceModel.fresh(shape, seed=settings.seed)

    return Study(
        data=read.sequences,
        base=fresh,
        private=sequences,
        federated=sequences_federated,
        centralized=sequences_centralized,
    )


def _notes(settings: RunSettings, read: Read) -> list[str]:
    through, least = next_item(settings).train_through_validation, next_item(settings).min_count
    notes = [
        "Leave-one-out: the last item is the test, the one before it the validation; training "
        + ("goes through the validation item." if through else "ends before the validation item."),
        "Full ranking of all items that the customer had not taken before, as S3-Rec and the "
        "papers after it rank; all_… lets everything rank.",
        "Sampling and noise are seeded, so that the run can be repeated: a simulation, not a "
        "release.",
    ]
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
