"""Makes the README readable on a package index, where links into the source tree lead nowhere."""

from __future__ import annotations

import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

_INSIDE = re.compile(r"\[([^\]]+)\]\((?![a-z]+:)([^)]+)\)")
_NOTE = "\n\nThe pages that are named here are in the folder `docs` of the source distribution.\n"


def for_an_index(readme: str) -> str:
    """Replace links into the source tree by their text.

    >>> for_an_index("See [docs/model.md](docs/model.md#loss) and [Flower](https://flower.ai).")
    'See docs/model.md and [Flower](https://flower.ai).'
    """
    return _INSIDE.sub(r"\1", readme)


class IndexReadme(MetadataHookInterface):
    """Gives the package's metadata the README without dead links."""

    def update(self, metadata: dict[str, object]) -> None:
        """Set the field `readme`."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": for_an_index(text).rstrip() + _NOTE,
        }
