"""Pages that need nothing but themselves: one look, and every foreign text shown as text.

>>> environment = page_environment("hanse_common", "pages")
>>> environment.from_string("<p>{{ name }}</p>").render(name="<b>Lübeck</b>")
'<p>&lt;b&gt;Lübeck&lt;/b&gt;</p>'
>>> "prefers-color-scheme: dark" in environment.get_template("base.css").render()
True
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hanse_common.errors import MissingDependency

if TYPE_CHECKING:
    from jinja2 import Environment


def page_environment(package: str, folder: str) -> Environment:
    """Return what renders the templates of a package, which may include `base.css`.

    Args:
        package: Where the templates are.
        folder: Within the package.

    Raises:
        MissingDependency: There is no jinja2 on this machine.

    Guarantees:
        What a template is given is escaped, and a name that it does not know is an error.
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
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
