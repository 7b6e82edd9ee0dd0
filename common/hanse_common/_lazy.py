"""Exports of a package root that are imported when they are first used (PEP 562).

A package root lists what other people may import, and importing it must stay cheap: `hanse
--help` and a protocol stage cannot wait seconds for torch. A name is therefore looked up in its
module only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module


def lazy_exports(package: str, modules: Mapping[str, Sequence[str]]) -> Callable[[str], object]:
    """Return a module's `__getattr__` that imports exported names on first use.

    Args:
        package: The package root's `__name__`.
        modules: The exported names of each module, by the module's path inside the package.
    """
    places = {name: f"{package}.{module}" for module, names in modules.items() for name in names}

    def find(name: str) -> object:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(places[name])
        try:
            return getattr(module, name)
        except AttributeError:  # a module of a package that does not import it
            return import_module(f"{places[name]}.{name}")

    return find
