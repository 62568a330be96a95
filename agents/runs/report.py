"""What a run leaves to look at: a table of its metrics and pictures."""

from __future__ import annotations

import io
import itertools
import math
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from PIL.Image import Image
from torch import Tensor

from agents.evaluation.collectors import BestStates
from agents.evaluation.estimates import log_likelihood
from agents.evaluation.evaluator import Evaluator
from agents.evaluation.molecules import separated_modes
from agents.evaluation.settings import EvaluationSettings
from agents.objectives.base import Agent
from agents.runs.folder import PICTURES, SAMPLES, write_atomically
from agents.sampling.random_state import make_generator
from agents.sampling.rollout import Policy, rollout
from agents.trainer import Trainer
from gfn_envs.dag import DAG
from gfn_envs.envs.molecules import chem
from gfn_envs.exact import Enumeration, reported_log_reward
from gfn_envs.metrics import pearson, spearman

COLUMNS = {
    "trajectories": ("trajectories", "{:,.0f}"),
    "l1_empirical": ("L1 empirical", "{:.4f}"),
    "l1_exact": ("L1 exact", "{:.4f}"),
    "total_variation_exact": ("TV exact", "{:.4f}"),
    "kl_exact": ("KL exact", "{:.4f}"),
    "log_z_error": ("log Z error", "{:+.4f}"),
    "mean_reward": ("mean reward", "{:.4g}"),
    "modes_found": ("modes found", "{:.0f}"),
    "pearson": ("Pearson", "{:.3f}"),
    "spearman": ("Spearman", "{:.3f}"),
    "elbo": ("ELBO", "{:.3f}"),
    "mean_log_reward": ("mean log reward", "{:.3f}"),
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
    known = COLUMNS | {key: (heading, "{:.0f}") for key, heading in separated_modes(history[-1]).items()}
    columns = [(heading, form, key) for key, (heading, form) in known.items() if any(key in row for row in shown)]
    lines = [[heading for heading, _, _ in columns]]
    lines += [[form.format(row[key]) if key in row else "" for _, form, key in columns] for row in shown]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def draw_all(trainer: Trainer, folder: Path) -> list[Path]:
    """Draw a trainer's pictures into `folder` and return their paths."""
    return draw(folder, trainer.history, trainer.evaluator, trainer.agent.policy(), trainer.config.seed)


def draw(
    folder: Path, history: list[dict[str, float]], evaluator: Evaluator, policy: Policy | None, seed: int
) -> list[Path]:
    """Draw a run's pictures into `folder` and return the paths of those that apply.

    Without a `policy`, of what cannot be told from the state alone, the distribution is that of the latest samples.
    """
    curve, comparison, paths, scatter, top = (folder / name for name in PICTURES)
    dag, enumeration = evaluator.dag, evaluator.enumeration
    figures: dict[Path, Figure | Image] = {curve: learning_curve(history)}
    if policy and (chem.installed() or not dag.offers("to_smiles")):
        figures[paths] = trajectories(dag, policy, seed)
    if evaluator.test_set:
        figures[scatter] = likelihood(evaluator.test_set)
    if enumeration:
        learned = enumeration.terminal_distribution(policy) if policy else evaluator.recent.frequencies()
        figures[comparison] = distribution(enumeration, learned)
    if evaluator.molecules and len(evaluator.best.states):
        figures[top] = top_molecules(dag, evaluator.best)
    for path, figure in figures.items():
        write_atomically(path, png(figure))
    return list(figures)


def png(picture: Figure | Image) -> bytes:
    """Return a picture as the content of a PNG file."""
    data = io.BytesIO()
    if isinstance(picture, Figure):
        FigureCanvasAgg(picture).print_png(data)
    else:
        picture.save(data, format="png")
    return data.getvalue()


def top_molecules(dag: DAG, best: BestStates, count: int = 24) -> Image:
    """Draw the molecules of highest reward so far, each with its reward."""
    shown = list(rewards_by_smiles(dag, best.states, best.log_reward).items())[:count]
    return chem.grid([smiles for smiles, _ in shown], [f"{reward:.3f}" for _, reward in shown])


def rewards_by_smiles(dag: DAG, states: Tensor, log_reward: Tensor) -> dict[str, float]:
    """Return the rewards of molecules, best first as `states [B, d]` are; of those of one SMILES, the first one's."""
    rewards: dict[str, float] = {}
    for smiles, reward in zip(dag.to_smiles(states.to(dag.device)), log_reward.exp().tolist(), strict=True):  # type: ignore[attr-defined]
        rewards.setdefault(smiles, reward)
    return rewards


def write_samples(agent: Agent, settings: EvaluationSettings, seed: int, folder: Path) -> None:
    """Write fresh molecules of the learned policy into `samples.csv`, best first: SMILES, reward r and log P_theta.

    Where the environment builds molecules and RDKit is installed; else nothing.
    """
    dag = agent.dag
    if not (settings.samples and dag.offers("to_smiles") and chem.installed()):
        return
    generator = make_generator(dag.device, seed)
    batch = rollout(dag, agent.policy(), dag.reset(settings.samples), generator)
    states = batch.terminal_states
    rewards = reported_log_reward(dag, states, batch.log_reward).exp()
    log_p = log_likelihood(agent, states, settings.test_rollouts, generator)
    columns = (dag.to_smiles(states), rewards.tolist(), log_p.tolist())  # type: ignore[attr-defined]
    rows = sorted(zip(*columns, strict=True), key=lambda row: -row[1])
    lines = ["smiles,r,log_p", *(f"{smiles},{reward:.6f},{log:.4f}" for smiles, reward, log in rows)]
    write_atomically(folder / SAMPLES, ("\n".join(lines) + "\n").encode())


PANELS = (
    ("distance to the target", ("l1_empirical", "l1_exact", "kl_exact"), "log"),
    ("estimate of log Z, minus the true one", ("log_z_error",), "linear"),
    ("mean reward", ("mean_reward", "mean_reward_exact", "mean_reward_target"), "auto"),
    ("modes found", ("modes_found",), "linear"),
    ("correlation of log P and log R on the test set", ("pearson", "spearman"), "linear"),
    ("mean log of the reward", ("mean_log_reward", "top_log_reward"), "linear"),
    ("mean distance between the best 100", ("top_diversity",), "linear"),
    ("training loss", ("loss", "backward_loss"), "log"),
)
"""Title, metrics and scale of the learning curve's panels; "auto" is logarithmic where a linear one shows nothing."""
NAMES = {
    **{key: heading for key, (heading, _) in COLUMNS.items()},
    "mean_reward": "latest samples",
    "mean_reward_exact": "learned distribution",
    "mean_reward_target": "target",
    "mean_log_reward": "latest samples",
    "top_log_reward": "best 100 so far",
    "top_diversity": "best 100 so far",
}


def learning_curve(history: list[dict[str, float]]) -> Figure:
    """Draw the metrics over the trajectories, one panel a kind."""
    panels, separated = [], separated_modes(history[-1] if history else ())
    names = NAMES | separated
    for title, keys, scale in (*PANELS, ("separated modes found", tuple(separated), "linear")):
        # A logarithmic scale has no place for what is never positive, such as the loss of a P_B that does not learn.
        shown = [key for key in keys if any(scale != "log" or value > 0 for value in _finite(history, key))]
        if shown:
            panels.append((title, shown, _scale(scale, [value for key in shown for value in _finite(history, key)])))
    figure = Figure(figsize=(11, 3.6 * max(1, (len(panels) + 1) // 2)), layout="constrained")
    if not panels:
        figure.suptitle("no evaluation yet")
        return figure
    grid = figure.subplots((len(panels) + 1) // 2, 2, squeeze=False).flat
    for (title, keys, scale), axes in zip(panels, grid, strict=False):
        for key in keys:
            rows = [metrics for metrics in history if key in metrics]
            style = {"marker": "." if len(rows) < 30 else "", "linestyle": "--" if key.endswith("_target") else "-"}
            axes.plot([m["trajectories"] for m in rows], [m[key] for m in rows], label=names[key], **style)
        axes.set_yscale(scale)
        if keys == ["log_z_error"]:
            axes.axhline(0, color="gray", linewidth=1, linestyle="--")
        if title.endswith("modes found"):
            axes.yaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.set_title(title)
        axes.set_xlabel("trajectories")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.grid(alpha=0.3)
        if len(keys) > 1:
            axes.legend(fontsize=9)
    for axes in grid:  # what is left of the last row
        axes.set_axis_off()
    return figure


def _finite(history: list[dict[str, float]], key: str) -> list[float]:
    return [metrics[key] for metrics in history if math.isfinite(metrics.get(key, math.nan))]


def _scale(scale: str, values: list[float]) -> str:
    """Return the scale; for "auto", logarithmic where `values` are positive and span over two decades."""
    automatic = "log" if 0 < 100 * min(values) < max(values) else "linear"
    return {"auto": automatic}.get(scale, scale)


def distribution(enumeration: Enumeration, learned: Tensor, most: int = 3) -> Figure:
    """Draw the target's and the learned distribution's marginals over pairs of state components, as heat maps.

    The first `most` pairs of components that vary over the terminal states; with at most one such, a bar chart.
    """
    states = enumeration.states[enumeration.terminal].cpu()
    target, learned = enumeration.target.cpu(), learned.cpu()
    varying = [i for i in range(states.shape[1]) if int(states[:, i].min()) != int(states[:, i].max())]
    nvec = enumeration.dag.nvec
    if len(varying) < 2:
        i = varying[0] if varying else 0
        return _bars(i, *(_marginal(states[:, i], p, nvec[i]) for p in (target, learned)))
    pairs = list(itertools.combinations(varying, 2))[:most]
    figure = Figure(figsize=(11, 3.3 * len(pairs) + 0.4), layout="constrained")
    figure.suptitle("marginal probability of pairs of state components")
    for row, (i, j) in zip(figure.subplots(len(pairs), 3, squeeze=False), pairs, strict=True):
        index = states[:, i] * nvec[j] + states[:, j]
        maps = [_marginal(index, p, nvec[i] * nvec[j]).view(nvec[i], nvec[j]) for p in (target, learned)]
        maps.append(maps[1] - maps[0])
        top, spread = float(torch.stack(maps[:2]).max()), float(maps[2].abs().max()) or 1.0
        scales = [("viridis", 0.0, top), ("viridis", 0.0, top), ("coolwarm", -spread, spread)]
        titles = ("target", "learned", "learned minus target")
        for axes, heat, title, (cmap, low, high) in zip(row, maps, titles, scales, strict=True):
            image = axes.imshow(heat.T.numpy(), origin="lower", cmap=cmap, vmin=low, vmax=high, aspect="auto")
            figure.colorbar(image, ax=axes, format="%.3g", ticks=MaxNLocator(5))
            axes.set_title(title)
            axes.set_xlabel(f"component {i}")
            axes.set_ylabel(f"component {j}")
            axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(8, integer=True))
    return figure


def _bars(component: int, target: Tensor, learned: Tensor) -> Figure:
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for p, name, offset in ((target, "target", -0.2), (learned, "learned", 0.2)):
        axes.bar([value + offset for value in range(len(p))], p.numpy(), width=0.4, label=name)
    axes.set_xlabel(f"component {component}")
    axes.set_ylabel("probability")
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    axes.legend()
    return figure


def likelihood(test_set: dict[str, Tensor]) -> Figure:
    """Draw log R against the estimated log P_theta of the test set's objects."""
    log_reward, log_p = test_set["log_reward"], test_set["log_p"]
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    axes.scatter(log_reward.numpy(), log_p.numpy(), s=8, alpha=0.5)
    axes.set_xlabel("log R")
    axes.set_ylabel("log P, estimated by backward rollouts")
    correlation = f"Pearson {pearson(log_p, log_reward):.3f}, Spearman {spearman(log_p, log_reward):.3f}"
    axes.set_title(f"{len(log_p)} test objects: {correlation}", fontsize=10)
    axes.grid(alpha=0.3)
    return figure


def _marginal(index: Tensor, p: Tensor, size: int) -> Tensor:
    return torch.zeros(size, dtype=p.dtype).index_add_(0, index, p)


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
