"""Pictures of Bayesian networks: nodes on a circle, edges as arrows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST = 0.05
"""Edges of a lower probability are not drawn."""


def draw_network(axes: Axes, names: Sequence[str], edges: Tensor, true_graph: Tensor | None) -> None:
    """Draw a network, or the probabilities of its edges: the fainter an arrow, the less probable.

    Args:
        axes: where to draw.
        names: of the nodes.
        edges: `[d, d]`, 0 or 1, or probabilities.
        true_graph: int64 `[d, d]`. Edges that it lacks are red, and those that it has besides are grey and dashed; None
            where it is not known.
    """
    d = len(names)
    places = [(math.sin(2 * math.pi * i / d), math.cos(2 * math.pi * i / d)) for i in range(d)]
    for i in range(d):
        for j in range(d):
            known, weight = true_graph is not None and bool(true_graph[i, j]), float(edges[i, j])
            style = {"arrowstyle": "-|>", "shrinkA": 12, "shrinkB": 12, "connectionstyle": "arc3,rad=0.12"}
            if weight >= LEAST:
                colour = "black" if known or true_graph is None else "tab:red"
                style |= {"color": colour, "alpha": min(weight, 1.0), "linewidth": 1.5}
            elif known:
                style |= {"color": "tab:gray", "alpha": 0.5, "linewidth": 1.0, "linestyle": "dashed"}
            else:
                continue
            axes.annotate("", places[j], places[i], arrowprops=style)
    for name, (x, y) in zip(names, places, strict=True):
        box = {"boxstyle": "circle", "facecolor": "white", "edgecolor": "black"}
        axes.text(x, y, name, ha="center", va="center", fontsize=8, bbox=box)
    axes.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), aspect="equal")
    axes.set_axis_off()
