"""Graphs in slots, in both layouts, by an environment of trees that the law and plain Python decide."""

import pytest
import torch
from torch import Tensor

from gfn_envs import DAG, check_dag, enumerate_dag
from gfn_envs.envs.molecules.slots import SlotGraph
from gfn_envs.envs.molecules.symmetry import canonical_order, log_automorphisms, rename
from gfn_envs.views import GraphView


class Trees(DAG):
    """Trees of nodes of two kinds; an edge is joined first, then marked, in each order where pairs are ordered."""

    renames_slots = True

    def __init__(self, slots: int, ordered: bool, device: str = "cpu") -> None:
        super().__init__(device)
        self.layout = layout = SlotGraph(slots, 2, ((1, 2), (1, 3)), ordered, device)
        self.nvec, self.stop_action = layout.nvec, layout.stop_action
        self.num_actions, self.num_backward_actions = layout.num_actions, layout.num_backward_actions
        self.max_steps = slots + (slots - 1) * (2 if ordered else 1) + 1

    def reset(self, n: int) -> Tensor:
        return self.layout.reset(n)

    def step(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        return self.layout.step(states, actions)

    def backward_step(self, states: Tensor, backward_actions: Tensor) -> tuple[Tensor, Tensor]:
        return self.layout.backward_step(states, backward_actions)

    def action_mask(self, states: Tensor) -> Tensor:
        slots, going = self.layout.slots, states[:, -1:] == 0
        grows = (states[:, :slots] > 0) & (states[:, slots - 1 : slots] == 0) & going
        grows[:, :1] |= (states[:, :1] == 0) & going
        changes = (states[:, slots:-1] == 1) & going
        blocks = [grows.repeat_interleave(2, 1), changes.repeat_interleave(2, 1), going & (states[:, :1] > 0)]
        return torch.cat(blocks, 1)

    def backward_action_mask(self, states: Tensor) -> Tensor:
        going, (nodes, pairs) = states[:, -1:] == 0, self.layout.parts(states)
        plain = ((pairs <= 1) & (pairs.mT <= 1)).all(2)
        leaf = (nodes > 0) & ((pairs > 0).sum(2) <= 1) & plain
        return torch.cat([leaf & going, (states[:, self.layout.slots : -1] > 1) & going, ~going], 1)

    def log_reward(self, states: Tensor) -> Tensor:
        return torch.sin(self.canonical(states).float() @ torch.arange(1.0, self.state_dim + 1, device=self.device))

    def canonical(self, states: Tensor) -> Tensor:
        nodes, pairs = self.layout.parts(states)
        return self.layout.joined(*rename(nodes, pairs, canonical_order(nodes, pairs)), states[:, -1:])

    def log_symmetry(self, states: Tensor) -> Tensor:
        return log_automorphisms(*self.layout.parts(states))

    def graph_view(self) -> GraphView:
        return self.layout.view(node_values=(3,), whole_values=(2,))

    def graph(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        nodes, pairs = self.layout.parts(states)
        return nodes.unsqueeze(2).clone(), pairs.clone(), states[:, -1:].clone()


LAYOUTS = [(slots, ordered) for slots in (1, 2, 4) for ordered in (False, True)]


@pytest.mark.parametrize(("slots", "ordered"), LAYOUTS)
def test_the_law_holds(slots: int, ordered: bool) -> None:
    check_dag(Trees(slots, ordered))
    check_dag(Trees(slots, ordered, "meta"))


@pytest.mark.parametrize(("slots", "ordered"), LAYOUTS)
def test_parts_and_joined_invert_one_another(slots: int, ordered: bool) -> None:
    layout = Trees(slots, ordered).layout
    values = torch.rand(50, len(layout.nvec))
    states = (values * torch.tensor(layout.nvec)).long()
    nodes, pairs = layout.parts(states)
    assert torch.equal(layout.joined(nodes, pairs, states[:, -1:]), states)
    if not ordered:
        assert torch.equal(pairs, pairs.mT)
        assert not pairs.diagonal(dim1=1, dim2=2).any()


@pytest.mark.parametrize("ordered", [False, True])
def test_a_step_on_a_hand_written_table(ordered: bool) -> None:
    layout = Trees(3, ordered).layout

    def written(*actions: int) -> tuple[list[int], list[list[int]], list[int]]:
        states, back = layout.reset(1), []
        for action in actions:
            states, undo = layout.step(states, torch.tensor([action]))
            back.append(int(undo))
        nodes, pairs = layout.parts(states)
        return nodes[0].tolist(), pairs[0].tolist(), back

    # Node 1, node 2 joined to slot 0, node 1 joined to slot 1.
    chain = [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    assert written(0, 1, 2) == ([1, 2, 1], chain, [0, 1, 2])
    # Pair (1, 2) is marked with 3: it is pair 2 of the unordered and pair 5 of the ordered ones.
    pair = 5 if ordered else 2
    marked = [[0, 1, 0], [1, 0, 3], [0, 1 if ordered else 3, 0]]
    assert written(0, 1, 2, 6 + 2 * pair + 1) == ([1, 2, 1], marked, [0, 1, 2, 3 + pair])
    assert written(0, layout.stop_action)[2] == [0, layout.num_backward_actions - 1]
    # Removing slot 1 of two moves slot 2 into its place.
    states = layout.joined(
        torch.tensor([[1, 2, 1]]), torch.tensor([[[0, 1, 1], [1, 0, 0], [1, 0, 0]]]), torch.zeros(1, 1).long()
    )
    previous, action = layout.backward_step(states, torch.tensor([1]))
    nodes, pairs = layout.parts(previous)
    assert (nodes[0].tolist(), pairs[0].tolist()) == ([1, 1, 0], [[0, 1, 0], [1, 0, 0], [0, 0, 0]])
    assert int(action) == 1


def test_an_earlier_value_comes_back_by_its_own_backward_action() -> None:
    layout = SlotGraph(2, 1, ((0, 1), (1, 2), (1, 3)), ordered=False)
    assert (layout.earlier, layout.pair_actions, layout.backward_pair_actions) == ([0, 1], 3, 2)
    start = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0]])
    actions = torch.tensor([2, 3, 4])
    states, back = layout.step(start, actions)
    assert states[:, 2].tolist() == [1, 2, 3]
    assert back.tolist() == [2, 3, 3]
    undone, redo = layout.backward_step(states, back)
    assert torch.equal(undone, start)
    assert torch.equal(redo, actions)


def test_trees_are_enumerated_up_to_renaming() -> None:
    # Two kinds of nodes: 2 trees of one node; 3 of two nodes (11, 12, 22), whose edge is plain or marked in 2 ways.
    exact = enumerate_dag(Trees(2, ordered=False))
    assert len(exact.terminal) == 2 + 3 * 3
    # In each order: 3 values at both ends; a pair of equal nodes cannot tell its ends apart.
    exact = enumerate_dag(Trees(2, ordered=True))
    assert len(exact.terminal) == 2 + 2 * 6 + 9
