"""Exact evaluation by enumeration: every state and edge of a small DAG, and probability pushed through it.

Source: flows and the terminating distribution as in Bengio et al. 2023 (arXiv 2111.09266), section 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gfn_envs.dag import DAG, log_rewards_or_error

Logits = Callable[[Tensor], Tensor]
"""States `[B, d]` -> unnormalised log-probabilities `[B, num_actions]`; illegal actions may have any value."""


_CELLS = 2**24
"""Entries of masks that are made at a time."""


class TooLargeError(ValueError):
    """The DAG has more edges than the limit given to `enumerate_dag`."""


def masked_log_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Return log-probabilities over the legal entries of the last axis; a very negative finite number elsewhere.

    Finite, so that rows without a legal action (finished ones that are carried along) give no NaN and no NaN gradient.
    """
    return logits.masked_fill(~mask, torch.finfo(logits.dtype).min).log_softmax(-1)


class StateKeys:
    """Maps states to int64 keys: mixed radix where it fits, a fixed linear hash otherwise."""

    def __init__(self, dag: DAG) -> None:
        if math.prod(dag.nvec) < 2**62:
            radix = [math.prod(dag.nvec[i + 1 :]) for i in range(dag.state_dim)]
        else:
            generator = torch.Generator().manual_seed(0x5EED)
            radix = (torch.randint(-(2**62), 2**62, (dag.state_dim,), generator=generator) * 2 + 1).tolist()
        self._radix = torch.tensor(radix, dtype=torch.int64, device=dag.device)

    def __call__(self, states: Tensor) -> Tensor:
        return (states * self._radix).sum(-1)


@dataclass(frozen=True)
class Enumeration:
    """All states and edges of a DAG in topological order.

    There are `S` states, `E` edges and `X` terminal states. States are sorted by level, which is the length of the
    longest path from s0, and edges by their parent. The edges that leave one level are therefore one slice, and they
    lead to later levels only.

    Where slots are renamed, a state stands for all states that `canonical` maps to it. It has an edge for every action,
    even where several actions lead to the same class. Policies must treat the slots alike. Flows are counted by slot,
    as balance losses count them: F(x) = exp(log_reward(x)), and the target is exp(log_reward - log_symmetry).
    """

    dag: DAG
    states: Tensor
    """int64 `[S, d]`; row 0 is s0. Canonical ones where slots are renamed."""
    parents: Tensor
    """int64 `[E]`, index of the edge's source."""
    actions: Tensor
    """int64 `[E]`, forward action of the edge."""
    children: Tensor
    """int64 `[E]`, index of the edge's end."""
    backward_actions: Tensor
    """int64 `[E]`, backward action of the edge, at the state as `step` leaves it."""
    level_ends: tuple[int, ...]
    """Edges `level_ends[l - 1]: level_ends[l]` leave the states of level `l`."""
    terminal: Tensor
    """int64 `[X]`, indices of the terminal states, increasing."""
    log_reward: Tensor
    """float64 `[X]`, the DAG's `log_reward` of the terminal states."""
    log_raw_reward: Tensor
    """float64 `[X]`, the log of the raw reward of the terminal states, see `gfn_envs.dag.LogRewards`."""
    log_symmetry: Tensor
    """float64 `[X]`, the DAG's `log_symmetry` of the terminal states, 0 where slots are not renamed."""
    sorted_keys: Tensor
    key_order: Tensor
    keys: StateKeys

    @property
    def num_states(self) -> int:
        """S."""
        return len(self.states)

    @cached_property
    def log_z(self) -> float:
        """log of the flow through s0, the sum of `exp(log_reward - log_symmetry)`."""
        return float((self.log_reward - self.log_symmetry).logsumexp(0))

    @cached_property
    def target(self) -> Tensor:
        """R/Z over the terminal states, float64 `[X]`."""
        return (self.log_reward - self.log_symmetry - self.log_z).exp()

    @cached_property
    def terminal_rank(self) -> Tensor:
        """int64 `[S]`: position of a state among the terminal ones, -1 for the others."""
        rank = torch.full((self.num_states,), -1, dtype=torch.int64, device=self.states.device)
        rank[self.terminal] = torch.arange(len(self.terminal), device=self.states.device)
        return rank

    def index(self, states: Tensor) -> Tensor:
        """Return the indices `[B]` of `states [B, d]`; `ValueError` for a state that is not in the DAG."""
        states = self.dag.canonical(states)
        index = self.key_order[torch.searchsorted(self.sorted_keys, self.keys(states)).clamp(max=self.num_states - 1)]
        if not torch.equal(self.states[index], states):
            wrong = int((self.states[index] != states).any(1).nonzero()[0])
            raise ValueError(f"state {states[wrong].tolist()} cannot be reached from s0")
        return index

    @torch.no_grad()
    def edge_log_probs(self, policy: Logits, backward: bool = False, chunk: int = 16_384) -> Tensor:
        """Return the log-probability of every edge, float64 `[E]`: log P_F of `policy`, or log P_B if `backward`."""
        ends, actions = (self.children, self.backward_actions) if backward else (self.parents, self.actions)
        mask_of = self.dag.backward_action_mask if backward else self.dag.action_mask
        if backward and self.dag.renames_slots:
            # The backward action is one of the state that the step leaves, whose slots are not the canonical ones.
            parts = zip(self.states[self.parents].split(chunk), self.actions.split(chunk), strict=True)
            reached = [self.dag.step(*part)[0] for part in parts]
            log_probs = torch.cat([masked_log_softmax(policy(part).double(), mask_of(part)) for part in reached])
            return log_probs.gather(1, actions.unsqueeze(1)).squeeze(1)
        rows = torch.ones(self.num_states, dtype=torch.bool, device=self.states.device)
        rows[0 if backward else self.terminal] = False
        where = torch.cumsum(rows, 0) - 1
        log_probs = torch.cat(
            [masked_log_softmax(policy(part).double(), mask_of(part)) for part in self.states[rows].split(chunk)]
        )
        return log_probs[where[ends], actions]

    def uniform_backward(self) -> Tensor:
        """Return log P_B = -log(number of parents) of every edge, float64 `[E]`."""
        return -self.dag.backward_action_mask(self.states).sum(1).double().log()[self.children]

    def state_probabilities(self, edge_log_probs: Tensor) -> Tensor:
        """Return the probability that a trajectory passes through each state, float64 `[S]`, given log P_F `[E]`."""
        edge_probs = edge_log_probs.exp()
        mass = torch.zeros(self.num_states, dtype=torch.float64, device=self.states.device)
        mass[0] = 1
        for start, end in self._levels():
            mass.index_add_(0, self.children[start:end], mass[self.parents[start:end]] * edge_probs[start:end])
        return mass

    def terminal_distribution(self, policy: Logits) -> Tensor:
        """Return the exact probability of ending in each terminal state, float64 `[X]`.

        Raises `ArithmeticError` if the probabilities do not sum to 1 within 1e-6: then the masks, the steps or the
        policy are at fault, and no metric computed from them would mean anything.
        """
        distribution = self.state_probabilities(self.edge_log_probs(policy))[self.terminal]
        total = float(distribution.sum())
        if not abs(total - 1) < 1e-6:
            raise ArithmeticError(
                f"the terminal distribution sums to {total}, not 1: the policy gives NaN, or the DAG breaks its law "
                "(gfn_envs.check_dag finds the clause)"
            )
        return distribution

    def log_flows(self, backward_log_probs: Tensor) -> Tensor:
        """Return the true flows log F(s), float64 `[S]`, for log P_B `[E]`: F(s) = sum F(s') P_B(s|s')."""
        log_flow = torch.full((self.num_states,), -math.inf, dtype=torch.float64, device=self.states.device)
        log_flow[self.terminal] = self.log_reward
        for start, end in reversed(list(self._levels())):
            parents = self.parents[start:end]
            arriving = log_flow[self.children[start:end]] + backward_log_probs[start:end]
            first, last = int(parents[0]), int(parents[-1])
            top = torch.full((last - first + 1,), -math.inf, dtype=torch.float64, device=self.states.device)
            top.scatter_reduce_(0, parents - first, arriving, "amax")
            total = torch.zeros_like(top).index_add_(0, parents - first, (arriving - top[parents - first]).exp())
            here = total > 0
            log_flow[first : last + 1][here] = (top + total.log())[here]
        return log_flow

    def forward_from_flows(self, log_flow: Tensor, backward_log_probs: Tensor) -> Tensor:
        """Return log P_F `[E]` of the flow: log F(s') + log P_B(s|s') - log F(s)."""
        return log_flow[self.children] + backward_log_probs - log_flow[self.parents]

    def _levels(self) -> list[tuple[int, int]]:
        bounds = zip((0, *self.level_ends[:-1]), self.level_ends, strict=True)
        return [(start, end) for start, end in bounds if start < end]


def first_of(keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the distinct ones of int64 `keys [B]`, the place of each key among them, and where each first occurs."""
    distinct, inverse = torch.unique(keys, return_inverse=True)
    places = torch.arange(len(keys), device=keys.device)
    return distinct, inverse, torch.full_like(distinct, len(keys)).scatter_reduce_(0, inverse, places, "amin")


RENAMING = 100
"""Where slots are renamed, an edge takes about this many times as long, because its end needs a canonical form."""


def enumerate_dag(dag: DAG, max_edges: int = 5_000_000) -> Enumeration:
    """Enumerate every state and edge of `dag` by `step` and the masks alone, up to the renaming of slots if it has one.

    Raises `TooLargeError` as soon as more than `max_edges` edges are certain, before they are stored. Where slots are
    renamed, an edge counts `RENAMING` times.
    """
    if dag.renames_slots:
        max_edges //= RENAMING
    keys = StateKeys(dag)
    frontier, seen = dag.reset(1), torch.empty(0, dtype=torch.int64, device=dag.device)
    found, depths, edges, num_edges, depth = [], [], [], 0, 0
    while len(frontier):
        found.append(frontier)
        frontier_keys = keys(frontier)
        depths.append(torch.full_like(frontier_keys, depth))
        seen = torch.cat([seen, frontier_keys]).sort().values
        rows, actions = _legal(dag, frontier, num_edges, max_edges)
        num_edges += len(rows)
        next_states, backward_actions = dag.step(frontier[rows], actions)
        if dag.renames_slots:
            _, inverse, first = first_of(keys(next_states))  # a canonical form takes long, so once for equal states
            next_states = dag.canonical(next_states[first])[inverse]
        child_keys = keys(next_states)
        edges.append((frontier_keys[rows], actions, child_keys, backward_actions))
        unique, inverse, first = first_of(child_keys)
        if not torch.equal(next_states[first][inverse], next_states):
            raise ArithmeticError("two states share a key; states outside nvec, or a hash collision")
        where = torch.searchsorted(seen, unique).clamp(max=len(seen) - 1)
        frontier = next_states[first[seen[where] != unique]]
        depth += 1
    return _arrange(
        dag, keys, torch.cat(found), torch.cat(depths), [torch.cat(part) for part in zip(*edges, strict=True)]
    )


def _legal(dag: DAG, states: Tensor, before: int, most: int) -> tuple[Tensor, Tensor]:
    """Return the row in `states [B, d]` and the action of each edge from them.

    Raises `TooLargeError` if these and the `before` found earlier are more than `most`.

    The masks are made some rows at a time, as the mask of a whole layer may not fit into memory.
    """
    found, start = [], 0
    for part in states.split(max(1, _CELLS // dag.num_actions)):
        rows, actions = dag.action_mask(part).nonzero(as_tuple=True)
        found.append((rows + start, actions))
        start, before = start + len(part), before + len(rows)
        if before > most:
            raise TooLargeError(f"more than {most:,} edges: too large to enumerate")
    rows, actions = (torch.cat(part) for part in zip(*found, strict=True))
    return rows, actions


def _arrange(dag: DAG, keys: StateKeys, states: Tensor, levels: Tensor, edges: list[Tensor]) -> Enumeration:
    """Sort states by level and edges by parent, and look up the terminal states."""
    sorted_keys, key_order = keys(states).sort()

    def look_up(wanted: Tensor) -> Tensor:
        return key_order[torch.searchsorted(sorted_keys, wanted)]

    parents, actions, children, backward_actions = look_up(edges[0]), edges[1], look_up(edges[2]), edges[3]
    # Breadth-first depth is the level wherever all paths to a state are equally long; elsewhere it grows to it.
    for _ in range(dag.max_steps + 2):
        longer = levels.scatter_reduce(0, children, levels[parents] + 1, "amax")
        if torch.equal(longer, levels):
            break
        levels = longer
    else:
        raise ArithmeticError(
            f"a path is longer than max_steps = {dag.max_steps}: the graph has a cycle, or max_steps is wrong"
        )
    order = levels.sort(stable=True).indices
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    states, levels, parents, children = states[order], levels[order], rank[parents], rank[children]
    by_parent = parents.sort(stable=True).indices
    parents, children = parents[by_parent], children[by_parent]
    ends = torch.bincount(levels[parents], minlength=1).cumsum(0) if len(parents) else torch.zeros(1, dtype=torch.int64)
    terminal = dag.is_terminal(states).nonzero().squeeze(1)
    rewards = log_rewards_or_error(dag, states[terminal])
    return Enumeration(
        dag=dag,
        states=states,
        parents=parents,
        actions=actions[by_parent],
        children=children,
        backward_actions=backward_actions[by_parent],
        level_ends=tuple(ends.tolist()),
        terminal=terminal,
        log_reward=rewards.log_reward.double(),
        log_raw_reward=rewards.log_raw_reward.double(),
        log_symmetry=dag.log_symmetry(states[terminal]).double(),
        sorted_keys=sorted_keys,
        key_order=rank[key_order],
        keys=keys,
    )
