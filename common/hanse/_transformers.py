"""Registers the models of Hanse with transformers' `AutoConfig` and `AutoModel`.

transformers takes seconds to import, and a coordinator has none. So nothing is imported here: the
models are registered when somebody imports transformers, or at once if that has happened.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module, util
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_TRANSFORMERS, _CLIENT = "transformers", "hanse_client"
_MODELS = (
    "hanse_client.tasks.interest.model",
    "hanse_client.tasks.conversion.model",
    "hanse_client.tasks.next_item.model",
    "hanse_client.tasks.next_item.text_model",
    "hanse_client.tasks.review.model",
)
"""Their import registers their models."""


def register_when_imported() -> None:
    """Register the models now, or when transformers is imported."""
    if _TRANSFORMERS in sys.modules:
        _register()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _half_imported() -> list[str]:
    """Names of modules that are being imported."""
    specs = {name: getattr(module, "__spec__", None) for name, module in list(sys.modules.items())}
    return [name for name, spec in specs.items() if getattr(spec, "_initializing", False)]


def _register() -> None:
    if util.find_spec(_CLIENT) is not None:
        for module in _MODELS:
            import_module(module)


class _Finder(MetaPathFinder):
    """Finds transformers as before, with a loader that registers the models afterwards."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _TRANSFORMERS:
            return None
        sys.meta_path.remove(self)
        spec = util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        # A module of the client that imports transformers is half done; the others would not find
        # what it has yet to define. `hanse` registers them when it has imported it.
        if not any(name.partition(".")[0] == _CLIENT for name in _half_imported()):
            _register()

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)
