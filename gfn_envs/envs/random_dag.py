"""A random pointed DAG with random rewards: many parents of each state, and no structure that makes a P_B natural.

Source: the pointed DAG of Bengio et al. 2023 (arXiv 2111.09266), section 2, drawn at random.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Generator, Tensor

from gfn_envs.dag import DAG
from gfn_envs.errors import integer_at_least
from gfn_envs.rewards import Asking, own_reward

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DIRICHLET = "dirichlet"
"""Name of the built-in reward."""

LEAST = 1e-6
"""The least reward, as a share of the mean."""

MOST_NODES = 100_000


class RandomDAG(DAG):
    """A node of a random graph of `layers` layers of `width` nodes, reached from node 0 along its edges.

    Each node has 1 to `most_parents` parents: one in the layer just before, and the others in the two layers before, as
    far as these have so many nodes. A node of any layer that happens to have no child is terminal. So paths differ in
    length, and nodes in how many paths lead to them.

    State: int64 `[B, 1]`, the number of the node; nodes are numbered layer by layer, after s0 = 0.
    Actions: `a` goes to the a-th child, in the order of their numbers. Backward actions: `b` goes to the b-th parent.
    Terminal states: nodes without children; there is no stop action.
    Reward: a draw from a symmetric Dirichlet distribution over the terminal nodes, times their number, at least 1e-6;
    or a reward of the user's own. `log_reward` is its natural log.
    Size: `1 + layers * width` states, 129 by default; longest trajectory `layers` steps.
    Source: Bengio et al. 2023 (arXiv 2111.09266), section 2.

    Args:
        layers: number of layers after s0, at least 1.
        width: nodes of a layer, at least 1.
        most_parents: most parents of a node, at least 1.
        concentration: of the Dirichlet distribution, positive: the smaller, the more the rewards differ.
        seed: of graph and rewards.
        reward: `"dirichlet"`, as above, a callable, or a callable named as `"module:function"`. A callable takes
            distinct terminal states, int64 `[n, 1]` on the DAG's device, and returns their rewards, `n` positive finite
            numbers. `gfn_envs.rewards` says how often it is asked.
        reward_workers, reward_timeout, reward_floor: as in `gfn_envs.rewards.Asking`.
        device: where its tensors live.
    """

    def __init__(
        self,
        layers: int = 8,
        width: int = 16,
        most_parents: int = 6,
        concentration: float = 0.5,
        seed: int = 0,
        reward: str | Callable[..., Any] = DIRICHLET,
        reward_workers: int = 0,
        reward_timeout: float | None = None,
        reward_floor: float | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(device)
        self.layers, self.width = integer_at_least("layers", layers, 1), integer_at_least("width", width, 1)
        if self.layers * self.width >= MOST_NODES:
            raise ValueError(f"layers * width must be less than {MOST_NODES:,}, got {layers!r} * {width!r}.")
        is_number = isinstance(concentration, int | float) and not isinstance(concentration, bool)
        if not (is_number and 0 < concentration < math.inf):
            raise ValueError(f"concentration must be a positive, finite number, got {concentration!r}.")
        most_parents = integer_at_least("most_parents", most_parents, 1)
        random = np.random.default_rng(integer_at_least("seed", seed, 0))
        asking = Asking(reward_workers, reward_timeout, reward_floor)
        self.own_reward = own_reward(self, reward, [DIRICHLET], asking=asking)
        parents = _random_parents(random, self.layers, self.width, most_parents)
        self.nvec, self.max_steps = (len(parents),), self.layers
        self._tabulate(parents)
        counts = [0.0]
        for each in parents[1:]:
            counts.append(float(np.logaddexp.reduce([counts[parent] for parent in each])))
        self._log_counts = torch.tensor(counts, dtype=torch.float32, device=self.device)
        self.ends = torch.from_numpy(np.setdiff1d(np.arange(len(parents)), np.concatenate(parents)))
        """The terminal nodes, increasing, on the CPU."""
        shares = random.dirichlet(np.full(len(self.ends), concentration))
        self._rewards = torch.from_numpy(np.maximum(shares * len(self.ends), LEAST))
        log_rewards = torch.zeros(len(parents), dtype=torch.float64)
        log_rewards[self.ends] = self._rewards.log()
        self._log_rewards = log_rewards.float().to(self.device)

    def _tabulate(self, parents: list[np.ndarray]) -> None:
        """Number the edges from either end, and note by node and number where each leads and its number from there."""
        nodes, degrees = np.arange(len(parents)), np.array([len(each) for each in parents])
        source, target = np.concatenate(parents), np.repeat(nodes, degrees)
        backward = np.arange(len(source)) - (np.cumsum(degrees) - degrees)[target]
        by_source, out = np.lexsort((target, source)), np.bincount(source, minlength=len(nodes))
        forward = np.empty_like(source)
        forward[by_source] = np.arange(len(source)) - (np.cumsum(out) - out)[source[by_source]]
        self.num_actions, self.num_backward_actions = int(out.max()), int(degrees.max())
        self._children = self._table(self.num_actions, source, forward, target)
        self._redo = self._table(self.num_backward_actions, target, backward, forward)
        self._parents = self._table(self.num_backward_actions, target, backward, source)
        self._undo = self._table(self.num_actions, source, forward, backward)
        self._out, self._in = (torch.from_numpy(each).to(self.device) for each in (out, degrees))
        self._edges = np.stack([source, target], 1)

    def _table(self, width: int, rows: np.ndarray, columns: np.ndarray, values: np.ndarray) -> Tensor:
        table = np.zeros((self.nvec[0], width), dtype=np.int64)
        table[rows, columns] = values
        return torch.from_numpy(table).to(self.device)

    def reset(self, n: int) -> Tensor:
        return torch.zeros(n, 1, dtype=torch.int64, device=self.device)

    def step(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        node = states[:, 0]
        return self._children[node, actions].unsqueeze(1), self._undo[node, actions]

    def backward_step(self, states: Tensor, backward_actions: Tensor) -> tuple[Tensor, Tensor]:
        node = states[:, 0]
        return self._parents[node, backward_actions].unsqueeze(1), self._redo[node, backward_actions]

    def action_mask(self, states: Tensor) -> Tensor:
        return torch.arange(self.num_actions, device=self.device) < self._out[states]

    def backward_action_mask(self, states: Tensor) -> Tensor:
        return torch.arange(self.num_backward_actions, device=self.device) < self._in[states]

    def log_reward(self, states: Tensor) -> Tensor:
        if self.own_reward is not None:
            return self.own_reward(states).log()
        return self._log_rewards[states[:, 0]]

    def log_num_trajectories(self, states: Tensor) -> Tensor:
        """Return log n(s) `[B]`, counted along the edges."""
        return self._log_counts[states[:, 0]]

    def log_partition(self) -> float | None:
        """Return log Z, the log of the sum over the terminal nodes; None for an own reward."""
        return None if self.own_reward else float(self._rewards.sum().log())

    def sample_target(self, n: int, generator: Generator) -> Tensor | None:
        """Return `n` terminal nodes drawn from R/Z by `generator`, int64 `[n, 1]`; None for an own reward."""
        if self.own_reward:
            return None
        uniform = torch.rand(n, dtype=torch.float64, generator=generator, device=self.device).cpu()
        cumulative = self._rewards.cumsum(0)
        places = torch.searchsorted(cumulative, uniform * cumulative[-1], right=True).clamp(max=len(self.ends) - 1)
        return self.ends[places].unsqueeze(1).to(self.device)

    def describe(self, states: Tensor) -> list[str]:
        return [f"node {node} (layer {-(-node // self.width)})" for node in states[:, 0].tolist()]

    def draw(self, path: Tensor, axes: Axes) -> None:
        """Draw the graph layer by layer, the path in red; a terminal node is the larger, the larger its reward."""
        nodes = np.arange(self.nvec[0])
        x, y = -(-nodes // self.width), np.where(nodes == 0, (self.width - 1) / 2, (nodes - 1) % self.width)
        axes.plot(x[self._edges.T], y[self._edges.T], color="lightgray", linewidth=0.4, zorder=0)
        sizes = np.full(len(nodes), 6.0)
        if self.own_reward is None:
            sizes[self.ends.numpy()] += 20 * self._rewards.numpy()
        axes.scatter(x, y, s=sizes, color="tab:blue")
        way = path[:, 0].cpu().numpy()
        axes.plot(x[way], y[way], color="tab:red", linewidth=1.5, marker="o", markersize=4)
        axes.set_xlabel("layer")
        axes.set_yticks([])


def _random_parents(random: np.random.Generator, layers: int, width: int, most: int) -> list[np.ndarray]:
    """Return the parents of each node, increasing, int64: none of node 0, and 1 to `most` of each other."""
    parents, before, last = [np.zeros(0, dtype=np.int64)], np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int64)
    for layer in range(layers):
        for _ in range(width):
            first = random.choice(last)
            others = np.setdiff1d(np.concatenate([before, last]), first)
            more = min(int(random.integers(most)), len(others))
            parents.append(np.sort(np.append(random.choice(others, more, replace=False), first)))
        before, last = last, 1 + layer * width + np.arange(width)
    return parents
