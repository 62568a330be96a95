"""What each action of QM9 does, tabulated, so that a step is a look-up and a write whatever the kind of the action."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gfn_envs.envs.qm9.encoding import ELEMENTS, pair_indices, pair_slots

NODE_ACTIONS = len(ELEMENTS)
"""Forward actions of a slot: an atom of each element to add to it."""

PAIR_ACTIONS = 3
"""Forward actions of a pair: a new bond, order 2, order 3."""

BACKWARD_PAIR_ACTIONS = 2
"""Backward actions of a pair: no bond, order 1."""

CPU = torch.device("cpu")


class StepTables(NamedTuple):
    """Row `n * num_actions + action` is what the action does to a graph of n atoms.

    Where there is only one component to write, it is written twice.
    """

    written: Tensor
    """The two components written, int64 `[rows, 2]`."""
    values: Tensor
    """Their new values, int64 `[rows, 2]`."""
    undo: Tensor
    """The backward action that undoes it, int64 `[rows]`."""


class BackwardTables(NamedTuple):
    """Row `b` is what backward action `b` does.

    To remove an atom its slot moves to the end and is cleared: cleared components are copies of the stopped flag, which
    is 0 then. The action that redoes it is `redo + NODE_ACTIONS * neighbour + value - 1`: `neighbour` the first of
    `bonds` that is not 0, `value` what was undone, a type, an order or the flag.
    """

    sources: Tensor
    """Where each component comes from, int64 `[rows, d]`."""
    written: Tensor
    """The component written after that, int64 `[rows, 1]`."""
    values: Tensor
    """Its new value, int64 `[rows, 1]`."""
    bonds: Tensor
    """The bonds of the removed atom to the slots as they are afterwards, int64 `[rows, N]`; the flag otherwise."""
    undone: Tensor
    """The component that is undone, int64 `[rows, 1]`."""
    redo: Tensor
    """int64 `[rows]`."""


def step_tables(slots: int, device: torch.device) -> StepTables:
    """Return the tables of `step` for `slots` slots."""
    pairs = pair_indices(slots, CPU).tolist()
    num_pairs = slots * (slots - 1) // 2
    stopped = slots + num_pairs
    undo_stop = slots + BACKWARD_PAIR_ACTIONS * num_pairs
    rows: list[tuple[tuple[int, int], tuple[int, int], int]] = []
    for n in range(slots + 1):
        new = min(n, slots - 1)
        for i in range(slots):
            for kind in range(1, NODE_ACTIONS + 1):
                joined = i != new
                rows.append(((new, kind), (slots + pairs[i][new], 1) if joined else (new, kind), new))
        for pair in range(num_pairs):
            for order in range(1, PAIR_ACTIONS + 1):
                write = (slots + pair, order)
                rows.append((write, write, slots + BACKWARD_PAIR_ACTIONS * pair + (order > 1)))
        rows.append(((stopped, 1), (stopped, 1), undo_stop))
    return StepTables(
        torch.tensor([(one[0], two[0]) for one, two, _ in rows], device=device),
        torch.tensor([(one[1], two[1]) for one, two, _ in rows], device=device),
        torch.tensor([undo for _, _, undo in rows], device=device),
    )


def backward_tables(slots: int, device: torch.device) -> BackwardTables:
    """Return the tables of `backward_step` for `slots` slots."""
    pairs = pair_indices(slots, CPU).tolist()
    num_pairs = slots * (slots - 1) // 2
    stopped = slots + num_pairs
    same, nothing = list(range(stopped + 1)), [stopped] * slots
    rows: list[tuple[list[int], int, int, list[int], int, int]] = []
    for k in range(slots):
        kept = [i for i in range(slots) if i != k]
        orders = [
            slots + pairs[kept[i]][kept[j]] if j < slots - 1 else stopped for i, j in pair_slots(slots, CPU).T.tolist()
        ]
        bonds = [slots + pairs[k][i] for i in kept]
        rows.append(([*kept, stopped, *orders, stopped], stopped, 0, [*bonds, stopped], k, 0))
    for pair in range(num_pairs):
        redo = NODE_ACTIONS * slots + PAIR_ACTIONS * pair
        rows.extend((same, slots + pair, order, nothing, slots + pair, redo) for order in range(BACKWARD_PAIR_ACTIONS))
    stop = NODE_ACTIONS * slots + PAIR_ACTIONS * num_pairs
    rows.append((same, stopped, 0, nothing, stopped, stop))
    sources, written, values, bonds, undone, redo = (
        torch.tensor(column, device=device) for column in zip(*rows, strict=True)
    )
    return BackwardTables(sources, written.unsqueeze(1), values.unsqueeze(1), bonds, undone.unsqueeze(1), redo)
