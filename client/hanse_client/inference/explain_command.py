"""`hanse model explain`: attribute a customer's score of a category to visits and features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hanse_client.inference.choices import When
from hanse_client.inference.commands import (
    SettingsOption,
    WhenOption,
    open_for,
    say,
)
from hanse_common.formats import Format, FormatOption
from hanse_common.options import ModelArgument, ServingStoreOption


def explain(
    model: ModelArgument,
    store: ServingStoreOption,
    user: Annotated[
        str, typer.Option(metavar="PSEUDONYM", help="The customer, as in predictions.")
    ],
    category: Annotated[
        str | None,
        typer.Option(metavar="CLASS", help="A class of the model; the best if left out."),
    ] = None,
    output: Annotated[Path, typer.Option(metavar="FILE", help="The page, an .html file.")] = Path(
        "explanation.html"
    ),
    split: WhenOption = When.LATEST,
    settings: SettingsOption = None,
    format_: FormatOption = Format.TABLE,
) -> None:
    """Show which past visits and features make up a customer's score of a category.

    The result goes to a page that only its owner can read, and to FILE.json; nothing about the
    customer is printed.
    """
    # Imported on use: polars, torch, transformers, captum.
    import numpy as np

    from hanse_client.inference.attribution import attribute
    from hanse_client.inference.explain_page import explanation, render
    from hanse_client.inference.files import write_private
    from hanse_client.inference.predict import ask_all, known, moment_of
    from hanse_common.errors import ConfigError, DataError
    from hanse_common.wording import finite

    if output.suffix.lower() != ".html" or not output.absolute().parent.is_dir():
        raise ConfigError(f"--output {output} must be an .html file in a folder that exists")
    trained, opened, run = open_for(model, store, settings)
    moment = moment_of(opened, split, run)
    names, histories = trained.config.classes, opened.histories
    matches = np.flatnonzero(histories.customers == user)
    if not len(matches) or matches[0] not in known(opened, moment):
        raise DataError(
            f"store {opened.name!r} has no visit of {user!r} before that moment",
            code="unknown-customer",
            hint="take a user_id of `hanse model predict`: a pseudonym, not a loyalty id",
        )
    customer = int(matches[0])
    if category is None:
        answers = ask_all(trained.model, histories, matches[:1], moment)
        index = int(answers.scores[0].argmax())
    elif category in names:
        index = names.index(category)
    else:
        raise DataError(
            f"the model ranks no category {category!r}",
            code="unknown-category",
            hint="take an item_id of `hanse model predict`",
        )
    credit = attribute(histories, trained.model, customer=customer, category=index, moment=moment)
    values = explanation(credit, opened, trained, customer=customer, category=index, moment=moment)
    page, plain = render(values), json.dumps(finite(values), indent=2, ensure_ascii=False)
    json_file = output.with_name(output.name + ".json")
    try:
        write_private(output, page.encode())
        write_private(json_file, (plain + "\n").encode())
    except OSError as error:
        raise ConfigError(f"cannot write {output}: {error.strerror}") from error
    files = {"page": str(output), "json": str(json_file)}
    say({"store": opened.name, **files}, list(files.values()), format_)
