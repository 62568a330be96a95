"""The output of a run for its reader: a table of its metrics, pictures, and tables of objects."""

from __future__ import annotations

import csv
import io
import math
import shlex
import warnings
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
from agents.runs.page import Section, web_page
from agents.sampling.rollout import Policy, Trajectories, rollout
from gfn_envs.dag import DAG

History = list[dict[str, float]]
"""One dictionary of metrics per evaluation, oldest first."""
ROWS_OF_PAGE = 25
"""Evaluations in the table of a run's page."""


def shown_columns(history: History, columns: Mapping[str, Column]) -> dict[str, Column]:
    """Return the columns of the metrics in `history`: declared ones in their order, then usual ones for the rest."""
    present = dict.fromkeys(name for figures in history for name in figures)
    declared = {name: column for name, column in columns.items() if name in present}
    return declared | {name: Column.usual(name) for name in present if name not in columns}


def table(history: History, columns: Mapping[str, Column], rows: int = 12) -> str:
    """Return the metrics of up to `rows` evenly spread evaluations, including the last, as aligned text."""
    if not history:
        return "no evaluation yet"
    lines = cells(history, columns, rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.rjust, line, widths)) for line in lines)


def cells(history: History, columns: Mapping[str, Column], rows: int) -> list[list[str]]:
    """Return the headings, and the metrics of up to `rows` evenly spread evaluations, including the last."""
    step = -(-len(history) // rows)
    shown = history[::-1][::step][::-1]
    known = {name: column for name, column in shown_columns(shown, columns).items() if column.in_table}
    lines = [[column.heading for column in known.values()]]
    return lines + [[known[name].form.format(row[name]) if name in row else "" for name in known] for row in shown]


def write_page(folder: RunFolder[Any], run: Run, paths: Iterable[Path], command: str) -> Path:
    """Write `report.html`, a run's metrics, pictures and settings in one file, and return its path.

    Args:
        paths: the files of the pictures.
        command: the command line that started the run, without its arguments.
    """
    settings = run.config.flat()
    known = shown_columns(run.history, run.columns()).values()
    meanings = tuple(f"{column.heading}: {column.meaning}" for column in known if column.in_table and column.meaning)
    rows = cells(run.history, run.columns(), ROWS_OF_PAGE) if run.history else [["no evaluation yet"]]
    parts = [
        Section(f"{run.config.env}, {folder.path.name}", "One run, as far as its last evaluation."),
        Section("Metrics", items=meanings, table=tuple(map(tuple, rows))),
        *(Section(path.stem.replace("_", " "), picture=(path.name, path.read_bytes())) for path in paths),
        Section("Settings", table=(("setting", "value"), *((name, str(value)) for name, value in settings.items()))),
        Section("To go on with it", f"{command} --resume {shlex.quote(str(folder.path))}"),
    ]
    return folder.write("report.html", web_page(parts).encode())


def draw(folder: RunFolder[Any], run: Run) -> list[Path]:
    """Draw a run's pictures into its folder and return the paths of those that apply."""
    return [folder.write(f"{name}.png", png(picture)) for name, picture in pictures(run).items()]


def pictures(run: Run) -> dict[str, Figure | Image]:
    """Return the pictures that apply to a run, by name.

    A picture is left out if it needs a package that is not installed, or, with a warning, a library of the system.
    """
    gflownet = run.gflownet()
    drawers: dict[str, Drawer] = {"learning_curve": lambda: learning_curve(run.history, run.columns())}
    if gflownet is not None:
        policy = gflownet.policy()
        drawers["trajectories"] = lambda: trajectories(run.dag, policy, run.config.seed)
    drawn = {}
    for name, drawer in {**run.evaluator.pictures(gflownet), **drawers}.items():
        try:
            drawn[name] = drawer()
        except ModuleNotFoundError:
            continue
        except ImportError as error:
            warnings.warn(f"{name}.png is left out: {error}.", stacklevel=2)
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
    """Write the tables that a run's metrics offer into its folder as CSV."""
    for name, make in run.evaluator.tables(run.gflownet(), run.config.seed).items():
        folder.write(f"{name}.csv", as_csv(make()).encode())


def as_csv(rows: Table) -> str:
    """Return rows of cells as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


@dataclass(frozen=True)
class Panel:
    """One panel of the learning curves: the columns whose `panel` is its title, by name of the metric."""

    title: str
    columns: dict[str, Column]
    scale: str


def panels(history: History, columns: Mapping[str, Column]) -> list[Panel]:
    """Return the panels of the metrics in `history` that can be drawn, in the order of their first columns."""
    grouped: dict[str, dict[str, Column]] = {}
    for name, column in shown_columns(history, columns).items():
        if column.panel:
            grouped.setdefault(column.panel, {})[name] = column
    found = []
    for title, members in grouped.items():
        scale = next(iter(members.values())).scale
        values = {name: _finite(history, name) for name in members}
        # A logarithmic scale cannot show a metric that is never positive, such as the loss of a P_B without learning.
        drawable = {name: members[name] for name in members if any(scale != "log" or x > 0 for x in values[name])}
        if drawable:
            scale = fitting_scale(scale, [value for name in drawable for value in values[name]])
            found.append(Panel(title, drawable, scale))
    return found


def learning_curve(history: History, columns: Mapping[str, Column]) -> Figure:
    """Draw the metrics over the trajectories, with one panel for each title."""
    shown = panels(history, columns)
    rows = max(1, (len(shown) + 1) // 2)
    figure = Figure(figsize=(11, 3.6 * rows), layout="constrained")
    if not shown:
        figure.suptitle("no evaluation yet")
        return figure
    grid = figure.subplots(rows, 2, squeeze=False).flat
    for panel, axes in zip(shown, grid, strict=False):
        _draw_panel(panel, history, axes)
    for axes in grid:  # panels left over in the last row
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
    """Return whether all values are whole numbers, so that their axis gets whole ticks."""
    return all(float(value).is_integer() for value in values)


def fitting_scale(scale: str, values: list[float]) -> str:
    """Return the scale of an axis for a column's `scale`.

    "auto" is logarithmic if `values` are positive and span more than two decades. "log" is logarithmic if any value is
    positive.
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
        if i == count:  # an odd count leaves one panel over
            axes.set_axis_off()
            break
        draw_trajectory(dag, batch, i, axes)
    return figure


def draw_trajectory(dag: DAG, batch: Trajectories, i: int, axes: Axes, whose: str = "") -> None:
    """Draw trajectory `i` of a batch; its length and log R stand above it, after `whose` it is."""
    length = int(batch.lengths[i])
    dag.draw(batch.states[i, : length + 1], axes)
    steps = "1 step" if length == 1 else f"{length} steps"
    title = f"{whose}{steps}, log R = {float(batch.log_reward[i]) + 0.0:.3f}"  # + 0.0: not -0.000
    axes.set_title("\n".join(filter(None, (title, axes.get_title()))), fontsize=9)
