"""Pictures of a comparison: learning curves, and distributions side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from torch import Tensor

from agents.evaluation.metric import Column
from agents.runs.finished import FinishedRun
from agents.runs.report import counts, fitting_scale
from gfn_envs.exact import Enumeration

CURVES = 4
"""Rows of learning curves."""
AXES = (
    ("trajectories", "trajectories", "linear"),
    ("reward_calls", "reward calls", "linear"),
    ("seconds", "seconds, without evaluation", "log"),
)


def curves(groups: dict[str, list[FinishedRun]], columns: Mapping[str, Column]) -> Figure:
    """Draw the first few figures that have a `curve`, in the order of `columns`.

    They are drawn against trajectories, reward calls and seconds. Thin lines are runs, thick ones means over seeds;
    agents' are solid, baselines' dashed.
    """
    rows = [(name, column) for name, column in columns.items() if column.curve][:CURVES]
    colors = colormaps["tab20" if len(groups) > 10 else "tab10"].colors  # pyright: ignore[reportAttributeAccessIssue]
    figure = Figure(figsize=(14, 3.2 * max(1, len(rows)) + 0.9), layout="constrained")
    grid = figure.subplots(max(1, len(rows)), len(AXES), squeeze=False, sharey="row")
    lines: dict[str, Any] = {}
    for (metric, column), row in zip(rows, grid, strict=False):
        histories = [run.history for runs in groups.values() for run in runs]
        values = [figures[metric] for history in histories for figures in history if metric in figures]
        for (axis, label, axis_scale), axes in zip(AXES, row, strict=True):
            for i, (name, runs) in enumerate(groups.items()):
                color = colors[i % len(colors)]
                points = [p for run in runs if len(p := _points(run, axis, metric))]
                for p in points if len(points) > 1 else []:
                    axes.plot(p[:, 0], p[:, 1], color=color, linewidth=0.6, alpha=0.5)
                if points:
                    mean = _mean(points)
                    style = "--" if runs[0].kind.yardstick else "-"
                    marker = "o" if len(mean) < 3 else ""
                    (lines[name],) = axes.plot(mean[:, 0], mean[:, 1], style + marker, color=color, linewidth=2)
            axes.set_yscale(fitting_scale(column.scale, values))
            if counts(values):
                axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.set_xscale(axis_scale)
            axes.xaxis.set_major_locator(MaxNLocator(4) if axis_scale == "linear" else LogLocator(subs=(1, 3)))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlabel(label)
            axes.grid(alpha=0.3)
        row[0].set_ylabel(column.heading)
    figure.legend(list(lines.values()), list(lines), loc="outside upper center", ncols=min(5, max(1, len(lines))))
    return figure


def _points(run: FinishedRun, axis: str, metric: str) -> np.ndarray:
    """Return `[n, 2]`: where on the axis, and what."""
    return np.array([(row[axis], row[metric]) for row in run.history if metric in row and row[axis] > 0])


def _mean(runs: list[np.ndarray]) -> np.ndarray:
    """Return the mean curve `[n, 2]`: evaluation by evaluation where runs have equally many, on both axes.

    Otherwise over the stretch that all runs cover, interpolated between evaluations.
    """
    if len({len(p) for p in runs}) == 1:
        return np.mean(runs, 0)
    low, high = max(p[0, 0] for p in runs), min(p[-1, 0] for p in runs)
    inner = [x for x in runs[0][:, 0] if low < x < high]
    places = np.array([low, *inner, high]) if low < high else np.array([low])
    return np.stack([places, np.mean([np.interp(places, p[:, 0], p[:, 1]) for p in runs], 0)], 1)


def distributions(enumeration: Enumeration, learned: dict[str, Tensor]) -> Figure | None:
    """Draw the marginal over the first two state components that vary, of the target and of each `learned [X]`.

    None where fewer than two vary. One colour scale, up to twice the target's peak: what is brighter is cut off.
    """
    states = enumeration.states[enumeration.terminal].cpu()
    varying = [i for i in range(states.shape[1]) if int(states[:, i].min()) != int(states[:, i].max())]
    if len(varying) < 2:
        return None
    i, j = varying[:2]
    shape = (enumeration.dag.nvec[i], enumeration.dag.nvec[j])
    index = states[:, i] * shape[1] + states[:, j]
    maps = {
        name: torch.zeros(shape[0] * shape[1], dtype=torch.float64).index_add_(0, index, p.double().cpu()).view(shape)
        for name, p in {"target": enumeration.target, **learned}.items()
    }
    top = 2 * float(maps["target"].max())
    columns = min(5, len(maps))
    rows = -(-len(maps) // columns)
    figure = Figure(figsize=(2.9 * columns + 0.8, 3.1 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    image = None
    for axes in grid.flat[len(maps) :]:
        axes.set_axis_off()
    for (name, heat), axes in zip(maps.items(), grid.flat, strict=False):
        image = axes.imshow(heat.T.numpy(), origin="lower", cmap="viridis", vmin=0, vmax=top)
        axes.set_title(name, fontsize=10)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    grid[-1, 0].set_xlabel(f"component {i}")
    grid[-1, 0].set_ylabel(f"component {j}")
    if image is not None:
        figure.colorbar(image, ax=grid, extend="max", shrink=0.8, label="marginal probability")
    return figure
