"""All maximal independent sets and minimal dominating sets of a small graph, by one look at each set of nodes.

A set of nodes is an integer whose bit i tells whether node i is in it. What holds of all sets of v nodes is doubled to
those of v + 1 nodes; what one node more or less changes is read along one axis of the table.
"""

from __future__ import annotations

import numpy as np

LARGEST = 24
"""Number of nodes up to which sets are listed: 2^24 of them take about a second and 200 MB."""


def maximal_independent_sets(adjacent: np.ndarray) -> np.ndarray:
    """Return the independent sets to which no node can be added, int64 `[X]`, increasing.

    Args:
        adjacent: bool `[N, N]`, symmetric, N at most `LARGEST`.
    """
    neighbours = _bits(adjacent)
    independent = np.ones(1, dtype=bool)
    for node, those in enumerate(neighbours):
        sets = np.arange(1 << node, dtype=np.int32)
        independent = np.concatenate([independent, independent & (sets & those == 0)])
    extended = np.zeros_like(independent)
    for node in range(len(neighbours)):
        without, without_extended = (x.reshape(-1, 2, 1 << node) for x in (independent, extended))
        without_extended[:, 0] |= without[:, 1]
    return np.flatnonzero(independent & ~extended)


def minimal_dominating_sets(adjacent: np.ndarray) -> np.ndarray:
    """Return the dominating sets from which no node can be taken away, int64 `[X]`, increasing; see above."""
    reached_from = _bits(adjacent | np.eye(len(adjacent), dtype=bool))
    reached = np.zeros(1, dtype=np.int32)
    for those in reached_from:
        reached = np.concatenate([reached, reached | those])
    dominating = reached == (1 << len(adjacent)) - 1
    reduced = np.zeros_like(dominating)
    for node in range(len(adjacent)):
        with_it, with_it_reduced = (x.reshape(-1, 2, 1 << node) for x in (dominating, reduced))
        with_it_reduced[:, 1] |= with_it[:, 0]
    return np.flatnonzero(dominating & ~reduced)


def _bits(rows: np.ndarray) -> np.ndarray:
    """Return rows of bools `[N, N]` as sets, int32 `[N]`."""
    return (rows.astype(np.int32) << np.arange(rows.shape[1], dtype=np.int32)).sum(1, dtype=np.int32)
