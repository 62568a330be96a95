"""Metrics of a run: exact ones where the DAG can be enumerated, and those of the samples seen in training."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from agents.agent import Agent
from agents.rollout import Trajectories
from gfn_envs import metrics
from gfn_envs.dag import DAG
from gfn_envs.exact import Enumeration, StateKeys, TooLargeError, enumerate_dag


class Evaluator:
    """Collects terminal states during training and measures an agent against the target.

    Args:
        max_edges: enumerate the DAG for the exact metrics unless it has more edges; 0 never does.
        window: number of latest samples in the empirical distribution.
    """

    def __init__(self, dag: DAG, max_edges: int, window: int) -> None:
        self.dag, self.window = dag, window
        self.enumeration = _enumerate(dag, max_edges)
        self.recent = metrics.RecentSamples(len(self.enumeration.terminal) if self.enumeration else 0, window)
        self.keys = StateKeys(dag)
        self.unique = torch.empty(0, dtype=torch.int64)
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self._sums = {"reward": 0.0, "length": 0.0, "count": 0}
        self.best_log_reward = -math.inf

    def add(self, trajectories: Trajectories) -> None:
        """Take note of a batch of training trajectories; nothing is read from the device yet."""
        self._pending.append((trajectories.terminal_states, trajectories.log_reward, trajectories.lengths))

    def flush(self) -> None:
        """Count what was added since the last time."""
        if not self._pending:
            return
        states, log_reward, lengths = (torch.cat(part) for part in zip(*self._pending, strict=True))
        self._pending.clear()
        self.unique = torch.unique(torch.cat([self.unique, self.keys(states).cpu()]))
        if self.enumeration:
            self.recent.add(self.enumeration.terminal_rank[self.enumeration.index(states)])
        self._sums["reward"] += float(log_reward.double().exp().sum())
        self._sums["length"] += float(lengths.sum())
        self._sums["count"] += len(states)
        self.best_log_reward = max(self.best_log_reward, float(log_reward.max()))

    def evaluate(self, agent: Agent) -> dict[str, float]:
        """Return all metrics by name; sample means are over the trajectories since the last call."""
        self.flush()
        count = max(self._sums["count"], 1)
        result: dict[str, float] = {
            "mean_reward": self._sums["reward"] / count,
            "mean_length": self._sums["length"] / count,
            "best_reward": float(torch.tensor(self.best_log_reward).exp()),
            "unique_states": len(self.unique),
            "log_z_estimate": float(agent.log_z()),
        }
        self._sums = {"reward": 0.0, "length": 0.0, "count": 0}
        if self.enumeration:
            result |= self._exact(self.enumeration, agent, result["log_z_estimate"])
        return result

    def _exact(self, enumeration: Enumeration, agent: Agent, log_z: float) -> dict[str, float]:
        target, reward = enumeration.target, enumeration.log_reward.exp()
        learned = enumeration.terminal_distribution(agent.policy())
        return {
            "l1_empirical": metrics.l1(self.recent.frequencies().to(target.device), target),
            "l1_exact": metrics.l1(learned, target),
            "total_variation_exact": metrics.total_variation(learned, target),
            "kl_exact": metrics.kl(learned, target),
            "jensen_shannon_exact": metrics.jensen_shannon(learned, target),
            "log_z_error": log_z - enumeration.log_z,
            "mean_reward_exact": float((learned * reward).sum()),
            "mean_reward_target": float((target * reward).sum()),
        }

    def state_dict(self) -> dict:
        """Return everything collected; what is not counted yet stays so, as sums depend on how they are split."""
        pending = [[torch.cat(part) for part in zip(*self._pending, strict=True)]] if self._pending else []
        return {
            "pending": pending,
            "recent": self.recent.state_dict(),
            "unique": self.unique,
            "sums": dict(self._sums),
            "best_log_reward": self.best_log_reward,
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        device = self.dag.device
        self._pending = [(x.to(device), y.to(device), z.to(device)) for x, y, z in state["pending"]]
        self.recent.load_state_dict(state["recent"])
        self.unique, self._sums = state["unique"], dict(state["sums"])
        self.best_log_reward = state["best_log_reward"]


def _enumerate(dag: DAG, max_edges: int) -> Enumeration | None:
    try:
        return enumerate_dag(dag, max_edges) if max_edges > 0 else None
    except TooLargeError:
        return None
