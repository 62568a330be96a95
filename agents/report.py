"""What a run leaves to look at: a table of its metrics and pictures."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from agents.checkpoint import write_atomically
from agents.rollout import rollout
from agents.trainer import Trainer
from gfn_envs.exact import Enumeration

COLUMNS = {
    "trajectories": ("trajectories", "{:,.0f}"),
    "l1_empirical": ("L1 empirical", "{:.4f}"),
    "l1_exact": ("L1 exact", "{:.4f}"),
    "total_variation_exact": ("TV exact", "{:.4f}"),
    "kl_exact": ("KL exact", "{:.4f}"),
    "log_z_error": ("log Z error", "{:+.4f}"),
    "mean_reward": ("mean reward", "{:.4g}"),
    "unique_states": ("unique states", "{:,.0f}"),
    "loss": ("loss", "{:.3g}"),
    "backward_loss": ("P_B loss", "{:.4g}"),
    "iterations_per_second": ("it/s", "{:.1f}"),
}
"""Metric -> heading and format."""


def table(history: list[dict[str, float]], rows: int = 12) -> str:
    """Return the metrics of up to `rows` evaluations, evenly spread and with the last one, as aligned text."""
    if not history:
        return "no evaluation yet"
    step = -(-len(history) // rows)
    shown = history[::-1][::step][::-1]
    columns = [(heading, form, key) for key, (heading, form) in COLUMNS.items() if key in history[-1]]
    lines = [[heading for heading, _, _ in columns]]
    lines += [[form.format(metrics[key]) for _, form, key in columns] for metrics in shown]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def draw_all(trainer: Trainer, folder: Path) -> list[Path]:
    """Draw the run's pictures into `folder` and return their paths."""
    figures = {"learning_curve.png": learning_curve(trainer.history), "trajectories.png": trajectories(trainer)}
    if trainer.evaluator.enumeration:
        learned = trainer.evaluator.enumeration.terminal_distribution(trainer.agent.policy())
        figures["distribution.png"] = distribution(trainer.evaluator.enumeration, learned)
    for name, figure in figures.items():
        data = io.BytesIO()
        FigureCanvasAgg(figure).print_png(data)
        write_atomically(folder / name, data.getvalue())
    return [folder / name for name in figures]


def learning_curve(history: list[dict[str, float]]) -> Figure:
    """Draw the metrics over the trajectories, one panel a kind."""
    panels = [
        ("distance to the target", ("l1_empirical", "l1_exact", "kl_exact"), "log"),
        ("error of log Z", ("log_z_error",), "linear"),
        ("mean reward", ("mean_reward", "mean_reward_exact", "mean_reward_target"), "linear"),
        ("loss", ("loss", "backward_loss"), "log"),
    ]
    known = set(history[-1]) if history else set()
    panels = [(title, [key for key in keys if key in known], scale) for title, keys, scale in panels]
    panels = [panel for panel in panels if panel[1]] or [("no evaluation yet", [], "linear")]
    figure = Figure(figsize=(5.2 * len(panels), 4), layout="constrained")
    for axes, (title, keys, scale) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for key in keys:
            values = [metrics[key] for metrics in history]
            axes.plot([m["trajectories"] for m in history], values, label=key, marker="." if len(values) < 30 else "")
        if scale == "log" and any(metrics[key] > 0 for metrics in history for key in keys):
            axes.set_yscale("log")
        axes.set_title(title)
        axes.set_xlabel("trajectories")
        axes.grid(alpha=0.3)
        if keys:
            axes.legend()
    return figure


def distribution(enumeration: Enumeration, learned: Tensor, most: int = 3) -> Figure:
    """Draw the target's and the learned distribution's marginals over pairs of state components, as heat maps.

    The first `most` pairs of components that vary over the terminal states; with one such component, a bar chart.
    """
    states = enumeration.states[enumeration.terminal].cpu()
    target, learned = enumeration.target.cpu(), learned.cpu()
    varying = [i for i in range(states.shape[1]) if int(states[:, i].min()) != int(states[:, i].max())]
    nvec = enumeration.dag.nvec
    if len(varying) == 1:
        (i,) = varying
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        for p, name, width in ((target, "target", 0.8), (learned, "learned", 0.4)):
            axes.bar(range(nvec[i]), _marginal(states[:, i], p, nvec[i]).numpy(), width=width, label=name)
        axes.set_xlabel(f"state component {i}")
        axes.legend()
        return figure
    pairs = list(itertools.combinations(varying, 2))[:most]
    figure = Figure(figsize=(9.6, 3.1 * len(pairs)), layout="constrained")
    for row, (i, j) in zip(figure.subplots(len(pairs), 3, squeeze=False), pairs, strict=True):
        index = states[:, i] * nvec[j] + states[:, j]
        maps = [_marginal(index, p, nvec[i] * nvec[j]).view(nvec[i], nvec[j]) for p in (target, learned)]
        maps.append(maps[1] - maps[0])
        top, spread = float(torch.stack(maps[:2]).max()), float(maps[2].abs().max()) or 1.0
        scales = [("viridis", 0.0, top), ("viridis", 0.0, top), ("coolwarm", -spread, spread)]
        titles = ("target", "learned (exact)", "learned - target")
        for axes, heat, title, (cmap, low, high) in zip(row, maps, titles, scales, strict=True):
            image = axes.imshow(heat.T.numpy(), origin="lower", cmap=cmap, vmin=low, vmax=high)
            figure.colorbar(image, ax=axes, shrink=0.8)
            axes.set_title(title)
            axes.set_xlabel(f"component {i}")
            axes.set_ylabel(f"component {j}")
    return figure


def _marginal(index: Tensor, p: Tensor, size: int) -> Tensor:
    return torch.zeros(size, dtype=p.dtype).index_add_(0, index, p)


def trajectories(trainer: Trainer, count: int = 6) -> Figure:
    """Draw `count` fresh trajectories of the learned policy."""
    dag = trainer.dag
    generator = torch.Generator(dag.device).manual_seed(trainer.config.seed)
    batch = rollout(dag, trainer.agent.policy(), dag.reset(count), generator)
    figure = Figure(figsize=(3.4 * ((count + 1) // 2), 6.8), layout="constrained")
    for i, axes in enumerate(figure.subplots(2, (count + 1) // 2).flat[:count]):
        length = int(batch.lengths[i])
        dag.draw(batch.states[i, : length + 1], axes)
        axes.set_title(f"{length} steps, R = {float(batch.log_reward[i].exp()):.3g}", fontsize=9)
    return figure
