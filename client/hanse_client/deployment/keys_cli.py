"""`hanse store keys`: replace the store's keys without an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hanse_client.deployment.tables import print_facts
from hanse_common.commands import command_group
from hanse_common.formats import Format, FormatOption, say
from hanse_common.options import StoreFolderOption

keys = command_group("The store's own keys.")


@keys.command()
def rotate(
    folder: StoreFolderOption = Path(),
    node_key: Annotated[
        bool, typer.Option("--node-key", help="Make a new Flower node key as well.")
    ] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Generate a new key and write its request; the old key is used until the certificate comes.

    The ledger continues with the new key; the old key's certificate is kept for auditors. The
    pseudonym key stays, as another one would give every customer another pseudonym.
    """
    from hanse_client.deployment import enrol
    from hanse_client.deployment.folder import StoreFolder
    from hanse_client.deployment.key_rotation import begin

    store = StoreFolder(folder)
    begin(store, node_key=node_key)
    request = enrol.write_request(store)
    facts = {
        "store": store.node().name,
        "request": str(request),
        "fingerprint": enrol.own_fingerprint(store),
    }
    print_facts(facts, output)
    say("Send the request; `hanse store enrol --certificate FILE` puts the new key to use.")
