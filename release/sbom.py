"""Writes what a part of Hanse consists of as a CycloneDX file (ECMA-424, version 1.6).

    python -m release.sbom dist           # dist/hanse-client.cdx.json and so on, one for each part

Two runs in one environment write the same bytes: there is neither a time nor a random number.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

from release.licences import licence
from release.packages import PARTS, PROJECT, closure, extras


def bill(part: str) -> str:
    """Return the file of a part as JSON.

    Raises:
        PackageNotFoundError: A package of the part is not installed here.
    """
    needs = closure(extras(part))
    root = _component(PROJECT["name"], PROJECT["license"], kind=ComponentType.APPLICATION)
    components = {name: _component(name, licence(name)) for name in sorted(needs)}
    bom = Bom(components=components.values())
    bom.metadata.timestamp = None  # type: ignore[assignment]
    bom.metadata.component = root
    names = "\n".join(str(one.purl) for one in components.values())
    bom.serial_number = uuid5(NAMESPACE_URL, f"{root.purl}[{part}]\n{names}")
    bom.register_dependency(root, components.values())
    for name, component in components.items():
        bom.register_dependency(component, [components[other] for other in sorted(needs[name])])
    made = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6)
    return made.output_as_string(indent=2) + "\n"


def _component(name: str, terms: str, kind: ComponentType = ComponentType.LIBRARY) -> Component:
    release = version(name)
    purl = PackageURL("pypi", name=name, version=release)
    return Component(
        name=name,
        version=release,
        type=kind,
        purl=purl,
        bom_ref=str(purl),
        licenses=[LicenseFactory().make_from_string(terms)] if terms else [],
    )


def main(folder: Path) -> int:
    """Write a file for each part; returns the exit status."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        try:
            text = bill(part)
        except PackageNotFoundError as error:
            print(f"{part} is left out: {error.name} is not installed", file=sys.stderr)
            continue
        path = folder / f"{PROJECT['name']}-{part}.cdx.json"
        path.write_text(text)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "dist")))
