"""The command `hanse model pretrain`, which trains a transformer on public histories."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hanse_common.errors import ContradictingOptions
from hanse_common.formats import Format, FormatOption
from hanse_common.paths import TEXTS_FOLDER
from hanse_common.printing import echo
from hanse_common.wording import json_text

SHOPPERS_SOURCE = "shoppers"
"""The name of the source that is made up."""
_EPOCHS = 40


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
            "file with user_id, item_id and timestamp. Or shoppers: made-up ones, no data at all.",
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
        int | None,
        typer.Option(
            min=1,
            help="Maximum number of epochs, by default 40, where training stops on overfitting; "
            "of shoppers 3.",
        ),
    ] = None,
    sets: Annotated[
        int | None, typer.Option(min=1, help="Sets of made-up shoppers; by default 30.")
    ] = None,
    shoppers: Annotated[
        int | None, typer.Option(min=1, help="Made-up shoppers of a set; by default 1,200.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of made-up shoppers; by default 7.")
    ] = None,
    orders: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Public orders that a base of made-up shoppers learns from too; with --catalogue "
            "and --licence, as for DATA.",
        ),
    ] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Pre-train the transformer on public data, without privacy, for model.checkpoint.

    Never use a store's own customers: nothing is clipped or noised, and no epsilon covers the
    training data of the checkpoint. Made-up shoppers need none: they make a base for forecasts
    by category.
    """
    if data == SHOPPERS_SOURCE:
        _refuse(
            f"of {SHOPPERS_SOURCE}, which are made up",
            settings=settings,
            backbone=backbone,
            objective=objective,
            level=level,
        )
        if orders is None:
            _refuse("without --orders", catalogue=catalogue, licence=licence)
        _pretrain_base(
            folder, output, orders, catalogue, licence,
            sets=sets, shoppers=shoppers, epochs=epochs, seed=seed,
        )  # fmt: skip
        return
    _refuse(
        f"of {data}: only {SHOPPERS_SOURCE} has it",
        sets=sets,
        shoppers=shoppers,
        seed=seed,
        orders=orders,
    )
    # Imported on use: polars, torch, transformers.
    import os
    from tempfile import TemporaryDirectory

    from transformers.utils.logging import disable_progress_bar

    from hanse_client.pretraining.public_data import read_public
    from hanse_client.pretraining.run import pretrain as run_pretraining
    from hanse_common.config import DataSettings, RunSettings
    from hanse_common.run_file import read_run_file

    disable_progress_bar()
    # Only the model section and the seed are used; the data come from the argument.
    run = RunSettings(recipe="pretraining", data=DataSettings(source="synthetic"))
    if settings is not None:
        given = read_run_file(settings)
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
            epochs=_EPOCHS if epochs is None else epochs,
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


def _pretrain_base(
    folder: Path,
    output: Format,
    orders: str | None,
    catalogue: Path | None,
    licence: str | None,
    **numbers: int | None,
) -> None:
    """Pre-train a base on made-up shoppers, and on public orders if any are named."""
    # Imported on use: torch, transformers.
    from transformers.utils.logging import disable_progress_bar

    from hanse_client.pretraining.category_base import pretrain_base
    from hanse_client.pretraining.public_data import read_public

    disable_progress_bar()

    def report(epoch: int, loss: float) -> None:
        echo(f"epoch {epoch}: {loss:.4f} nats on held-out shoppers", err=True)

    public = None if orders is None else read_public(orders, catalogue=catalogue, licence=licence)
    given = {name: value for name, value in numbers.items() if value is not None}
    base = pretrain_base(folder=folder, orders=public, on_epoch=report, **given)
    if output is Format.JSON:
        echo(json_text({**asdict(base), "folder": str(folder)}))
        return
    echo(folder)
    made_of = "No customer's data went into it"
    if public is not None:
        made_of = f"Not private: it learnt from {public.name} too, {public.terms}"
    echo(
        f"{base.sets:,} sets of {base.shoppers:,} made-up shoppers, {base.tokens:,} tokens, "
        f"{base.parameters:,} parameters; {base.loss:.4f} nats a token, "
        f"{base.loss_without_priors:.4f} without class priors, {base.rules_loss:.4f} by the "
        f"rules. {made_of}",
        err=True,
    )


def _refuse(why: str, **options: object) -> None:
    """Refuse options that the source cannot have.

    Raises:
        ContradictingOptions: One of them is given.
    """
    for name, value in options.items():
        if value is not None:
            raise ContradictingOptions(f"--{name} is no option {why}", hint=f"leave --{name} out")
