"""The drawing of customers on a plane."""

from __future__ import annotations

from collections import Counter
from typing import Final

import numpy as np

from hanse_simulations.report.plots import Key, Plot
from hanse_simulations.report.svg import arm_colour, arm_variable, drawing, to_svg
from hanse_simulations.report.wording import counted
from hanse_simulations.runs.results import InterestMap

# Six colours of the page that are easy to tell apart; further departments share the last.
_COLOURS: Final = (
    "federated_private",
    "federated",
    "alone",
    "boosted_trees",
    "personal_frequency",
    "markov",
)
_OTHER: Final = "other"


def interest_plane(found: InterestMap | None) -> Plot | None:
    """Draw a run's map by PCA and by t-SNE."""
    if found is None:
        return None
    ranked = [name for name, _ in Counter(found.departments).most_common()]
    colours = dict(zip(ranked, _COLOURS, strict=False))
    chosen = np.array([colours.get(name, _OTHER) for name in found.departments])
    with drawing(2.6) as sheet:
        panels = sheet.subplots(1, 2)
        for axes, points, title in zip(
            panels, (found.pca, found.tsne), ("PCA", "t-SNE"), strict=True
        ):
            plane = np.array(points)
            for colour in (*_COLOURS, _OTHER):
                some = plane[chosen == colour]
                axes.plot(
                    some[:, 0],
                    some[:, 1],
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
        text = f"{counted(len(found.departments), 'customer')} on a plane, twice."
        svg = to_svg(sheet, "interest-map", "Customers by their interests", text)
    shown = counted(len(found.departments), "customer")
    caption = (
        f"{shown} of {found.customers:,} by the chances of each class in their next basket, seen"
        " from the first test day; neither names nor stores are on it. Colour: the department"
        " whose share most exceeds everybody's. The first two principal components hold"
        f" {found.explained:.0%} of the variance. It can show whether interests form groups or a"
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
