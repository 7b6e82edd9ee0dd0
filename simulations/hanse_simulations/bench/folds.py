"""K-fold cross-validation by customer: how well does a model serve customers it never saw?

Each fold's customers are removed from their stores before training and evaluated in the test
weeks, with their own past as input. They are compared with the customers trained on. A person
who shops at several stores is in the same fold everywhere, by the keyed lot that also assigns
homes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, pstdev

import numpy as np
import numpy.typing as npt
from rich.table import Table

from hanse_client.features.by_customer import lots
from hanse_client.features.histories import Histories
from hanse_client.tasks.interest import InterestModel
from hanse_client.tasks.interest.metrics import Figures, evaluate_histories
from hanse_common.config import RunSettings
from hanse_simulations.experiment.arms import Arm
from hanse_simulations.experiment.prepare import Prepared, prepare_run
from hanse_simulations.experiment.runner import runner
from hanse_simulations.report.wording import figure
from hanse_simulations.runs.arm_folder import ArmFolder

METRICS = ("ndcg@10", "explore_ndcg@10", "rise_auc", "fall_auc")
LABELS = {
    "held out": "customers left out of training",
    "trained on": "customers trained on",
    "untrained": "left out, model before training",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldRow:
    """Metrics of one fold's customers, or of the others."""

    fold: int
    who: str
    customers: int
    """Customers with a visit in the test weeks."""
    figures: dict[str, float]


def folds(
    settings: RunSettings, *, count: int = 5, progress: Callable[[str], None] = lambda _: None
) -> list[FoldRow]:
    """Train `count` federations, each without one fold of the customers, and evaluate it.

    Args:
        settings: A recipe's settings.
        count: Number of folds.
        progress: Called with a line before each training.

    Raises:
        HanseError: Data, privacy or a federation failed.
    """
    rows: list[FoldRow] = []
    with tempfile.TemporaryDirectory() as scratch, runner(settings) as work:
        _, settings, prepared = prepare_run(Path(scratch), settings)
        arm = Arm(
            name="folds",
            label="Without a share of the customers",
            trainer="federated",
            overrides={"federation.evaluate_every": settings.federation.rounds, "sweep": None},
        )
        histories = prepared.load()
        lots = [fold_of(store, count, seed=settings.seed) for store in histories]
        for fold in range(count):
            progress(f"fold {fold + 1} of {count}")
            home = Path(scratch) / f"fold-{fold}"
            left = [np.flatnonzero(lot == fold) for lot in lots]
            training = [np.flatnonzero(lot != fold) for lot in lots]
            rest = _without(prepared, histories, training, home)
            run = work.train(arm, ArmFolder(home), settings, rest)
            before = InterestModel.from_pretrained(prepared.base_model)
            model = run.model()
            for who, judged, customers in (
                ("held out", model, left),
                ("trained on", model, training),
                ("untrained", before, left),
            ):
                figures = _judged(judged, histories, customers, run.settings)
                rows.append(_row(fold, who, figures))
    return rows


def fold_of(store: Histories, count: int, *, seed: int) -> npt.NDArray[np.int64]:
    """Fold of each of a store's customers [N], in [0, count), from nothing but their own id."""
    drawn = (lots(store.customers.tolist(), key=f"fold/{seed}") * count).astype(np.int64)
    # A person's home is the same at every store; without homes, only the id is left to go by.
    fold: npt.NDArray[np.int64] = np.where(store.homes >= 0, store.homes % count, drawn)
    return fold


def _without(
    prepared: Prepared,
    histories: Sequence[Histories],
    training: Sequence[npt.NDArray[np.int64]],
    home: Path,
) -> Prepared:
    """The prepared stores with the training customers alone, in histories files in `home`."""
    home.mkdir(parents=True)
    paths = []
    for number, (store, customers) in enumerate(zip(histories, training, strict=True)):
        paths.append(home / f"{number:04d}.npz")
        store.only(customers).save(paths[-1])
    return replace(prepared, histories=tuple(paths))


def _judged(
    model: InterestModel,
    histories: Sequence[Histories],
    customers: Sequence[npt.NDArray[np.int64]],
    settings: RunSettings,
) -> list[Figures]:
    model.train(False)
    return [
        evaluate_histories(store.only(chosen), model, settings, "test")
        for store, chosen in zip(histories, customers, strict=True)
    ]


def _row(fold: int, who: str, parts: list[Figures]) -> FoldRow:
    metrics = Figures.pooled(parts).metrics()
    return FoldRow(
        fold=fold,
        who=who,
        customers=sum(len(np.unique(part.customers)) for part in parts),
        figures={name: metrics[name] for name in METRICS},
    )


def render(rows: Sequence[FoldRow]) -> Table:
    """Lay out mean and standard deviation over the folds."""
    count = len({row.fold for row in rows})
    table = Table(title=f"{count}-fold cross-validation by customer, test weeks")
    table.add_column("")
    for heading in ("customers a fold", "NDCG@10", "explore", "rise AUC", "fall AUC"):
        table.add_column(heading, justify="right")
    for who, label in LABELS.items():
        own = [row for row in rows if row.who == who]
        values = {name: [row.figures[name] for row in own] for name in METRICS}
        cells = [f"{figure(fmean(v))} ±{figure(pstdev(v))}" for v in values.values()]
        table.add_row(label, f"{fmean(row.customers for row in own):,.0f}", *cells)
    return table
