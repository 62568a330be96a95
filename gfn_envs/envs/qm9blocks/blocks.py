"""Eleven building blocks with two ends each, and the molecules that rows of them are.

Source: Shen et al. 2023 (arXiv 2305.07170): the blocks and the atoms that are their ends.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gfn_envs.envs.qm9.encoding import ELEMENTS


class Block(NamedTuple):
    """A part of a molecule that two others can be joined to by single bonds."""

    smiles: str
    """Its SMILES, which is its name."""
    atoms: str
    """The element of each atom."""
    bonds: tuple[tuple[int, int, int], ...] = ()
    """Two atoms and the order of their bond."""
    ends: tuple[int, int] = (0, 0)
    """The atoms that join the block before it and the block behind it."""


def _ring(*orders: int) -> tuple[tuple[int, int, int], ...]:
    return tuple((i, (i + 1) % len(orders), order) for i, order in enumerate(orders))


BLOCKS = (
    Block("C", "C"),
    Block("O", "O"),
    Block("N", "N"),
    Block("CF", "CF", ((0, 1, 1),)),
    Block("C=O", "CO", ((0, 1, 2),)),
    Block("C=C", "CC", ((0, 1, 2),), (0, 1)),
    Block("C#C", "CC", ((0, 1, 3),), (0, 1)),
    Block("c1ccccc1", "CCCCCC", _ring(1, 2, 1, 2, 1, 2), (0, 3)),
    Block("C1CCCCC1", "CCCCCC", _ring(1, 1, 1, 1, 1, 1), (0, 3)),
    Block("C1CCNC1", "CCCNC", _ring(1, 1, 1, 1, 1), (0, 2)),
    Block("CCC", "CCC", ((0, 1, 1), (1, 2, 1))),
)

LENGTH = 5
"""Most blocks of a molecule."""

LARGEST = max(len(block.atoms) for block in BLOCKS)
"""Most atoms of a block."""

SAME_BACKWARDS = tuple(block.smiles != "C1CCNC1" for block in BLOCKS)
"""Whether a block is the same with its ends exchanged: a row of such blocks is one molecule with its reverse."""


def _tables() -> tuple[Tensor, Tensor, Tensor]:
    """Return types `[1 + blocks, LARGEST]`, bond orders `[1 + blocks, LARGEST, LARGEST]` and ends `[1 + blocks, 2]`."""
    types = torch.zeros(1 + len(BLOCKS), LARGEST, dtype=torch.int64)
    orders = torch.zeros(1 + len(BLOCKS), LARGEST, LARGEST, dtype=torch.int64)
    ends = torch.zeros(1 + len(BLOCKS), 2, dtype=torch.int64)
    for row, block in enumerate(BLOCKS, start=1):
        for atom, element in enumerate(block.atoms):
            types[row, atom] = 1 + ELEMENTS.index(element)
        for one, other, order in block.bonds:
            orders[row, one, other] = orders[row, other, one] = order
        ends[row] = torch.tensor(block.ends)
    return types, orders, ends


def assemble(states: Tensor) -> tuple[Tensor, Tensor]:
    """Return the molecules of rows of blocks as atom types `[B, 6 L]` and bond orders `[B, 6 L, 6 L]`, int64.

    Takes `states` int64 `[B, L]` on the CPU: 0 where there is no block, 1 + block elsewhere. Gaps are closed: each
    block is joined to the next one that there is. Filled slots do not come first; `compact` moves them there.
    """
    count, length = states.shape
    block_types, block_orders, block_ends = _tables()
    types = block_types[states].flatten(1)
    orders = torch.zeros(count, length, LARGEST, length, LARGEST, dtype=torch.int64)
    places = torch.arange(length)
    orders[:, places, :, places] = block_orders[states].transpose(0, 1)
    orders = orders.flatten(3).flatten(1, 2)
    ends = block_ends[states] + LARGEST * places.unsqueeze(1)
    rows, before = torch.arange(count), torch.full((count,), -1)
    for place in range(length):
        here, first = states[:, place] > 0, ends[:, place, 0]
        joined = rows[here & (before >= 0)]
        orders[joined, before[joined], first[joined]] = orders[joined, first[joined], before[joined]] = 1
        before = torch.where(here, ends[:, place, 1], before)
    return types, orders


def compact(types: Tensor, orders: Tensor) -> tuple[Tensor, Tensor]:
    """Return types `[B, N]` and orders `[B, N, N]` with filled slots first, in their order, and as few as needed."""
    needed = max([1, *(types > 0).sum(1).tolist()])
    order = (types == 0).int().argsort(dim=1, stable=True)[:, :needed]
    types = types.gather(1, order)
    orders = orders.gather(1, order.unsqueeze(2).expand(-1, -1, orders.shape[2]))
    return types, orders.gather(2, order.unsqueeze(1).expand(-1, needed, -1))
