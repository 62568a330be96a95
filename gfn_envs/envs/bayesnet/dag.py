"""Bayesian networks: build the structure over d variables edge by edge, with its posterior probability as the reward.

Source: Deleu et al. 2022 (arXiv 2202.13903), sections 3 and 5; settings of Deleu et al. 2024 (arXiv 2402.10309).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor
from torch.nn import functional

from gfn_envs.dag import DAG
from gfn_envs.envs.bayesnet.data import GENERATED, SACHS, Data, Settings, generated, own, sachs
from gfn_envs.envs.bayesnet.posterior import MOST_NODES, Posterior
from gfn_envs.envs.bayesnet.scores import SCORES, best_total
from gfn_envs.errors import integer_at_least
from gfn_envs.rewards import Asking, own_reward
from gfn_envs.views import GraphView

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_VARIABLES = 20
"""All sets of parents are scored beforehand: 20 million numbers for 20 variables."""


class BayesNet(DAG):
    """The structure of a Bayesian network: a directed graph without cycles over `d` variables, from no edge on.

    State: int64 `[B, d^2 + 1]`: component `i d + j` is 1 where there is an edge i -> j; then the stopped flag (0 or 1).
    Actions: `i d + j` adds the edge i -> j, unless it is there or closes a cycle; `d^2` stops.
    Backward actions: `i d + j` takes the edge i -> j away; `d^2` undoes the stop, the only backward action of a stopped
    state.
    Terminal states: stopped; every graph without cycles can be terminal.
    Reward: `log R(G) = sum_j score(j, parents of j) - c`: the log marginal likelihood of the data, BGe or
    linear-Gaussian, with a uniform prior over graphs; or a reward of the user's own. The constant c, `log_constant`, is
    the score of the best graph, so that the highest log R is 0.
    Size: 25, 543, 29,281, 3,781,503 graphs for d = 3, 4, 5, 6, each in two states; longest trajectory
    `d (d - 1) / 2 + 1`.
    Source: Deleu et al. 2022 (arXiv 2202.13903).

    Up to 12 variables log Z, samples and the probabilities of edges are exact; see `posterior`.

    Args:
        variables: d, 2 to 20; None for 5 with generated data, and for as many as other data have.
        data: `"erdos_renyi"`, generated from a random network; `"sachs"`, 853 observations of 11 molecules in cells; or
            the user's own, an array `[N, d]`, a pandas table, or the name of a file `.csv` or `.npy`, used as they are.
        reward: `"bge"`, `"linear_gaussian"`, a callable, or a callable named as `"module:function"`. A callable takes
            distinct terminal states, int64 `[n, d^2 + 1]` on the DAG's device, and returns their rewards, `n` positive
            finite numbers. `gfn_envs.rewards` says how often it is asked, and `adjacency` turns states into matrices.
        edges_per_node: expected number of edges a variable in the network that generates data, 0 to `(d - 1) / 2`.
        samples: number of observations generated.
        data_seed: seed of the network and the observations generated.
        noise_variance: of the observations generated, and in the linear-Gaussian score.
        reward_workers, reward_timeout, reward_floor: as in `gfn_envs.rewards.Asking`.
        device: where its tensors live.
    """

    metrics = ("bayesnet",)

    def __init__(
        self,
        variables: int | None = None,
        data: Any = GENERATED,
        reward: str | Callable[..., Any] = "bge",
        edges_per_node: float = 1.0,
        samples: int = 100,
        data_seed: int = 0,
        noise_variance: float = 0.1,
        reward_workers: int = 0,
        reward_timeout: float | None = None,
        reward_floor: float | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(device)
        asking = Asking(reward_workers, reward_timeout, reward_floor)
        self.own_reward = own_reward(self, reward, SCORES, asking=asking)
        settings = Settings(edges_per_node, samples, data_seed, noise_variance)
        given = _loaded(variables, data, settings, read=("noise_variance",) if reward == "linear_gaussian" else ())
        self.values, self.names, graph = torch.from_numpy(given.values), given.names, given.graph
        self.true_graph = None if graph is None else torch.from_numpy(graph)
        """The network that generated the data, int64 `[d, d]` with 1 at `[i, j]` for i -> j; None where not known."""
        self.d = d = len(self.names)
        self.nvec = (2,) * (d * d + 1)
        self.num_actions = self.num_backward_actions = d * d + 1
        self.stop_action = d * d
        self.max_steps = d * (d - 1) // 2 + 1
        self._is_stop = torch.arange(d * d + 1, device=self.device) == d * d
        self._places = torch.arange(d, device=self.device)
        self._bits = 1 << self._places.int()
        self.log_constant = 0.0
        """What `log_reward` leaves out of the log marginal likelihood: that of the best graph."""
        if self.own_reward is None:
            scores = SCORES[str(reward)](self.values, noise_variance)
            self.log_constant, empty = best_total(scores), scores[:, :1]
            self._scores, self._of_empty = (scores - empty).to(self.device), float(empty.sum()) - self.log_constant

    def reset(self, n: int) -> Tensor:
        return torch.zeros(n, self.state_dim, dtype=torch.int64, device=self.device)

    def step(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        # An action is the index of the component that it sets, the stopped flag included, and so is its reverse.
        return states.scatter(1, actions.unsqueeze(1), 1), actions

    def backward_step(self, states: Tensor, backward_actions: Tensor) -> tuple[Tensor, Tensor]:
        return states.scatter(1, backward_actions.unsqueeze(1), 0), backward_actions

    def action_mask(self, states: Tensor) -> Tensor:
        edges = self.adjacency(states)
        free = (edges == 0) & ~self._paths_back(edges)
        return functional.pad(free.flatten(1), (0, 1), value=True) & (states[:, -1:] == 0)

    def _paths_back(self, edges: Tensor) -> Tensor:
        """Return bool `[B, d, d]`: whether i -> j closes a cycle, as j leads to i along `edges [B, d, d]`, or i = j.

        Warshall's closure in rows of bits: bit i of row j tells whether j leads to i. Via each node in turn, the rows
        that lead to it take in its own.
        """
        reach = (edges << self._places).sum(2, dtype=torch.int32) | self._bits
        for via in range(self.d):
            reach = reach | -(reach >> via & 1) & reach[:, via : via + 1]
        return (reach.unsqueeze(1) & self._bits.unsqueeze(1)) != 0

    def backward_action_mask(self, states: Tensor) -> Tensor:
        return (states > 0) & (self._is_stop | (states[:, -1:] == 0))

    def is_terminal(self, states: Tensor) -> Tensor:
        return states[:, -1] == 1

    def adjacency(self, states: Tensor) -> Tensor:
        """Return the edges of `states [B, d^2 + 1]`, int64 `[B, d, d]` with 1 at `[b, i, j]` for i -> j."""
        return states[:, :-1].unflatten(1, (self.d, self.d))

    def from_adjacency(self, edges: Tensor) -> Tensor:
        """Return the terminal states of graphs `edges [B, d, d]`; `ValueError` for a cycle and for what is no graph."""
        edges = torch.as_tensor(edges, device=self.device).long()
        if edges.shape[1:] != (self.d, self.d) or not bool(((edges == 0) | (edges == 1)).all()):
            raise ValueError(f"graphs must be [B, {self.d}, {self.d}] of 0 and 1, got shape {list(edges.shape)}.")
        cyclic = ((edges == 1) & self._paths_back(edges)).flatten(1).any(1)
        if cyclic.any():
            row = int(cyclic.nonzero()[0])
            raise ValueError(f"graph {row} has a cycle: {self._text(edges[row])}.")
        return torch.cat([edges.flatten(1), torch.ones_like(edges[:, :1, 0])], 1)

    def _gain(self, states: Tensor) -> Tensor:
        """Return the score of each graph less that of the empty one, float64 `[B]`."""
        parents = (self.adjacency(states) << self._places.unsqueeze(1)).sum(1)
        return self._scores.flatten()[(self._places << self.d) + parents].sum(1)

    def log_likelihood(self, states: Tensor) -> Tensor:
        """Return the log marginal likelihood of the data given each graph, float64 `[B]`; not for an own reward."""
        return self._gain(states) + (self._of_empty + self.log_constant)

    def log_reward(self, states: Tensor) -> Tensor:
        if self.own_reward is not None:
            return self.own_reward(states).log()
        return (self._gain(states) + self._of_empty).float()

    def log_potential(self, states: Tensor) -> Tensor:
        """Return log R of the graph less log R of the empty one, float32 `[B]`: what stopping here would pay."""
        if self.own_reward is not None:
            return self.log_reward(self._stopped(states)) - self.log_reward(self._stopped(self.reset(1)))
        return self._gain(states).float()

    def _stopped(self, states: Tensor) -> Tensor:
        return torch.cat([states[:, :-1], torch.ones_like(states[:, -1:])], 1)

    def log_num_trajectories(self, states: Tensor) -> Tensor:
        """Return log n(s) `[B]`: k edges come in any of k! orders, as no part of a graph without cycles has one."""
        return torch.lgamma(states[:, :-1].sum(1) + 1.0)

    @functools.cached_property
    def posterior(self) -> Posterior | None:
        """The exact distribution over graphs; None above 12 variables, and with a reward of the user's own."""
        return Posterior(self._scores) if self.own_reward is None and self.d <= MOST_NODES else None

    def log_partition(self) -> float | None:
        """Return log Z, exact; None where there is no `posterior`."""
        return self.posterior.log_z + self._of_empty if self.posterior else None

    def sample_target(self, n: int, generator: Generator) -> Tensor | None:
        """Return `n` stopped states drawn from the posterior by `generator`; None where there is no `posterior`."""
        if self.posterior is None:
            return None
        edges = self.posterior.sample(n, generator).flatten(1).to(self.device)
        return self._stopped(functional.pad(edges, (0, 1)))

    def graph_view(self) -> GraphView:
        """Return the variables as nodes, each with a feature of its own, and the edges as ordered pairs."""
        return GraphView(
            slots=self.d,
            node_values=(self.d + 1,),
            pair_values=2,
            whole_values=(2,),
            ordered=True,
            node_actions=0,
            pair_actions=1,
            backward_node_actions=0,
            backward_pair_actions=1,
        )

    def graph(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return nodes `[B, d, 1]`, pairs `[B, d, d]` and whole `[B, 1]`, as `GraphView` says."""
        nodes = (self._places + 1).view(1, -1, 1).repeat(len(states), 1, 1)
        return nodes, self.adjacency(states), states[:, -1:]

    def describe(self, states: Tensor) -> list[str]:
        texts = map(self._text, self.adjacency(states))
        return [text + " stopped" * flag for text, flag in zip(texts, states[:, -1].tolist(), strict=True)]

    def _text(self, edges: Tensor) -> str:
        names = [f"{self.names[i]}->{self.names[j]}" for i, j in edges.nonzero().tolist()]
        return " ".join(names) or "(no edge)"

    def draw(self, path: Tensor, axes: Axes) -> None:
        """Draw the network of the path's last state; against a true one, wrong edges are red and missing ones grey."""
        from gfn_envs.envs.bayesnet.drawing import draw_network

        edges = self.adjacency(path[-1:])[0].double().cpu()
        draw_network(axes, self.names, edges, self.true_graph)
        axes.set_title("stopped" if path[-1, -1] else "", fontsize=8)


def _loaded(variables: int | None, data: Any, settings: Settings, read: tuple[str, ...]) -> Data:
    """Return the data, generated by `settings`, named, or the user's own; `ValueError` for wrong or idle arguments.

    Args:
        read: settings that are read whatever the data.
    """
    settings.check()
    count = None if variables is None else integer_at_least("variables", variables, 2)
    if isinstance(data, str) and data == GENERATED:
        return generated(_checked(count or 5), settings)
    idle = [name for name, value in settings._asdict().items() if value != getattr(Settings(), name)]
    if idle := [name for name in idle if name not in read]:
        raise ValueError(f"{', '.join(idle)}: settings of data {GENERATED!r}, which nothing reads here.")
    found = sachs() if isinstance(data, str) and data == SACHS else own(data)
    d = _checked(len(found.names))
    if count not in (None, d):
        raise ValueError(f"variables is {count}, but the data have {d}: leave it out.")
    return found


def _checked(d: int) -> int:
    if not 2 <= d <= MOST_VARIABLES:
        raise ValueError(
            f"a network must have 2 to {MOST_VARIABLES} variables, got {d}: all sets of parents are scored beforehand."
        )
    return d
