"""How far the learned distribution is from the target, where the DAG is small enough to enumerate."""

from __future__ import annotations

import itertools
import math

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from agents.evaluation.collectors import RecentSamples
from agents.evaluation.gflownet import GFlowNet
from agents.evaluation.metric import Column, Context, Drawer, Metric, Objects
from agents.evaluation.samples import REWARD
from gfn_envs import metrics
from gfn_envs.exact import Enumeration

DISTANCE = "distance to the target"
"""Title of a panel."""


class ExactMetrics(Metric):
    """Distances of the policy's exact distribution and of the latest samples to the target, and the error of log Z.

    It tells nothing where there is no enumeration.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.enumeration = context.enumeration
        num_terminal = len(self.enumeration.terminal) if self.enumeration else 0
        self.recent = RecentSamples(num_terminal, context.settings.window)

    def columns(self) -> dict[str, Column]:
        of_samples = (
            "sum |p - R/Z|, p the frequencies of the latest samples, those of the beginning and of exploration among "
            'them; finite samples alone make it as large as the row "exact samples" shows'
        )
        of_policy = (
            "half of sum |p - R/Z|, p what the policy of that moment ends in (0 is perfect, 1 the worst); of methods "
            "that act by values the greedy policy, of those without masks the policy given that the action is legal"
        )
        return {
            "l1_empirical": Column("L1 empirical", "{:.4f}", DISTANCE, scale="log", compared=200, meaning=of_samples),
            "l1_exact": Column("L1 exact", "{:.4f}", DISTANCE, scale="log"),
            "total_variation_exact": Column("TV exact", "{:.4f}", compared=100, meaning=of_policy),
            "kl_exact": Column("KL exact", "{:.4f}", DISTANCE, scale="log"),
            "jensen_shannon_exact": Column("JS exact", "{:.4f}", in_table=False),
            "log_z_error": Column("log Z error", "{:+.4f}", "estimate of log Z, minus the true one", reference=0.0),
            "mean_reward_exact": Column(
                "mean reward exact",
                panel=REWARD,
                label="learned distribution",
                scale="auto",
                in_table=False,
                compared=510,
                curve=False,
            ),
            "mean_reward_target": Column(
                "mean reward of the target", panel=REWARD, label="target", scale="auto", dashed=True, in_table=False
            ),
        }

    def add(self, objects: Objects) -> None:
        if self.enumeration:
            self.recent.add(self.enumeration.terminal_rank[self.enumeration.index(objects.states)])

    def compute(self, gflownet: GFlowNet | None, last: bool) -> dict[str, float]:
        if not self.enumeration:
            return {}
        target, reward = self.enumeration.target, self.enumeration.log_raw_reward.exp()
        result = {
            "l1_empirical": metrics.l1(self.recent.frequencies().to(target.device), target),
            "mean_reward_target": float((target * reward).sum()),
        }
        if gflownet is None:
            return result
        learned = self.enumeration.terminal_distribution(gflownet.policy())
        result |= {
            "l1_exact": metrics.l1(learned, target),
            "total_variation_exact": metrics.total_variation(learned, target),
            "kl_exact": metrics.kl(learned, target),
            "jensen_shannon_exact": metrics.jensen_shannon(learned, target),
            "mean_reward_exact": float((learned * reward).sum()),
        }
        error = float(gflownet.log_z()) - self.enumeration.log_z
        return result if math.isnan(error) else {**result, "log_z_error": error}

    def pictures(self, gflownet: GFlowNet | None) -> dict[str, Drawer]:
        enumeration = self.enumeration
        if not enumeration:
            return {}
        return {"distribution": lambda: distribution(enumeration, self.learned(gflownet))}

    def learned(self, gflownet: GFlowNet | None) -> Tensor:
        """Return the distribution `[X]` of the policy, or without one of the latest samples; X = 0 where unknown."""
        if self.enumeration and gflownet:
            return self.enumeration.terminal_distribution(gflownet.policy())
        return self.recent.frequencies()

    def state_dict(self) -> dict:
        return {"recent": self.recent.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.recent.load_state_dict(state["recent"])


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


def _marginal(index: Tensor, p: Tensor, size: int) -> Tensor:
    return torch.zeros(size, dtype=p.dtype).index_add_(0, index, p)
