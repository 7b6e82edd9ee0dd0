"""Convert matplotlib figures to inline SVG in the style of the page.

Colours become the page's CSS variables, so that a drawing follows dark mode and print; text
stays text, in the page's font; ids are made unique; nothing refers to other files.

>>> ink()
'#010101'
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import matplotlib
from matplotlib.figure import Figure

from hanse_common.pages import page_environment

_ARM_VARIABLES: Final = (
    "global_popularity",
    "personal_frequency",
    "markov",
    "mean_reversion",
    "long_run_rate",
    "logistic_regression",
    "boosted_trees",
    "centralized",
    "alone",
    "federated",
    "federated_transformer",
    "federated_private",
)
# matplotlib needs colours, the page has variables: each is drawn in a colour that nothing else
# uses, and replaced by its variable in the finished SVG.
_STAND_INS: Final = {
    "--ink": "#010101",
    "--muted": "#020202",
    "--rule": "#030303",
    "--arm-other": "#040404",
    "--card": "#050505",
    **{
        f"--arm-{name.replace('_', '-')}": f"#0a0a{number:02x}"
        for number, name in enumerate(_ARM_VARIABLES)
    },
}
_WIDTH: Final = 4.2
_FAMILY: Final = re.compile(r"font-family: [^;\"]*;? ?")
_FONT: Final = re.compile(r"font: ((?:bold|italic) )?([\d.]+px) [^;\"]*")


def ink() -> str:
    """Return the stand-in for the colour of text."""
    return _STAND_INS["--ink"]


def muted() -> str:
    """Return the stand-in for the colour of secondary text."""
    return _STAND_INS["--muted"]


def card() -> str:
    """Return the stand-in for the colour behind a drawing."""
    return _STAND_INS["--card"]


def arm_variable(arm: str) -> str:
    """Return the CSS variable with the colour of an arm, the same all over the page."""
    variable = f"--arm-{arm.replace('_', '-')}"
    return variable if variable in _STAND_INS else "--arm-other"


def arm_colour(arm: str) -> str:
    """Return the stand-in for the colour of an arm."""
    return _STAND_INS[arm_variable(arm)]


@contextmanager
def drawing(height: float) -> Iterator[Figure]:
    """Yield an empty figure, in the page's style, of a given height in inches."""
    style: dict[Any, Any] = {
        "axes.axisbelow": True,
        "axes.edgecolor": _STAND_INS["--rule"],
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.labelcolor": muted(),
        "axes.labelsize": 9,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlecolor": ink(),
        "axes.titlesize": 9.5,
        "figure.facecolor": "none",
        "font.size": 9,
        "grid.color": _STAND_INS["--rule"],
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.8,
        "lines.markersize": 4.5,
        "savefig.facecolor": "none",
        "text.color": ink(),
        # A store's name may hold a dollar sign, which would start a formula.
        "text.parse_math": False,
        "xtick.color": muted(),
        "xtick.labelsize": 8.5,
        "xtick.major.size": 0,
        "ytick.color": muted(),
        "ytick.labelsize": 8.5,
        "ytick.major.size": 0,
        "svg.fonttype": "none",
    }
    with matplotlib.rc_context(style):
        yield Figure(figsize=(_WIDTH, height), layout="constrained")


def to_svg(figure: Figure, name: str, title: str, description: str) -> str:
    """Return a figure as an inline `<svg>` that screen readers can announce.

    Args:
        figure: A figure made within `drawing`.
        name: A name unique on the page, of letters and dashes.
        title: The title that a screen reader announces.
        description: The content in words, for people who cannot see it.
    """
    page = io.StringIO()
    # A salt and no date: the same run gives the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(
            page,
            format="svg",
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = page.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # An inline style element would apply to the entire page.
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
    # Ids of all drawings share the page: each gets the drawing's name, and so do references to it.
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = _FAMILY.sub("", _FONT.sub(_page_font, text))
    for variable, stand_in in _STAND_INS.items():
        text = text.replace(stand_in, f"var({variable})")
    box = re.search(r'viewBox="[^"]+"', text)
    opening = (
        f'<svg {box.group() if box else ""} role="img"'
        f' aria-labelledby="{name}-title {name}-desc" class="plot"'
        ' xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
        f'<title id="{name}-title">{html.escape(title)}</title>'
        f'<desc id="{name}-desc">{html.escape(description)}</desc>'
    )
    return opening + text[text.index(">") + 1 :]


def standalone(svg: str) -> str:
    """Return an inline drawing as a file of its own, with the page's colours and a sans-serif font.

    Args:
        svg: What `to_svg` returned.
    """
    environment = page_environment("hanse_simulations", "report")
    colours = [environment.get_template(name).render() for name in ("colours.css", "arms.css")]
    # A file has no page behind it, whose font and colours it would take.
    style = f"<style>{''.join(colours)}svg {{ font-family: system-ui, sans-serif }}</style>"
    place = svg.index(">") + 1
    return f"{svg[:place]}{style}{svg[place:]}\n"


def _page_font(match: re.Match[str]) -> str:
    style = {"bold ": "font-weight: bold; ", "italic ": "font-style: italic; "}
    return f"{style.get(match.group(1) or '', '')}font-size: {match.group(2)}"
