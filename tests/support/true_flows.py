"""The balanced flow of a small DAG for a random P_B, as edge tables, as a network, and by plain Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from heads import HEADS
from torch import Tensor, nn
from toy_dags import Skips, Subsets

from agents.networks.base import Network
from agents.sampling.rollout import Trajectories, rollout
from gfn_envs import DAG, Enumeration, Hypergrid, enumerate_dag
from gfn_envs.exact import masked_log_softmax

SMALL = {
    "line": lambda: Hypergrid(dim=1, side=2),
    "grid": lambda: Hypergrid(dim=2, side=5),
    "cube": lambda: Hypergrid(dim=3, side=3, reward="hard"),
    "subsets": lambda: Subsets(n=5, k=3),
    "skips": lambda: Skips(n=6),
}
"""Small lawful DAGs: several parents of a terminal state (subsets), paths of different lengths to one state (skips)."""


def brute_force(dag: DAG) -> tuple[dict[tuple, int], set[tuple]]:
    """Return every state with the length of its longest path from s0, and every edge, found one state at a time."""
    s0 = tuple(dag.reset(1)[0].tolist())
    longest, edges, todo = {s0: 0}, set(), [s0]
    while todo:
        state = todo.pop()
        row = torch.tensor([state])
        for action in dag.action_mask(row)[0].nonzero().flatten().tolist():
            child, reverse = dag.step(row, torch.tensor([action]))
            child = tuple(child[0].tolist())
            edges.add((state, action, child, int(reverse)))
            if longest.get(child, -1) < longest[state] + 1:
                longest[child] = longest[state] + 1
                todo.append(child)
    return longest, edges


class Table(nn.Module):
    """A policy or function with one free row a state: `states [B, d] -> values [B, n]`."""

    def __init__(self, enumeration: Enumeration, values: Tensor) -> None:
        super().__init__()
        self.enumeration, self.values = enumeration, nn.Parameter(values)

    def forward(self, states: Tensor) -> Tensor:
        return self.values[self.enumeration.index(states)]


class TabularNetwork(Network):
    """A network whose heads are tables by name, float64."""

    def __init__(self, enumeration: Enumeration, tables: dict[str, Tensor]) -> None:
        values = iter(tables.values())
        heads = {name: HEADS[name] for name in tables}
        super().__init__(heads, nn.Identity, lambda kind: Table(enumeration, next(values)))

    def table(self, name: str) -> Tensor:
        """Return the values of a head, one row a state."""
        return self.head(name).get_parameter("values")


@dataclass(frozen=True)
class Flow:
    """The true flows of a DAG for a random P_B: tables `[S, ...]` and edge log-probabilities `[E]`, float64."""

    enumeration: Enumeration
    backward_logits: Tensor
    log_pb: Tensor
    log_flow: Tensor
    log_pf: Tensor
    forward_logits: Tensor

    @classmethod
    def of(cls, dag: DAG, seed: int = 0) -> Flow:
        """Solve `dag` for a P_B drawn with `seed`."""
        enumeration = enumerate_dag(dag)
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randn(enumeration.num_states, dag.num_backward_actions, generator=generator, dtype=torch.float64)
        table = masked_log_softmax(logits, dag.backward_action_mask(enumeration.states))
        log_pb = table[enumeration.children, enumeration.backward_actions]
        log_flow = enumeration.log_flows(log_pb)
        log_pf = enumeration.forward_from_flows(log_flow, log_pb)
        forward = torch.zeros(enumeration.num_states, dag.num_actions, dtype=torch.float64)
        forward[enumeration.parents, enumeration.actions] = log_pf
        return cls(enumeration, logits, log_pb, log_flow, log_pf, forward)

    def network(self, temperature: float | None = None) -> TabularNetwork:
        """Return the network that says exactly this; with a temperature, its P_F head holds V + temperature log P_F."""
        forward = self.forward_logits
        if temperature is not None:
            forward = self.log_flow[:, None] + temperature * forward
        tables = {
            "forward": forward.clone(),
            "backward": self.backward_logits.clone(),
            "flow": self.log_flow[:, None].clone(),
            "count": torch.zeros(self.enumeration.num_states, 1, dtype=torch.float64),
        }
        return TabularNetwork(self.enumeration, tables)

    def policy(self, states: Tensor) -> Tensor:
        """Return log P_F, zeros at illegal actions."""
        return self.forward_logits[self.enumeration.index(states)]

    def edges(self, trajectories: Trajectories) -> Tensor:
        """Return the index `[B, T]` of each step's edge, 0 in the padding."""
        e = self.enumeration
        number = torch.full((e.num_states, e.dag.num_actions), -1)
        number[e.parents, e.actions] = torch.arange(len(e.parents))
        at = torch.stack([e.index(states) for states in trajectories.states.unbind(1)], 1)
        found = number[at[:, :-1], trajectories.actions]
        assert bool((found >= 0)[trajectories.mask].all())
        return torch.where(trajectories.mask, found, 0)

    def along(self, trajectories: Trajectories) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return `log_flow [B, T + 1]`, `log_pf`, `log_pb` and `mask [B, T]`, as the losses take them."""
        at = torch.stack([self.enumeration.index(states) for states in trajectories.states.unbind(1)], 1)
        edges = self.edges(trajectories)
        return self.log_flow[at], self.log_pf[edges], self.log_pb[edges], trajectories.mask


def uniform_policy(dag: DAG) -> Callable[[Tensor], Tensor]:
    """Return the policy of equal logits."""
    return lambda states: torch.zeros(len(states), dag.num_actions)


def sample(dag: DAG, n: int, seed: int = 0) -> Trajectories:
    """Return `n` trajectories of the uniform policy."""
    return rollout(dag, uniform_policy(dag), dag.reset(n), torch.Generator().manual_seed(seed))
