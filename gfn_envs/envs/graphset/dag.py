"""GraphSet: an independent set, a clique or a dominating set of one graph, node by node.

Source: Zhang et al. 2023 (arXiv 2305.17010), the three problems as GFlowNets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from gfn_envs.dag import DAG
from gfn_envs.envs.graphset.graphs import given_graph, random_graph
from gfn_envs.envs.graphset.listing import LARGEST, maximal_independent_sets, minimal_dominating_sets
from gfn_envs.errors import choose
from gfn_envs.rewards import Asking, own_reward
from gfn_envs.views import TokenView

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = "size"
"""Name of the built-in reward."""

NODES = 16
"""Number of nodes of a random graph, unless given."""


class Problem(NamedTuple):
    """What a set of nodes has to be."""

    removes: bool
    """Whether the set loses nodes, from all of them on, and is to be small; otherwise it gains nodes."""
    complement: bool
    """Whether the set is an independent one of the complement of the graph."""
    listing: Callable[[np.ndarray], np.ndarray]
    """A small graph -> all terminal sets as integers."""


PROBLEMS = {
    "independent_set": Problem(False, False, maximal_independent_sets),
    "clique": Problem(False, True, maximal_independent_sets),
    "dominating_set": Problem(True, False, minimal_dominating_sets),
}


class GraphSet(DAG):
    """A set of nodes of one graph: an independent set, a clique, or a dominating set.

    Independent sets and cliques gain nodes from the empty set on, until no node fits any more. Dominating sets lose
    nodes, from the set of all nodes on, until every node left is needed.

    State: int64 `[B, N]`: 1 where the node is in the set, 0 elsewhere.
    Actions: `node` adds it to an independent set or clique, if the set remains one; `node` takes it out of a dominating
    set, if the set remains one: itself and its neighbours have to be in the set or next to another node in it.
    Backward actions: `node` undoes that.
    Terminal states: the maximal independent sets, the maximal cliques, or the minimal dominating sets: those without a
    legal action.
    Reward: `log R = beta size` of an independent set or clique, `log R = -beta size` of a dominating set, natural logs,
    or that of a reward of the user's own.
    Size: at most 2^N states; with the default graph 958 independent sets, 31 of them maximal. A trajectory has as many
    steps as nodes were added or taken out, and every order of them is one.
    Source: Zhang et al. 2023 (arXiv 2305.17010).

    Up to 24 nodes all terminal sets are listed: then log Z and exact samples are known, and the largest (of dominating
    sets the smallest) ones are the modes. With a reward of the user's own they are not.

    Args:
        problem: `"independent_set"`, `"clique"` or `"dominating_set"`.
        graph: `"erdos_renyi"` or `"barabasi_albert"` for a random one, a list of pairs of node numbers from 0 on (as
            JSON can hold it), or a networkx graph, whose nodes keep their order and names.
        nodes: number of nodes; None for 16, or for those that a given graph has edges for.
        degree: mean degree of a random graph.
        seed: of a random graph.
        beta: reward for a node, positive; of the built-in reward.
        reward: `"size"`, a callable, or a callable named as `"module:function"`. A callable takes distinct terminal
            states, int64 `[n, N]` on the DAG's device, and returns their rewards, `n` positive finite numbers.
            `gfn_envs.rewards` says how often it is asked.
        reward_workers, reward_timeout, reward_floor: as in `gfn_envs.rewards.Asking`.
        device: where its tensors live.
    """

    def __init__(
        self,
        problem: str = "independent_set",
        graph: str | Sequence[Sequence[int]] | Any = "erdos_renyi",
        nodes: int | None = None,
        degree: float = 4.0,
        seed: int = 0,
        beta: float = 1.0,
        reward: str | Callable[..., Any] = SIZE,
        reward_workers: int = 0,
        reward_timeout: float | None = None,
        reward_floor: float | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(device)
        self.problem = choose("problem", problem, PROBLEMS)
        if isinstance(graph, str):
            found = random_graph(graph, NODES if nodes is None else nodes, degree, seed)
        else:
            found = given_graph(graph, nodes)
        self.adjacent, self.names = found
        count = len(self.names)
        if self.problem.removes and not self.adjacent.any():
            raise ValueError("a dominating set of a graph without edges is the set of all nodes: no step is possible.")
        if isinstance(beta, bool) or not (isinstance(beta, int | float) and 0 < beta < math.inf):
            raise ValueError(f"beta must be a positive, finite number, got {beta!r}.")
        self.beta = float(beta)
        asking = Asking(reward_workers, reward_timeout, reward_floor)
        self.own_reward = own_reward(self, reward, [SIZE], asking=asking)
        if self.own_reward is not None and beta != 1:
            raise ValueError(
                f"beta belongs to the reward {SIZE}: it cannot be given together with a reward of your own, "
                f"{self.own_reward.name}."
            )
        self.nvec = (2,) * count
        self.num_actions = self.num_backward_actions = self.max_steps = count
        self._start = int(self.problem.removes)
        itself = np.eye(count, dtype=bool)
        related = ~(self.adjacent | itself) if self.problem.complement else self.adjacent
        self._related = torch.from_numpy(related | itself).float().to(self.device)
        self._bits = 1 << torch.arange(min(count, LARGEST), device=self.device)
        self._log_z: float | None = None
        if self.own_reward is None and count <= LARGEST:
            self._list(related)

    def _list(self, related: np.ndarray) -> None:
        """List the terminal sets, of which log Z, samples and modes follow."""
        sets = torch.from_numpy(self.problem.listing(related))
        sizes = (sets.unsqueeze(1) >> torch.arange(len(related)) & 1).sum(1)
        log_rewards = sizes.double() * (-self.beta if self.problem.removes else self.beta)
        self._log_z = float(log_rewards.logsumexp(0))
        self._target = (log_rewards - self._log_z).exp().to(self.device)
        self._best = sets[log_rewards == log_rewards.max()].to(self.device)
        self._sets = sets.to(self.device)
        self.metrics, self.num_modes = ("modes",), len(self._best)

    def reset(self, n: int) -> Tensor:
        return torch.full((n, self.state_dim), self._start, dtype=torch.int64, device=self.device)

    def step(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        return states.scatter(1, actions.unsqueeze(1), 1 - self._start), actions

    def backward_step(self, states: Tensor, backward_actions: Tensor) -> tuple[Tensor, Tensor]:
        return states.scatter(1, backward_actions.unsqueeze(1), self._start), backward_actions

    def action_mask(self, states: Tensor) -> Tensor:
        # How many nodes of the set are related to each node: neighbours (in the complement, for cliques) and itself.
        reached = states.float() @ self._related
        if not self.problem.removes:
            return reached == 0
        needed = (reached == 1).float() @ self._related > 0
        return (states == 1) & ~needed

    def backward_action_mask(self, states: Tensor) -> Tensor:
        return states != self._start

    def log_reward(self, states: Tensor) -> Tensor:
        if self.own_reward is not None:
            return self.own_reward(states).log()
        return states.sum(1).float() * (-self.beta if self.problem.removes else self.beta)

    def log_potential(self, states: Tensor) -> Tensor:
        """Return beta times the number of nodes added or taken out so far, float32 `[B]`; 0 for an own reward."""
        steps = (states != self._start).sum(1).float()
        return steps * self.beta if self.own_reward is None else torch.zeros_like(steps)

    def log_num_trajectories(self, states: Tensor) -> Tensor:
        """Return the log of k!, k the number of steps: they may come in any order."""
        return torch.lgamma((states != self._start).sum(1) + 1.0)

    def log_partition(self) -> float | None:
        """Return log Z by listing; None above 24 nodes, and for a reward of the user's own."""
        return self._log_z

    def sample_target(self, n: int, generator: Generator) -> Tensor | None:
        """Return `n` terminal sets drawn from R/Z, int64 `[n, N]`; None where `log_partition` is."""
        if self._log_z is None:
            return None
        rows = torch.multinomial(self._target, n, replacement=True, generator=generator)
        return (self._sets[rows].unsqueeze(1) & self._bits > 0).long()

    def modes_hit(self, states: Tensor) -> Tensor:
        """Return bool `[B, num_modes]`: which of the best sets each of terminal `states [B, N]` is."""
        if not self.num_modes:
            return torch.zeros(len(states), 0, dtype=torch.bool, device=states.device)
        return (states * self._bits).sum(1, keepdim=True) == self._best

    def token_view(self) -> TokenView:
        """Return the nodes as tokens."""
        return TokenView(self.state_dim, 2, 1, places=True)

    def members(self, states: Tensor) -> list[list[Any]]:
        """Return the names of the nodes in each of the sets `states [B, N]`."""
        return [[name for name, x in zip(self.names, row, strict=True) if x] for row in states.tolist()]

    def describe(self, states: Tensor) -> list[str]:
        return ["{" + ", ".join(map(str, names)) + "}" for names in self.members(states)]

    def draw(self, path: Tensor, axes: Axes) -> None:
        """Draw the graph on a circle: the set's nodes red, the others grey, with a black rim where a step is legal."""
        angles = 2 * np.pi * np.arange(self.state_dim) / self.state_dim
        x, y = np.sin(angles), np.cos(angles)
        for one, other in zip(*np.nonzero(np.triu(self.adjacent)), strict=True):
            axes.plot(x[[one, other]], y[[one, other]], color="0.8", linewidth=1, zorder=1)
        inside, open_ = path[-1].cpu() == 1, self.action_mask(path[-1:])[0].cpu()
        for chosen, colour, edge in ((inside, "tab:red", "none"), (~inside, "0.85", "none"), (open_, "none", "black")):
            rows = np.flatnonzero(chosen.numpy())
            axes.scatter(x[rows], y[rows], s=160, c=colour, edgecolors=edge, zorder=2)
        for i, name in enumerate(self.names):
            axes.text(x[i], y[i], str(name), ha="center", va="center", fontsize=7, zorder=3)
        axes.set_title(f"{int(inside.sum())} nodes", fontsize=8)
        axes.set_aspect("equal")
        axes.set_axis_off()
