"""A forest drawn as trees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gfn_envs.envs.phylotree.fitch import Tree

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_READABLE = 30  # leaves whose names are written in the usual size


def draw_forest(axes: Axes, forest: list[Tree], names: Sequence[str], new: int | None) -> None:
    """Draw trees below one another: leaves to the right, each join as far to the left as it is high.

    Args:
        new: the place in `forest` of the tree whose root is drawn in red, or None.
    """
    rows = 0

    def draw(tree: Tree, color: str) -> tuple[float, int]:
        """Draw a tree; return the row and the height of its root."""
        nonlocal rows
        if isinstance(tree, int):
            axes.text(0.15, rows, names[tree].replace("_", " "), va="center", fontsize=size)
            rows += 1
            return rows - 1, 0
        ends = [draw(part, "#303030") for part in tree]
        height = 1 + max(height for _, height in ends)
        for row, below in ends:
            axes.plot([-height, -below], [row, row], color=color, linewidth=1.2)
        axes.plot([-height, -height], [row for row, _ in ends], color=color, linewidth=1.2)
        return sum(row for row, _ in ends) / 2, height

    size = 7 if len(names) <= _MOST_READABLE else 4
    highest = 1
    for place, tree in enumerate(forest):
        row, height = draw(tree, "#c03028" if place == new else "#303030")
        axes.plot([-height - 0.3, -height], [row, row], color="#303030", linewidth=1.2)
        highest = max(highest, height)
    axes.set_xlim(-highest - 0.5, 0.75 * highest)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_axis_off()
