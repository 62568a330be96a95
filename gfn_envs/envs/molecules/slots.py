"""Graphs of up to N nodes kept in slots: how a state holds one, and what each action changes, as tables.

A step is one look-up and one write, whatever the kind of its action; so is a step back.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gfn_envs.views import GraphView

JOINED = 1
"""The value of a pair of slots when a node is added to one and joined to the other."""

CPU = torch.device("cpu")


class StepTables(NamedTuple):
    """What a forward action does to a graph of `n` nodes, in row `n * num_actions + action`.

    `W` components are written: the new node and its pair, which are 2 components, or 3 where pairs are ordered. An
    action that has fewer to write writes one of them several times.
    """

    written: Tensor
    """int64 `[rows, W]`: the components that are written."""
    values: Tensor
    """int64 `[rows, W]`: their new values."""
    undo: Tensor
    """int64 `[rows]`: the backward action that undoes it."""


class BackwardTables(NamedTuple):
    """What backward action `b` does, in row `b`: components move, then one is written.

    Removing a node moves its slot to the end and clears it. Cleared components are copies of the stopped flag, which is
    0 wherever a node may be removed. The forward action that redoes the step is
    `redo + node_actions * neighbour + value`: `value` is that of the component that is undone, and `neighbour` is the
    number of the first component of `edges` that is not 0.
    """

    sources: Tensor
    """int64 `[A, d]`: where each component comes from."""
    written: Tensor
    """int64 `[A, 1]`: the component that is written after that."""
    values: Tensor
    """int64 `[A, 1]`: its new value."""
    edges: Tensor
    """int64 `[A, N]`: the pairs of the removed node with the slots as they are afterwards; else the stopped flag."""
    undone: Tensor
    """int64 `[A, 1]`: the component that is undone."""
    redo: Tensor
    """int64 `[A]`: the part of the redoing action's number that does not depend on the state."""


class SlotGraph:
    """The states and actions of a graph in slots that grows node by node, and whose pairs of nodes change in value.

    State: int64 `[B, N + P + 1]`: a value for each slot, 0 where it is empty; a value for each pair of slots, 0 where
    nothing joins them; then the stopped flag. Filled slots come first. Where pairs are unordered, these are the
    `P = N (N - 1) / 2` pairs `i < j`, row by row; where they are ordered, all `P = N N` pairs `(i, j)`, row by row.

    Actions: `node_actions * i + a` adds a node of value `1 + a` in the first empty slot, and sets its pair with slot
    `i` to `JOINED` in both orders (the first node: `i = 0`, no pair). `node_actions * N + pair_actions * pair + c`
    makes change `c` to a pair. The last action stops.
    Backward actions: `i` removes the node of slot `i`: its slot moves to the end, and the others keep their order.
    `N + backward_pair_actions * pair + v` gives a pair back its `v`-th earlier value. The last one undoes the stop.

    The masks are the environment's: it alone knows which of these actions are legal.

    Args:
        slots: N, the number of slots.
        node_actions: number of values of a node, the empty one not counted.
        pair_changes: the values of a pair before and after each change; those after it are consecutive numbers.
        ordered: whether pair (i, j) and pair (j, i) are two.
        device: where the tables lie.
    """

    def __init__(
        self,
        slots: int,
        node_actions: int,
        pair_changes: Sequence[tuple[int, int]],
        ordered: bool,
        device: str | torch.device = "cpu",
    ) -> None:
        self.slots, self.node_actions, self.pair_changes, self.ordered = slots, node_actions, pair_changes, ordered
        self.device = torch.device(device)
        self.num_pairs = slots**2 if ordered else slots * (slots - 1) // 2
        self.earlier = sorted({before for before, _ in pair_changes})
        """The values that a pair may have before a change."""
        self.pair_values = 1 + max(after for _, after in pair_changes)
        self.pair_actions, self.backward_pair_actions = len(pair_changes), len(self.earlier)
        self.nvec = (node_actions + 1,) * slots + (self.pair_values,) * self.num_pairs + (2,)
        self.stop_action = node_actions * slots + self.pair_actions * self.num_pairs
        self.num_actions = self.stop_action + 1
        self.num_backward_actions = slots + self.backward_pair_actions * self.num_pairs + 1
        self._steps = self._step_tables()
        self._backward_steps = self._backward_tables()

    def reset(self, n: int) -> Tensor:
        """Return `n` empty graphs, int64 `[n, d]`."""
        return torch.zeros(n, len(self.nvec), dtype=torch.int64, device=self.device)

    def step(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Follow `actions [B]`; return the next states `[B, d]` and the backward actions `[B]` that undo the step."""
        rows = (states[:, : self.slots] > 0).sum(1) * self.num_actions + actions
        tables = StepTables(*(table.index_select(0, rows) for table in self._steps))
        return states.scatter(1, tables.written, tables.values), tables.undo

    def backward_step(self, states: Tensor, backward_actions: Tensor) -> tuple[Tensor, Tensor]:
        """Undo one step; return the previous states `[B, d]` and the forward actions `[B]` that redo it."""
        tables = BackwardTables(*(table.index_select(0, backward_actions) for table in self._backward_steps))
        previous = states.gather(1, tables.sources).scatter(1, tables.written, tables.values)
        neighbour = (states.gather(1, tables.edges) > 0).int().argmax(1)
        redo = tables.redo + self.node_actions * neighbour + states.gather(1, tables.undone).squeeze(1)
        # The clamp is for illegal actions: an empty slot has no value to add again.
        return previous, redo.clamp(min=0)

    def parts(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return nodes int64 `[B, N]` and pairs int64 `[B, N, N]` of `states [B, d]`; unordered pairs both ways."""
        nodes, pairs = states[:, : self.slots], states[:, self.slots : -1]
        return nodes, pairs.unflatten(1, (self.slots, self.slots)) if self.ordered else squared(pairs, self.slots)

    def joined(self, nodes: Tensor, pairs: Tensor, stopped: Tensor) -> Tensor:
        """Return the states `[B, d]` of which `parts` gives this, with stopped flags `[B, 1]`."""
        if not self.ordered:
            first, second = pair_slots(self.slots, pairs.device)
            return torch.cat([nodes, pairs[:, first, second], stopped], 1)
        return torch.cat([nodes, pairs.flatten(1), stopped], 1)

    def view(self, node_values: tuple[int, ...], whole_values: tuple[int, ...]) -> GraphView:
        """Return how states read as graphs whose nodes and whole have features of so many values."""
        return GraphView(
            slots=self.slots,
            node_values=node_values,
            pair_values=self.pair_values,
            whole_values=whole_values,
            ordered=self.ordered,
            node_actions=self.node_actions,
            pair_actions=self.pair_actions,
            backward_node_actions=1,
            backward_pair_actions=self.backward_pair_actions,
        )

    def _pairs(self) -> tuple[list[tuple[int, int]], list[list[int]]]:
        """Return the slots of each pair, and the component of the state that holds pair (i, j), by i and j."""
        if self.ordered:
            ends = [(i, j) for i in range(self.slots) for j in range(self.slots)]
            indices = torch.arange(self.num_pairs).view(self.slots, self.slots)
        else:
            ends = [(int(i), int(j)) for i, j in pair_slots(self.slots, CPU).T.tolist()]
            indices = pair_indices(self.slots, CPU)
        return ends, (self.slots + indices).tolist()

    def _step_tables(self) -> StepTables:
        last = self.slots + self.num_pairs
        _, place = self._pairs()
        width = 3 if self.ordered else 2
        rows: list[tuple[list[tuple[int, int]], int]] = []  # components with their new values, and the undoing action
        for n in range(self.slots + 1):
            new = min(n, self.slots - 1)
            for i in range(self.slots):
                edge = [(place[i][new], JOINED), (place[new][i], JOINED)] if i != new else []
                for value in range(1, self.node_actions + 1):
                    rows.append(([(new, value), *edge], new))
            for pair in range(self.num_pairs):
                undo = self.slots + self.backward_pair_actions * pair
                for before, after in self.pair_changes:
                    rows.append(([(self.slots + pair, after)], undo + self.earlier.index(before)))
            rows.append(([(last, 1)], self.num_backward_actions - 1))
        writes = self._tensor([[*write, *[write[0]] * width][:width] for write, _ in rows])
        undo = self._tensor([undo for _, undo in rows])
        return StepTables(writes[..., 0].contiguous(), writes[..., 1].contiguous(), undo)

    def _backward_tables(self) -> BackwardTables:
        last = self.slots + self.num_pairs
        ends, place = self._pairs()
        same, nothing = list(range(last + 1)), [last] * self.slots
        rows = []
        for k in range(self.slots):
            # The slots that are kept, in their order, and the new last one, None, of which all is cleared.
            after = [*(i for i in range(self.slots) if i != k), None]
            nodes = [last if i is None else i for i in after]
            moved = ((after[i], after[j]) for i, j in ends)
            pairs = [last if i is None or j is None else place[i][j] for i, j in moved]
            edges = [last if i is None else place[k][i] for i in after]
            rows.append(([*nodes, *pairs, last], [last], [0], edges, [k], -1))
        for pair in range(self.num_pairs):
            component = [self.slots + pair]
            redo = self.node_actions * self.slots + self.pair_actions * pair - self.pair_changes[0][1]
            rows.extend((same, component, [value], nothing, component, redo) for value in self.earlier)
        rows.append((same, [last], [0], nothing, [last], self.stop_action - 1))
        return BackwardTables(*(self._tensor(column) for column in zip(*rows, strict=True)))

    def _tensor(self, rows: Sequence[Any]) -> Tensor:
        return torch.tensor(rows, dtype=torch.int64, device=self.device)


@cache
def pair_slots(slots: int, device: torch.device) -> Tensor:
    """Return the slots `i < j` of each unordered pair, row by row, int64 `[2, P]`."""
    return torch.triu_indices(slots, slots, 1, device=device)


@cache
def pair_indices(slots: int, device: torch.device) -> Tensor:
    """Return the index of each unordered pair, in either order, int64 `[slots, slots]`; P on the diagonal."""
    first, second = torch.triu_indices(slots, slots, 1)
    indices = torch.full((slots, slots), len(first))
    indices[first, second] = indices[second, first] = torch.arange(len(first))
    return indices.to(device)


def squared(pairs: Tensor, slots: int) -> Tensor:
    """Return unordered `pairs [B, P]` as symmetric matrices `[B, slots, slots]` with 0 on the diagonal."""
    padded = torch.nn.functional.pad(pairs, (0, 1))
    return padded.index_select(1, pair_indices(slots, pairs.device).flatten()).view(-1, slots, slots)
