"""Pictures of a suite's results: learning curves and performance profiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from agents.runs import aggregate
from agents.runs.report import fitting_scale

if TYPE_CHECKING:
    from agents.runs.suite_page import Results

ACROSS = 5
"""Panels in a row."""
LEAST_SLACK, MOST_GAIN = 1e-5, 20
"""Ends of the axes of the picture of gains: a run that all but reaches the target is a factor of thousands away."""


def curves(results: Results, env: str, axis: str = "trajectories") -> Figure:
    """Draw the compared figure against an axis of the records: a panel for each agent, a line for each backward policy.

    Where the seeds differ in it, as they do in seconds, a line is at their mean.
    """
    column = results.column(results.metric)
    values: list[float] = []

    def line(axes: Axes, method: str, style: dict[str, Any]) -> None:
        found = [record.curves for record in results.of(env, method).values() if results.metric in record.curves]
        if not found:
            return
        found = [each for each in found if len(each[axis]) == len(found[0][axis])]
        x = np.array([each[axis] for each in found], float).mean(0)
        y = np.array([each[results.metric] for each in found], float)
        values.extend(y[np.isfinite(y)])
        axes.plot(x, y.mean(0), **style)
        axes.fill_between(x, y.min(0), y.max(0), color=style["color"], alpha=0.15, linewidth=0)

    figure = _by_agent(results, [env], line, axis, column.heading)
    for axes in figure.axes:
        axes.set_yscale("log" if min(values, default=0) > 0 else fitting_scale(column.scale, values))
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    return figure


def profile(results: Results) -> Figure:
    """Draw the share of runs that end at least as well as a value.

    There is a panel for each agent and a line for each backward policy.
    """
    values = [v for env in results.envs for method in results.methods for v in results.values(env, method).values()]
    low, high = np.quantile(values or [0.0, 1.0], [0.05, 1])  # few runs end far better than all others
    thresholds = np.geomspace(low, high, 200) if low > 0 else np.linspace(low, high, 200)
    sign = -1 if results.suite.larger_is_better else 1

    def line(axes: Axes, method: str, style: dict[str, Any]) -> None:
        strata = [[sign * v for v in results.values(env, method).values()] for env in results.envs]
        if any(strata):
            axes.plot(thresholds, aggregate.profile(strata, sign * thresholds), **style)

    heading = results.column(results.metric).heading
    figure = _by_agent(results, results.envs, line, f"{heading} at the end", "share of runs")
    for axes in figure.axes:
        axes.set_xscale("log" if low > 0 else "linear")
    return figure


def gains(results: Results, points: Mapping[str, list[tuple[str, float, float]]]) -> Figure:
    """Draw what backward policies gain on uniform against the slack that uniform leaves.

    `points` has agent, slack and log ratio of each point, by backward policy.
    """
    figure = Figure(figsize=(3.2 * len(points) + 1.6, 3.6), layout="constrained")
    colors = colormaps["tab20"].colors  # pyright: ignore[reportAttributeAccessIssue]
    color = dict(zip(results.pairs(), colors, strict=False))
    drawn: dict[str, Any] = {}
    panels = figure.subplots(1, len(points), squeeze=False, sharex=True, sharey=True)[0]
    for (backward, found), axes in zip(points.items(), panels, strict=True):
        for agent in dict.fromkeys(agent for agent, _, _ in found):
            own = [(max(slack, LEAST_SLACK), np.exp(gain)) for other, slack, gain in found if other == agent]
            drawn[agent] = axes.scatter(*zip(*own, strict=True), s=16, color=color.get(agent, "black"))
        axes.axhline(1, color="gray", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(backward, fontsize=10)
        axes.grid(alpha=0.3)
    low, high = panels[0].get_ylim()
    panels[0].set_ylim(max(low, 1 / MOST_GAIN), min(high, MOST_GAIN))
    figure.supxlabel("slack under uniform at the end, nats", fontsize=10)
    figure.supylabel("gain on uniform, times", fontsize=10)
    figure.legend(drawn.values(), list(drawn), loc="outside right center", fontsize=8)
    return figure


def _by_agent(
    results: Results, envs: list[str], line: Callable[[Axes, str, dict[str, Any]], None], x: str, y: str
) -> Figure:
    """Return a figure with a panel for each agent that has runs on `envs`; `line` draws a method into a panel."""
    rows = {
        agent: methods
        for agent, methods in results.pairs().items()
        if any(results.of(env, method) for env in envs for method in methods.values())
    }
    count = max(1, len(rows))
    down, across = -(-count // ACROSS), min(ACROSS, count)
    figure = Figure(figsize=(3.2 * across + 0.6, 2.7 * down + 0.7), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    colors = colormaps["tab10"].colors  # pyright: ignore[reportAttributeAccessIssue]
    styles = {name: {"color": color, "linewidth": 1.6} for name, color in zip(results.backward(), colors, strict=False)}
    for axes in grid.flat[len(rows) :]:
        axes.remove()
    for i, ((agent, methods), axes) in enumerate(zip(rows.items(), grid.flat, strict=False)):
        for backward, method in methods.items():
            line(axes, method, styles[backward])
        axes.set_title(agent, fontsize=10)
        axes.grid(alpha=0.3)
        axes.tick_params(labelbottom=i + across >= len(rows))
    figure.supxlabel(x, fontsize=10)
    figure.supylabel(y, fontsize=10)
    figure.legend(
        [Line2D([], [], **style) for style in styles.values()], list(styles), loc="outside upper center", ncols=5
    )
    return figure
