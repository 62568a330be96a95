"""Fitch's parsimony on packed sets of states, for batches of forests.

Source: Fitch 1971 (Systematic Zoology 20, 406).
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gfn_envs.envs.phylotree.alignment import SETS, Alignment

_CHUNK_BYTES = 2**22  # on the CPU the sets of so many forests are joined at a time that they stay in a fast cache
_LARGE_CHUNK_BYTES = 2**30

_ANY_BASE = SETS["N"]
_LANES = 8  # sets in a word of 64 bits
_ONES = 0x0101010101010101  # 1 in every lane
_SEVENS = 0x7F7F7F7F7F7F7F7F
MOST_TAXA = 256
"""A lane counts up to 255 joins."""


def reduced(alignment: Alignment) -> tuple[np.ndarray, np.ndarray]:
    """Return sets `[taxa, patterns]` and counts `[patterns]` that give every forest the parsimony of `alignment`.

    Columns in which all taxa share a state never cost a mutation. Columns that differ by the names of their states
    alone cost the same. What is left is each of them once, its states named by bits in order of appearance, those with
    most states first.
    """
    counts: dict[tuple[int, ...], int] = {}
    for column, count in zip(alignment.sets.T, alignment.counts, strict=True):
        if not np.bitwise_and.reduce(column):
            pattern = _renamed(column.tolist())
            counts[pattern] = counts.get(pattern, 0) + int(count)
    patterns = sorted(counts, key=lambda pattern: -max(pattern).bit_length())
    sets = np.array(patterns, dtype=np.uint8).reshape(len(patterns), len(alignment.taxa))
    return sets.T, np.array([counts[pattern] for pattern in patterns], dtype=np.int64)


def _renamed(column: list[int]) -> tuple[int, ...]:
    """Return a column with its states renamed in order of appearance.

    A base that is there only as a part of "any base" is left out, if another base is there: every set that has it, of a
    leaf or a join, has all bases, so that no intersection is empty for want of it.
    """
    seen = functools.reduce(operator.or_, (states for states in column if states != _ANY_BASE), 0)
    any_base = seen & _ANY_BASE or _ANY_BASE & -_ANY_BASE
    names: dict[int, int] = {}
    renamed = []
    for states in column:
        bits = any_base if states == _ANY_BASE else states
        each = [1 << i for i in range(bits.bit_length()) if bits >> i & 1]
        renamed.append(sum(names.setdefault(bit, 1 << len(names)) for bit in each))
    return tuple(renamed)


class Parsimony:
    """Sets of states and numbers of mutations of the trees in a forest.

    The states of `gfn_envs.envs.phylotree.dag.PhyloTree` say which trees are joined. A join has the intersection of its
    parts' sets where that is not empty, else their union, which costs one mutation. Eight sets of up to seven states
    are packed into a word, and joined at once.

    Args:
        sets: uint8 `[taxa, patterns]`, the leaves' sets.
        counts: int64 `[patterns]`, how many sites each pattern stands for.
    """

    def __init__(self, sets: np.ndarray, counts: np.ndarray, device: torch.device) -> None:
        self.num_taxa, self.num_patterns = sets.shape
        padding = _LANES * max(1, -(-self.num_patterns // _LANES)) - self.num_patterns
        # In the padding all share a state, and so it costs nothing.
        padded = np.ascontiguousarray(np.pad(sets, [(0, 0), (0, padding)], constant_values=1))
        self.words = torch.from_numpy(padded).view(torch.int64).to(device)
        self.counts = torch.from_numpy(np.pad(counts, (0, padding))).float().to(device)

    def slots(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sets, int64 `[B, taxa, words]`, and mutations, float32 `[B, taxa]`, of the tree in each slot.

        Of a slot that was joined to another one it is the tree that was joined. `unpacked` reads the sets.
        """
        sets, mutations = [], []
        for into, order in self._plans(states):
            found, count = self._leaf_sets(into), torch.zeros(into.numel(), device=into.device)
            for at, other, empty in self._joins(found, into, order):
                # A slot that was not joined is added to itself, which must not double its mutations.
                added = count.index_select(0, other) * (at != other) + self._cost(empty)
                count.index_add_(0, at, added)
            sets.append(found.unflatten(0, into.shape))
            mutations.append(count.view(into.shape))
        return torch.cat(sets), torch.cat(mutations)

    def mutations(self, states: Tensor) -> Tensor:
        """Return the mutations of all trees together, float32 `[B]`."""
        totals = []
        for into, order in self._plans(states):
            total = torch.zeros(len(into), self.words.shape[1], dtype=torch.int64, device=into.device)
            for _, _, empty in self._joins(self._leaf_sets(into), into, order):
                total += empty
            totals.append(self._cost(total))
        return torch.cat(totals)

    def _cost(self, joins: Tensor) -> Tensor:
        """Return the mutations `[B]` of what counts the joins that cost one, a lane a pattern: `joins [B, words]`."""
        return joins.view(torch.uint8).float() @ self.counts

    def _plans(self, states: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the slot that each slot was joined to, `[B, taxa]`, and slots `[B, taxa - 1]` in an order to join them.

        Slots are joined to higher ones first, and to one slot in the order in which that happened. A slot that was not
        joined counts as joined to itself, last of all: nothing comes of it.
        """
        last = self.num_taxa - 1
        into = torch.div(states - 1, last, rounding_mode="floor")
        key = torch.where(states > 0, states - 2 * last * into, self.num_taxa**2)
        own = torch.arange(1, self.num_taxa, device=states.device)
        into = functional.pad(torch.where(states > 0, into, own), (1, 0))
        order = key.argsort(1) + 1
        most = _CHUNK_BYTES if states.device.type == "cpu" else _LARGE_CHUNK_BYTES
        rows = max(1, most // (_LANES * max(1, self.words.numel())))
        yield from zip(into.split(rows), order.split(rows), strict=True)

    def _leaf_sets(self, into: Tensor) -> Tensor:
        """Return the leaves' sets for each forest, `[B * taxa, words]`."""
        return self.words.repeat(len(into), 1)

    def _joins(self, sets: Tensor, into: Tensor, order: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Join slots step by step, in place in `sets [B * taxa, words]`.

        Yields after each step the rows of `sets` that were joined to, the rows that were joined, and, a lane a pattern,
        whether it cost a mutation, `[B]`, `[B]`, `[B, words]`.
        """
        rows = torch.arange(len(into), device=into.device) * self.num_taxa
        steps = order.shape[1]
        if into.device.type == "cpu":
            steps = int((into != torch.arange(self.num_taxa)).sum(1).amax()) if len(into) else 0
        for step in range(steps):
            slot = order[:, step]
            other = rows + slot
            at = rows + into.gather(1, slot.unsqueeze(1)).squeeze(1)
            a, b = sets.index_select(0, at), sets.index_select(0, other)
            both = a & b
            # The highest bit of a lane is set by adding 127, unless the lane is 0; then it is turned round and moved.
            empty = (both + _SEVENS).bitwise_not_().bitwise_right_shift_(7).bitwise_and_(_ONES)
            joined = a.bitwise_or_(b).bitwise_and_(empty * 0x7F).bitwise_or_(both)
            sets.index_copy_(0, at, joined)
            yield at, other, empty


def unpacked(sets: Tensor, bit: int, count: int) -> Tensor:
    """Return whether the state `bit` is in the first `count` of packed `sets [..., words]`, uint8 `[..., count]`."""
    words = sets[..., : -(-count // _LANES)] >> bit
    return words.bitwise_and_(_ONES).view(torch.uint8)[..., :count]


Tree = int | tuple["Tree", "Tree"]
"""A leaf's number, or the two parts of a tree."""


def stepwise_addition(sets: np.ndarray, counts: np.ndarray) -> tuple[Tree, int]:
    """Return the tree that grows by adding each leaf where it costs least, in order, and its number of mutations.

    The cost of a new leaf on an edge is the sites at which its set does not meet the set of the edge, the join of what
    lies on either side (Swofford and Maddison 1987, Mathematical Biosciences 87, 199).
    """
    children: dict[int, tuple[int, int]] = {len(sets): (0, 1)}
    root = len(sets)
    for leaf in range(2, len(sets)):
        edges = _edge_sets(sets, children, root)
        nodes = list(edges)
        costs = ((np.stack([edges[node] for node in nodes]) & sets[leaf]) == 0) @ counts
        node = nodes[int(costs.argmin())]
        new = len(sets) + leaf - 1
        for parent, pair in children.items():
            if node in pair:
                children[parent] = tuple(new if child == node else child for child in pair)  # type: ignore[assignment]
        children[new] = (node, leaf)
    _, cost = _down_sets(sets, children, root)

    def nested(node: int) -> Tree:
        return node if node < len(sets) else tuple(map(nested, children[node]))  # type: ignore[return-value]

    return nested(root), int(cost @ counts)


def _down_sets(
    sets: np.ndarray, children: dict[int, tuple[int, int]], root: int
) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Return the set of each node, and how many mutations each pattern has below `root`."""
    down = dict(enumerate(sets))
    cost = np.zeros(sets.shape[1], dtype=np.int64)
    for node in reversed(_from_root(children, root)):
        left, right = (down[child] for child in children[node])
        down[node] = _joined(left, right)
        cost += (left & right) == 0
    return down, cost


def _edge_sets(sets: np.ndarray, children: dict[int, tuple[int, int]], root: int) -> dict[int, np.ndarray]:
    """Return, for each node but the root, the set of the edge above it. The two edges of the root are one edge."""
    down, _ = _down_sets(sets, children, root)
    above: dict[int, np.ndarray] = {}
    for node in _from_root(children, root):
        for child, sibling in itertools.permutations(children[node]):
            above[child] = down[sibling] if node == root else _joined(above[node], down[sibling])
    del above[children[root][1]]
    return {node: _joined(down[node], over) for node, over in above.items()}


def _from_root(children: dict[int, tuple[int, int]], root: int) -> list[int]:
    """Return the inner nodes, each after its parent."""
    order = [root]
    for node in order:
        order += [child for child in children[node] if child in children]
    return order


def _joined(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    both = left & right
    return np.where(both == 0, left | right, both)
