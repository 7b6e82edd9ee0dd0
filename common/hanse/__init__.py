"""Everything of Hanse under one name: what the four packages export, and an analyst's functions.

>>> import hanse
>>> hanse.PrivacyPlan.__name__
'PrivacyPlan'

In a notebook, with the extra `simulate`:

    run = hanse.simulate("smoke", epsilon=4)
    run.report              # shown in the notebook
    run.results             # a polars frame of all figures
    run.figures             # plots by name, shown in the notebook

A name is looked up when it is first used, so that an installation without torch can import this.
Where transformers is installed, `AutoConfig` and `AutoModel` know the models of Hanse.
"""

from __future__ import annotations

from importlib import import_module, util
from typing import Final

from hanse._transformers import register_when_imported

_PACKAGES: Final = ("hanse_common", "hanse_client", "hanse_server", "hanse_simulations")
_OWN: Final = {
    "simulate": "hanse_simulations.notebook",
    "open_run": "hanse_simulations.notebook",
    "Simulated": "hanse_simulations.notebook",
    "predict": "hanse_client.inference.notebook",
}
"""Names of this package alone; they come before those that the four packages export."""


def __getattr__(name: str) -> object:
    if name.startswith("_"):
        raise AttributeError(f"module 'hanse' has no attribute {name!r}")
    found = _find(name)
    register_when_imported()
    return found


def _find(name: str) -> object:
    if name in _OWN:
        return getattr(import_module(_OWN[name]), name)
    for package in _PACKAGES:
        # Only an installation from a part of the wheel lacks one of them.
        if util.find_spec(package) is not None:
            module = import_module(package)
            if name in module.__all__:
                return getattr(module, name)
    raise AttributeError(f"module 'hanse' has no attribute {name!r}")


def __dir__() -> list[str]:
    names = {name for package in _PACKAGES for name in import_module(package).__all__}
    return sorted({*_OWN, *names})


register_when_imported()
