"""Licences of everything that an extra of Hanse installs.

    python -m release.licences            # a table in Markdown, of all parts
    python -m release.licences client     # of one part

It ends with status 1 if a package has a licence that is neither in `ALLOWED` nor reviewed.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, distribution, version

from release.packages import PARTS, closure, extras

ALLOWED = re.compile(
    r"MIT(-0|-CMU)?|0?BSD(-[23]-Clause)?|[23]-Clause BSD|Apache( Software|-2\.0| 2\.0)?"
    r"|Apache-2\.0 WITH LLVM-exception|ISC( \(ISCL\))?|PSF-2\.0|Python Software Foundation"
    r"|CNRI-Python|NCSA|Zlib|CC0-1\.0|Public Domain|Unlicense|HPND|BSL-1\.0"
)
"""Licences that ask for no more than a notice, as packages write them."""
REVIEWED = {
    "psycopg": "LGPL-3.0-only",
    "psycopg-binary": "LGPL-3.0-only",
    "certifi": "MPL-2.0",
    "pathspec": "MPL-2.0",
    "tqdm": "MPL-2.0",
}
"""Other licences that were looked at; `docs/operators.md` says why each is acceptable."""
NEVER = re.compile(r"(?<!L)A?GPL|(?<!Lesser )General Public License", re.IGNORECASE)
"""What no part for use may contain, reviewed or not."""


def licence(name: str) -> str:
    """Return the licence of an installed package in the package's words, on one line."""
    about = distribution(name).metadata
    kinds = [
        kind.rpartition("::")[2].strip()
        for kind in about.get_all("Classifier") or []
        if kind.startswith("License ::")
    ]
    stated = about.get("License-Expression") or "; ".join(kinds) or about.get("License") or ""
    return stated.splitlines()[0] if stated else ""


def is_allowed(terms: str) -> bool:
    """Tell whether every licence that applies is in `ALLOWED`; of alternatives, one is enough."""
    applying = re.split(r" AND |; ", terms.replace("(", "").replace(")", ""))
    return all(
        any(ALLOWED.fullmatch(_short(one)) for one in choice.split(" OR ")) for choice in applying
    )


def objection(name: str, terms: str) -> str | None:
    """Return why a package may not be in a part, or None."""
    if NEVER.search(terms):
        return f"{name} is under {terms}"
    if is_allowed(terms) or name in REVIEWED:
        return None
    return f"{name} is under {terms or 'no licence that it names'}, which nobody has reviewed"


def _short(terms: str) -> str:
    return re.sub(r"( Licen[cs]e)?( ISCL)?$", "", terms.strip())


def main(parts: list[str]) -> int:
    """Print the table; returns the exit status."""
    found: dict[str, set[str]] = {}
    for part in parts or PARTS:
        try:
            for name in closure(extras(part)):
                found.setdefault(name, set()).add(part)
        except PackageNotFoundError as error:
            print(f"{part} is left out: {error.name} is not installed", file=sys.stderr)
    print("| package | version | licence | installed with |\n|---|---|---|---|")
    for name, where in sorted(found.items()):
        print(f"| {name} | {version(name)} | {licence(name)} | {', '.join(sorted(where))} |")
    objections = [line for name in sorted(found) if (line := objection(name, licence(name)))]
    for line in objections:
        print(line, file=sys.stderr)
    return 1 if objections else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
