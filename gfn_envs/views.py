"""How a state reads as tokens or as a graph: what networks need to know of an environment's layout."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenView:
    """How a state vector reads as a row of tokens, for networks over tokens; each component is a token."""

    length: int
    """Number of tokens, `state_dim`."""
    vocabulary: int
    """Number of values of a token."""
    values: int
    """A forward action is `place * values + value`; 0 where actions are not tied to a place."""
    places: bool
    """Whether a backward action is a place."""


@dataclass(frozen=True)
class GraphView:
    """How a state reads as a graph of up to `slots` nodes, for networks over graphs, and where its actions lie on it.

    `dag.graph(states)` returns the graph as three int64 tensors. `nodes [B, slots, K]` holds the features of the nodes:
    feature 0 is 0 exactly in empty slots, and filled slots come first. `pairs [B, slots, slots]` is 0 where nothing
    joins two nodes. `whole [B, G]` holds the features of the graph as a whole.

    Forward actions are numbered in three blocks: `slot * node_actions + a` for the slots, then
    `slots * node_actions + pair * pair_actions + a` for the pairs, and last the stop action. Backward actions follow
    the same order, with the numbers `backward_...`; the last one undoes the stop. Where `ordered`, pair `(i, j)` has
    the index `i * slots + j`. Otherwise `pairs` is symmetric, and the pairs `i < j` are counted row by row, as
    `torch.triu_indices(slots, slots, 1)` does. A forward action of a slot adds a node that is joined to this slot; in
    the empty graph the actions of slot 0 add the first node.
    """

    slots: int
    """Number of node slots."""
    node_values: tuple[int, ...]
    """Number of values of each of the K node features."""
    pair_values: int
    """Number of values of a pair."""
    whole_values: tuple[int, ...]
    """Number of values of each of the G features of the whole graph."""
    ordered: bool
    """Whether pair (i, j) differs from (j, i)."""
    node_actions: int
    """Forward actions of a slot."""
    pair_actions: int
    """Forward actions of a pair."""
    backward_node_actions: int
    """Backward actions of a slot."""
    backward_pair_actions: int
    """Backward actions of a pair."""
