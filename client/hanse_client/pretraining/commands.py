"""The command `hanse model pretrain`, which trains a transformer on public histories."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hanse_common.formats import Format, FormatOption
from hanse_common.paths import TEXTS_FOLDER
from hanse_common.printing import echo
from hanse_common.wording import json_text


class Objective(StrEnum):
    """The training objective."""

    CAUSAL = "causal"
    MASKED = "masked"


class Backbone(StrEnum):
    """The family of the transformer."""

    GPT2 = "gpt2"
    BERT = "bert"


class Level(StrEnum):
    """The kind of class that is predicted."""

    CATEGORY = "category"
    TYPE = "type"
    PRODUCT = "product"


def pretrain(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="Public histories: instacart, ml-100k, a store.toml, or a Parquet, CSV or TSV "
            "file with user_id, item_id and timestamp.",
        ),
    ],
    folder: Annotated[
        Path, typer.Option("--output", metavar="FOLDER", help="Where to put the checkpoint.")
    ],
    catalogue: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Item texts for a file of events; for instacart, its products.csv.",
        ),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Licence of your own file, for the card."),
    ] = None,
    settings: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A run's settings; the model section and seed are used."),
    ] = None,
    backbone: Annotated[
        Backbone | None, typer.Option(help="Family of the transformer; by default the settings'.")
    ] = None,
    objective: Annotated[
        Objective | None,
        typer.Option(help="Training objective; by default causal for gpt2, masked for bert."),
    ] = None,
    level: Annotated[
        Level | None, typer.Option(help="Kind of class to predict; by default the data's.")
    ] = None,
    epochs: Annotated[
        int, typer.Option(min=1, help="Maximum number of epochs; training stops on overfitting.")
    ] = 40,
    output: FormatOption = Format.TABLE,
) -> None:
    """Pre-train the transformer on public data, without privacy, for model.checkpoint.

    Never use a store's own customers: nothing is clipped or noised, and no epsilon covers the
    training data of the checkpoint.
    """
    # Imported on use: polars, torch, transformers.
    import os
    from tempfile import TemporaryDirectory

    from transformers.utils.logging import disable_progress_bar

    from hanse_client.pretraining.public_data import read_public
    from hanse_client.pretraining.run import pretrain as run_pretraining
    from hanse_common.config import DataSettings, RunSettings

    disable_progress_bar()
    # Only the model section and the seed are used; the data come from the argument.
    run = RunSettings(recipe="pretraining", data=DataSettings(source="synthetic"))
    if settings is not None:
        given = RunSettings.from_toml(settings)
        run = run.model_copy(update={"model": given.model, "seed": given.seed})
    public = read_public(data, catalogue=catalogue, licence=licence)
    changes: dict[str, object] = {
        "data.level": level.value if level else public.level,
        "model.trainable": "all",
    }
    if backbone is not None:
        changes["model.backbone"] = backbone.value
    run = run.with_changes(changes)
    usual = Objective.MASKED if run.model.backbone == "bert" else Objective.CAUSAL
    wanted = objective or usual

    def report(epoch: int, loss: float) -> None:
        echo(f"epoch {epoch}: {loss:.4f} nats on held-out customers", err=True)

    with TemporaryDirectory(prefix="hanse-") as temporary:
        cache = os.environ.get("HANSE_CACHE")
        done = run_pretraining(
            public,
            run,
            folder=folder,
            cache=Path(cache) / TEXTS_FOLDER if cache else Path(temporary),
            objective=wanted.value,
            epochs=epochs,
            on_epoch=report,
        )
    if output is Format.JSON:
        echo(json_text(asdict(done)))
        return
    echo(done.folder)
    echo(
        f"{done.customers:,} customers, {done.visits:,} visits, {done.classes:,} classes; "
        f"{done.loss:.3f} nats after {done.epochs} epochs, {done.popularity_loss:.3f} by "
        f"popularity alone. Not private: {done.terms}",
        err=True,
    )
