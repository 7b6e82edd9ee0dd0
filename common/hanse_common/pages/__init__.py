r"""Self-contained HTML pages with one style sheet, which show untrusted text as plain text.

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


_INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
_LAYOUT = "\n\t"
"""Control characters that are left as they are."""


def visible(value: object) -> object:
    r"""Return text with invisible characters, and those that reverse its direction, escaped.

    Other values and safe markup are returned unchanged.

    >>> visible("gdan\u200dsk"), visible(3)
    ('gdan\\u200dsk', 3)
    """
    # Markup was built by this package's code from escaped parts; escaping again would show tags.
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return "".join(
        repr(c)[1:-1] if unicodedata.category(c) in _INVISIBLE and c not in _LAYOUT else c
        for c in value
    )


def page_environment(package: str, folder: str) -> Environment:
    """Return a jinja2 environment for a package's templates, which may include `base.css`.

    Args:
        package: The package that holds the templates.
        folder: The templates' folder within the package.

    Raises:
        MissingDependency: jinja2 is not installed.

    Guarantees:
        Values in a template are HTML-escaped, invisible characters are written as escapes, and
        an undefined name raises an error.
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
