"""`hanse model`: make a federation's initial model, and use the trained one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hanse_client.inference import commands
from hanse_client.inference.explain_command import explain
from hanse_client.pretraining.commands import pretrain
from hanse_common.commands import command_group
from hanse_common.formats import Format, FormatOption
from hanse_common.paths import SETTINGS_TEMPLATE_FILE
from hanse_common.printing import echo
from hanse_common.wording import json_text

app = command_group("The model that a federation starts from, and the use of the trained one.")


@app.command()
def init(
    public: Annotated[
        Path | None,
        typer.Argument(
            metavar="CATALOGUE",
            help="What the shops sell: a Parquet, CSV or TSV file with item_id, text and "
            "category, or a .toml file whose catalogue section names such a file and its columns. "
            "For the task review the list of labels instead; for conversion nothing.",
            show_default=False,
        ),
    ] = None,
    settings: Annotated[Path, typer.Option(metavar="FILE", help="The run's settings.")] = Path(
        SETTINGS_TEMPLATE_FILE
    ),
    folder: Annotated[
        Path, typer.Option("--output", metavar="FOLDER", help="Where to write the model.")
    ] = Path("model"),
    output: FormatOption = Format.TABLE,
) -> None:
    """Make the initial model from what is public; no data of customers are read.

    The coordinator signs its digest, and every store gets the folder.
    """
    # Imported on use: polars, torch, transformers.
    from tempfile import TemporaryDirectory

    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    from hanse_client.model.base_model import make_base_model
    from hanse_common.run_file import completion, read_run_file

    disable_progress_bar()
    set_verbosity_error()  # transformers warns of layers that are left out on purpose
    run = read_run_file(settings)
    with TemporaryDirectory(prefix="hanse-") as cache:
        made = make_base_model(public, run, folder=folder, cache=Path(cache))
    if output is Format.JSON:
        echo(json_text({**asdict(made), "folder": str(made.folder)}))
        return
    echo(made.folder)
    echo(
        f"{made.classes:,} classes; {made.trained:,} of {made.parameters:,} parameters are "
        f"trained; digest {made.digest}" + completion(run),
        err=True,
    )


@app.command()
def export(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="A finished run's folder, or its file of trained parameters."
        ),
    ],
    base: Annotated[
        Path, typer.Option(metavar="MODEL", help="The model that the run began with.")
    ] = Path("model"),
    folder: Annotated[
        Path, typer.Option("--output", metavar="FOLDER", help="Where to write the complete model.")
    ] = Path("trained"),
    output: FormatOption = Format.TABLE,
) -> None:
    """Combine a deployed run's trained parameters and its base model into a complete model."""
    from transformers.utils.logging import disable_progress_bar

    from hanse_client.inference.export import export_model

    disable_progress_bar()
    made = export_model(run, base, folder)
    if output is Format.JSON:
        echo(json_text({**asdict(made), "folder": str(made.folder)}))
        return
    echo(made.folder)
    echo(
        f"{made.trained:,} of {made.parameters:,} parameters are the run's; SHA-256 {made.digest}",
        err=True,
    )


app.command("pretrain")(pretrain)
app.command("predict")(commands.predict)
app.command("evaluate")(commands.evaluate)
app.command("audience")(commands.audience)
app.command("card")(commands.card)
app.command("serve")(commands.serve)
app.command("explain")(explain)
