"""What a run leaves to look at: a table of its metrics, pictures, and tables of objects."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from PIL.Image import Image

from agents.evaluation.metric import Column, Drawer, Table
from agents.runs.folder import Run, RunFolder
from agents.sampling.rollout import Policy, rollout
from gfn_envs.dag import DAG

History = list[dict[str, float]]
"""One dictionary of figures an evaluation, oldest first."""


def shown_columns(history: History, columns: Mapping[str, Column]) -> dict[str, Column]:
    """Return the columns of the figures in `history`: those declared, in their order, and usual ones for the rest."""
    present = dict.fromkeys(name for figures in history for name in figures)
    declared = {name: column for name, column in columns.items() if name in present}
    return declared | {name: Column.usual(name) for name in present if name not in columns}


def table(history: History, columns: Mapping[str, Column], rows: int = 12) -> str:
    """Return the figures of up to `rows` evaluations, evenly spread and with the last one, as aligned text."""
    if not history:
        return "no evaluation yet"
    step = -(-len(history) // rows)
    shown = history[::-1][::step][::-1]
    known = {name: column for name, column in shown_columns(shown, columns).items() if column.in_table}
    lines = [[column.heading for column in known.values()]]
    lines += [[known[name].form.format(row[name]) if name in row else "" for name in known] for row in shown]
    widths = [max(len(line[i]) for line in lines) for i in range(len(known))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def draw(folder: RunFolder[Any], run: Run) -> list[Path]:
    """Draw a run's pictures into its folder and return the paths of those that apply.

    A picture that needs a package which is not installed is left out.
    """
    gflownet = run.gflownet()
    drawers: dict[str, Drawer] = {"learning_curve": lambda: learning_curve(run.history, run.columns())}
    if gflownet is not None:
        policy = gflownet.policy()
        drawers["trajectories"] = lambda: trajectories(run.dag, policy, run.config.seed)
    drawn = []
    for name, drawer in {**run.evaluator.pictures(gflownet), **drawers}.items():
        try:
            picture = drawer()
        except ModuleNotFoundError:
            continue
        drawn.append(folder.write(f"{name}.png", png(picture)))
    return drawn


def png(picture: Figure | Image) -> bytes:
    """Return a picture as the content of a PNG file."""
    data = io.BytesIO()
    if isinstance(picture, Figure):
        FigureCanvasAgg(picture).print_png(data)
    else:
        picture.save(data, format="png")
    return data.getvalue()


def write_tables(folder: RunFolder[Any], run: Run) -> None:
    """Write the tables of a run's metrics into its folder as CSV."""
    for name, make in run.evaluator.tables(run.gflownet(), run.config.seed).items():
        folder.write(f"{name}.csv", as_csv(make()).encode())


def as_csv(rows: Table) -> str:
    """Return rows of cells as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


@dataclass(frozen=True)
class Panel:
    """One panel of the learning curves: the columns whose `panel` is its title, by the name of the figure."""

    title: str
    columns: dict[str, Column]
    scale: str


def panels(history: History, columns: Mapping[str, Column]) -> list[Panel]:
    """Return the panels of the figures in `history` that can be drawn, in the order of their first columns."""
    grouped: dict[str, dict[str, Column]] = {}
    for name, column in shown_columns(history, columns).items():
        if column.panel:
            grouped.setdefault(column.panel, {})[name] = column
    found = []
    for title, members in grouped.items():
        scale = next(iter(members.values())).scale
        values = {name: _finite(history, name) for name in members}
        # A logarithmic scale has no place for what is never positive, such as the loss of a P_B that does not learn.
        drawable = {name: members[name] for name in members if any(scale != "log" or x > 0 for x in values[name])}
        if drawable:
            scale = fitting_scale(scale, [value for name in drawable for value in values[name]])
            found.append(Panel(title, drawable, scale))
    return found


def learning_curve(history: History, columns: Mapping[str, Column]) -> Figure:
    """Draw the figures over the trajectories, a panel for each title."""
    shown = panels(history, columns)
    rows = max(1, (len(shown) + 1) // 2)
    figure = Figure(figsize=(11, 3.6 * rows), layout="constrained")
    if not shown:
        figure.suptitle("no evaluation yet")
        return figure
    grid = figure.subplots(rows, 2, squeeze=False).flat
    for panel, axes in zip(shown, grid, strict=False):
        _draw_panel(panel, history, axes)
    for axes in grid:  # what is left of the last row
        axes.set_axis_off()
    return figure


def _draw_panel(panel: Panel, history: History, axes: Axes) -> None:
    for name, column in panel.columns.items():
        rows = [figures for figures in history if name in figures]
        places, values = [row["trajectories"] for row in rows], [row[name] for row in rows]
        marker, line = "." if len(rows) < 30 else "", "--" if column.dashed else "-"
        axes.plot(places, values, label=column.label or column.heading, marker=marker, linestyle=line)
        if column.reference is not None:
            axes.axhline(column.reference, color="gray", linewidth=1, linestyle="--")
    axes.set_yscale(panel.scale)
    if counts(value for name in panel.columns for value in _finite(history, name)):
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.set_title(panel.title)
    axes.set_xlabel("trajectories")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(alpha=0.3)
    if len(panel.columns) > 1:
        axes.legend(fontsize=9)


def _finite(history: History, name: str) -> list[float]:
    return [figures[name] for figures in history if math.isfinite(figures.get(name, math.nan))]


def counts(values: Iterable[float]) -> bool:
    """Tell whether these are whole numbers, whose axis has whole ticks."""
    return all(float(value).is_integer() for value in values)


def fitting_scale(scale: str, values: list[float]) -> str:
    """Return the scale of an axis, which a column's `scale` asks for.

    "auto" is logarithmic where `values` are positive and span over two decades; "log" is where any is positive.
    """
    logarithmic = {"linear": False, "log": max(values) > 0, "auto": 0 < 100 * min(values) < max(values)}
    return "log" if logarithmic[scale] else "linear"


def trajectories(dag: DAG, policy: Policy, seed: int, count: int = 6) -> Figure:
    """Draw `count` fresh trajectories of a learned policy."""
    generator = torch.Generator(dag.device).manual_seed(seed)
    batch = rollout(dag, policy, dag.reset(count), generator)
    figure = Figure(figsize=(3.4 * ((count + 1) // 2), 7.1), layout="constrained")
    figure.suptitle("trajectories of the learned policy")
    for i, axes in enumerate(figure.subplots(2, (count + 1) // 2).flat):
        if i == count:  # an odd count leaves one over
            axes.set_axis_off()
            break
        length = int(batch.lengths[i])
        dag.draw(batch.states[i, : length + 1], axes)
        steps = "1 step" if length == 1 else f"{length} steps"
        title = f"{steps}, log R = {float(batch.log_reward[i]) + 0.0:.3f}"  # + 0.0: not -0.000
        axes.set_title("\n".join(filter(None, (title, axes.get_title()))), fontsize=9)
    return figure
