"""Options and arguments that several commands share, and the metavars of all commands.

    def verify(path: EvidenceArgument, output: FormatOption = Format.TABLE) -> None: ...

An option has the same name, metavar and help text in all commands. `--format` is in
`hanse_common.formats`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hanse_common.commands import NUMBER, WHOLE_NUMBER
from hanse_common.errors import ConfigError

METAVARS = {
    "CATALOGUE": "a file with the items that shops sell",
    "CLASS": "a class that a model ranks, or a path above classes",
    "DATA": "a public data set's name, or a file",
    "FILE": "a file",
    "FOLDER": "a folder",
    "HEX": "bytes in hexadecimal",
    "HOST": "an address of a machine",
    "HOST:PORT": "an address and a port of a machine",
    "KEY=VALUE": "a setting and its value",
    "MODE": "distributed or local",
    "MODEL": "a model's folder, or its run's",
    "NAME": "any name",
    "PATH": "a file or a folder",
    "PHASE=SHARE": "a phase and its share of the budget",
    "PSEUDONYM": "a customer's pseudonym, as predictions have it",
    "RECIPE": "a recipe's name, or a file of settings",
    "RUN": "a run's name, or its folder",
    "SECONDS": "a time, which may be a fraction",
    "STORE": "a store's id in a federation",
    "TERM": "a term of privacy that follows from the others",
    WHOLE_NUMBER: "a whole number",
    f"{WHOLE_NUMBER}[,{WHOLE_NUMBER}...]": "whole numbers with commas between them",
    NUMBER: "a number",
}
"""Metavars of help pages with the values that they stand for. `A|B` is one or the other."""

StoreFolderOption = Annotated[
    Path, typer.Option("--folder", metavar="FOLDER", help="The store's folder.")
]
FederationFolderOption = Annotated[
    Path, typer.Option("--folder", metavar="FOLDER", help="The federation's folder.")
]
AuthorityOption = Annotated[
    str | None,
    typer.Option(
        "--authority",
        metavar="HEX|FILE",
        help="The enrolment authority's public key, from a source that you trust.",
    ),
]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A finished run: its name, or its folder.")
]
ModelArgument = Annotated[
    Path, typer.Argument(metavar="MODEL", help="The model's folder, or its run's.")
]
ServingStoreOption = Annotated[
    Path, typer.Option("--store", metavar="PATH", help="A node's folder, or a store.toml.")
]
RunNameOption = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="Name of the run's folder.")
]
YesOption = Annotated[bool, typer.Option("--yes", help="Answer every question with yes.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
HostOption = Annotated[
    str,
    typer.Option(
        "--host",
        metavar="HOST",
        help="Address to listen on; you must protect any that other machines can reach.",
    ),
]
PublicHostsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--public-host",
        metavar="HOST",
        help="Name under which your reverse proxy shows the page, behind its login; repeatable.",
    ),
]
PortOption = Annotated[
    int, typer.Option("--port", min=0, max=65_535, help="Port to listen on; 0 takes a free one.")
]
CheckOption = Annotated[
    bool,
    typer.Option("--check", help="Check the state once and exit: with status 0 if all is well."),
]


def public_key(text: str) -> bytes:
    """Return the public key that `--authority` gives, in hexadecimal or as a file's name.

    Raises:
        ConfigError: It is neither.
    """
    from hanse_common.identity import KEY_SIZE

    try:
        path = Path(text)
        given = path.read_text(encoding="ascii").strip() if path.is_file() else text
        key = bytes.fromhex(given)
    except (OSError, ValueError):
        key = b""  # a path with a null byte, an unreadable file, or other text
    if len(key) != KEY_SIZE:
        raise ConfigError(
            f"--authority {text!r} is not a public key",
            hint=f"{KEY_SIZE} bytes in hexadecimal, or a file that holds them",
        )
    return key
