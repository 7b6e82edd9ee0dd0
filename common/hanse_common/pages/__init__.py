r"""Pages that need nothing but themselves: one look, and every foreign text shown as text.

>>> environment = page_environment("hanse_common", "pages")
>>> environment.from_string("<p>{{ name }}</p>").render(name="<b>Lübeck</b>\u202e")
'<p>&lt;b&gt;Lübeck&lt;/b&gt;\\u202e</p>'
>>> "prefers-color-scheme: dark" in environment.get_template("base.css").render()
True
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

from hanse_common.errors import MissingDependency

if TYPE_CHECKING:
    from jinja2 import Environment


_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
_KEPT = "\n\t"


def visible(value: object) -> object:
    r"""Write out what a text would hide: characters that turn the direction, or show nothing.

    >>> visible("gdan\u200dsk"), visible(3)
    ('gdan\\u200dsk', 3)
    """
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return "".join(
        repr(c)[1:-1] if unicodedata.category(c) in _UNSEEN and c not in _KEPT else c for c in value
    )


def page_environment(package: str, folder: str) -> Environment:
    """Return what renders the templates of a package, which may include `base.css`.

    Args:
        package: Where the templates are.
        folder: Within the package.

    Raises:
        MissingDependency: There is no jinja2 on this machine.

    Guarantees:
        What a template is given is escaped, characters that cannot be seen are written out,
        and a name that it does not know is an error.
    """
    try:
        from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
    except ModuleNotFoundError as error:
        raise MissingDependency(
            "a page needs the package 'jinja2', which is not installed",
            hint="pip install 'hanse[audit]', or the extra for this machine's part",
        ) from error
    return Environment(
        loader=ChoiceLoader(
            [PackageLoader(package, folder), PackageLoader("hanse_common", "pages")]
        ),
        autoescape=True,
        finalize=visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
