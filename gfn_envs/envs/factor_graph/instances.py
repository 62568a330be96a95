"""The named factor graphs, random ones with a seed.

Source: the distributions of Buesing et al. 2020 (arXiv 1910.06862), section 5.1, as Deleu et al. 2024 (arXiv
2402.10309) use them. The generators are our own: a seed gives another instance of the same distribution.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
from scipy.sparse.csgraph import connected_components

from gfn_envs.memory import demand

Factor = tuple[tuple[int, ...], np.ndarray]
"""Variables, and the log of their factor: an array with an axis for each of them, in that order."""

MAX_CLIQUE = 4
"""A factor of a random graph joins at most so many variables."""

_TRIES = 10_000


def chain(variables: int, values: int, random: np.random.Generator) -> list[Factor]:
    """Return unary factors from a Gaussian process over (variable, value), and neighbours that repel each other.

    Its covariance is `0.5 exp(-d^2 / 2)`, `d` the distance; neighbours get 2.5 times the circular distance of values.
    """
    demand("the distances between all values", 16 * (variables * values) ** 2, "variables or values")
    points = np.stack(np.meshgrid(np.arange(variables), np.arange(values), indexing="ij"), -1).reshape(-1, 2)
    squares = ((points[:, None] - points) ** 2).sum(2)
    covariance = 0.5 * np.exp(-0.5 * squares) + 1e-9 * np.eye(len(points))
    unary = (np.linalg.cholesky(covariance) @ random.standard_normal(len(points))).reshape(variables, values)
    distance = np.abs(np.arange(values)[:, None] - np.arange(values))
    binary = 2.5 * np.minimum(distance, values - distance)
    pairs = itertools.pairwise(range(variables))
    return [((i,), unary[i]) for i in range(variables)] + [(pair, binary) for pair in pairs]


def permuted_chain(variables: int, values: int, random: np.random.Generator) -> list[Factor]:
    """Return the factors of a path in random order, whose rows are drawn from a flat Dirichlet distribution.

    As published, these probabilities themselves, not their logs, are added to log R.
    """
    demand("the rows of the factors", 8 * variables * values**2, "variables or values")
    order = random.permutation(variables).tolist()
    rows = random.dirichlet(np.ones(values), size=(variables, values))
    return [((i, j), rows[j]) for i, j in itertools.pairwise(order)]


def factor_graph1(variables: int, values: int, random: np.random.Generator) -> list[Factor]:
    """Return a factor with standard normal logs for each maximal clique of a connected random graph."""
    cliques = _random_cliques(variables, 2 * math.log(variables) / variables, random)
    return [(clique, random.standard_normal((values,) * len(clique))) for clique in cliques]


def factor_graph2(variables: int, values: int, random: np.random.Generator) -> list[Factor]:
    """Return factors of pairs of bits that are to differ, and of cliques of pairs that vote.

    The members of a pair get 2 where they differ. A clique reads one member of each of its pairs, and gets 2 where at
    least half of these are 1.
    """
    if variables % 2 or values != 2:
        raise ValueError(
            f"factor_graph2 is made of pairs of bits: variables must be even and values 2, got {variables}, {values}."
        )
    pairs = variables // 2
    factors: list[Factor] = []
    for clique in _random_cliques(pairs, 3 * math.log(pairs) / variables, random):
        members = random.integers(2, size=len(clique))
        votes = np.indices((2,) * len(clique)).sum(0)
        read = tuple(2 * pair + int(member) for pair, member in zip(clique, members, strict=True))
        factors.append((read, 2.0 * (votes >= 0.5 * len(clique))))
    return factors + [((2 * i, 2 * i + 1), 2.0 * (1 - np.eye(2))) for i in range(pairs)]


def _random_cliques(nodes: int, p: float, random: np.random.Generator) -> list[tuple[int, ...]]:
    """Return the maximal cliques of a random graph that is connected and has none of more than `MAX_CLIQUE` nodes."""
    demand("the pairs of nodes", 18 * nodes**2, "variables")
    for _ in range(_TRIES):
        upper = np.triu(random.random((nodes, nodes)) < p, 1)
        joined = upper | upper.T
        if connected_components(joined, directed=False, return_labels=False) > 1:
            continue
        cliques = _maximal_cliques([set(np.flatnonzero(row).tolist()) for row in joined])
        if max(map(len, cliques)) <= MAX_CLIQUE:
            return cliques
    raise ValueError(
        f"no connected random graph of {nodes} nodes without a clique of more than {MAX_CLIQUE} was found in {_TRIES} "
        "tries: take fewer variables."
    )


def _maximal_cliques(neighbours: list[set[int]]) -> list[tuple[int, ...]]:
    """Return the maximal cliques by Bron and Kerbosch's recursion with a pivot, in a fixed order."""
    found = []

    def extend(clique: set[int], may: set[int], done: set[int]) -> None:
        if not may and not done:
            found.append(tuple(sorted(clique)))
            return
        pivot = max(sorted(may | done), key=lambda node: len(neighbours[node] & may))
        for node in sorted(may - neighbours[pivot]):
            extend(clique | {node}, may & neighbours[node], done & neighbours[node])
            may, done = may - {node}, done | {node}

    extend(set(), set(range(len(neighbours))), set())
    return sorted(found)


INSTANCES: dict[str, Callable[[int, int, np.random.Generator], list[Factor]]] = {
    "chain": chain,
    "permuted_chain": permuted_chain,
    "factor_graph1": factor_graph1,
    "factor_graph2": factor_graph2,
}
"""Generators `(variables, values, random) -> factors` by name."""
