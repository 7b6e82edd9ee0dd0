"""The report's drawing of the interest map."""

from __future__ import annotations

from collections import Counter
from typing import Final

import numpy as np

from hanse_simulations.report.plots import Key, Plot
from hanse_simulations.report.svg import arm_colour, arm_variable, drawing, to_svg
from hanse_simulations.report.wording import counted
from hanse_simulations.runs.results import InterestMap

# Six colours of the page that are easy to distinguish; further departments share one more.
_COLOURS: Final = (
    "federated_private",
    "federated",
    "alone",
    "boosted_trees",
    "personal_frequency",
    "markov",
)
_OTHER: Final = "other"


def interest_plane(drawn: InterestMap | None) -> Plot | None:
    """Draw a run's map by PCA and by t-SNE."""
    if drawn is None:
        return None
    ranked = [name for name, _ in Counter(drawn.departments).most_common()]
    colours = dict(zip(ranked, _COLOURS, strict=False))
    chosen = np.array([colours.get(name, _OTHER) for name in drawn.departments])
    with drawing(2.6) as sheet:
        panels = sheet.subplots(1, 2)
        for axes, points, title in zip(
            panels, (drawn.pca, drawn.tsne), ("PCA", "t-SNE"), strict=True
        ):
            plane = np.array(points)
            for colour in (*_COLOURS, _OTHER):
                points_of_colour = plane[chosen == colour]
                axes.plot(
                    points_of_colour[:, 0],
                    points_of_colour[:, 1],
                    linestyle="none",
                    marker="o",
                    markersize=1.8,
                    markeredgewidth=0,
                    alpha=0.7,
                    color=arm_colour(colour),
                )
            axes.set_title(title)
            axes.set_xticks([])
            axes.set_yticks([])
        text = f"{counted(len(drawn.departments), 'customer')} on a plane, twice."
        svg = to_svg(sheet, "interest-map", "Customers by their interests", text)
    shown = counted(len(drawn.departments), "customer")
    caption = (
        f"{shown} of {drawn.customers:,} by the chances of each class in their next basket, seen"
        " from the first test day; neither names nor stores are on it. Colour: the department"
        " whose share most exceeds everybody's. The first two principal components hold"
        f" {drawn.explained:.0%} of the variance. It can show whether interests form groups or a"
        " continuum, and who is far from all others. It cannot show how well anything is"
        " predicted; in t-SNE, distances between clumps and their sizes mean little."
    )
    keys = [
        Key(label=name.capitalize(), colour=arm_variable(colour), marker="circle", line=False)
        for name, colour in colours.items()
    ]
    if len(ranked) > len(colours):
        keys.append(Key(label="Others", colour=arm_variable(_OTHER), marker="circle", line=False))
    return Plot(title="Customers by their interests", caption=caption, svg=svg, legend=tuple(keys))
