"""Graphs: random ones by seed, or the user's own, as a matrix of neighbours.

Source: Erdos and Renyi 1959; Barabasi and Albert 1999 (doi 10.1126/science.286.5439.509).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from gfn_envs.errors import choose, integer_at_least
from gfn_envs.memory import demand


class Graph(NamedTuple):
    """An undirected graph without loops."""

    adjacent: np.ndarray
    """bool `[N, N]`, symmetric."""
    names: list[Any]
    """What the nodes are called, `[N]`."""


def erdos_renyi(nodes: int, degree: float, random: np.random.Generator) -> np.ndarray:
    """Return a graph whose pairs are joined with equal probability, so that `degree` is the expected mean degree."""
    upper = np.triu(random.random((nodes, nodes)) < degree / max(nodes - 1, 1), 1)
    return upper | upper.T


def barabasi_albert(nodes: int, degree: float, random: np.random.Generator) -> np.ndarray:
    """Return a graph to which nodes were added one by one, each joined to about `degree / 2` earlier ones.

    They are drawn in proportion to their degree; the first nodes form a star.
    """
    joined = min(max(round(degree / 2), 1), nodes - 1)
    adjacent = np.zeros((nodes, nodes), dtype=bool)
    ends: list[int] = []  # each node as often as it has edges
    for node in range(1, nodes):
        chosen = {0} if node <= joined else set()
        while len(chosen) < joined and node > joined:
            chosen.add(ends[random.integers(len(ends))])
        for other in chosen:
            adjacent[node, other] = adjacent[other, node] = True
        ends += [*chosen, *[node] * len(chosen)]
    return adjacent


RANDOM: dict[str, Callable[[int, float, np.random.Generator], np.ndarray]] = {
    "erdos_renyi": erdos_renyi,
    "barabasi_albert": barabasi_albert,
}


def random_graph(name: str, nodes: int, degree: float, seed: int) -> Graph:
    """Return the random graph of that name and seed."""
    nodes, seed = integer_at_least("nodes", nodes, 1), integer_at_least("seed", seed, 0)
    if isinstance(degree, bool) or not isinstance(degree, int | float) or not 0 <= degree <= max(nodes - 1, 0):
        raise ValueError(f"degree must be a number in 0 .. nodes - 1 = {nodes - 1}, got {degree!r}.")
    make = choose("graph", name, RANDOM)
    demand("the pairs of nodes", 9 * nodes**2, "nodes")
    return Graph(make(nodes, degree, np.random.default_rng(seed)), list(range(nodes)))


def given_graph(graph: Any, nodes: int | None) -> Graph:
    """Return the user's graph: a networkx graph, whose nodes keep their order and names, or pairs of node numbers.

    Args:
        graph: a `networkx.Graph`, or a list of pairs of integers from 0 on.
        nodes: number of nodes of a list of pairs; None for the largest number in it + 1.

    Raises `ValueError` for what is neither, for loops, for directed graphs, and for numbers that are no node.
    """
    if hasattr(graph, "nodes") and hasattr(graph, "edges"):
        names, pairs = list(graph.nodes), [tuple(edge)[:2] for edge in graph.edges]
        if getattr(graph, "is_directed", bool)():
            raise ValueError("graph is directed: give an undirected one, such as graph.to_undirected().")
        if nodes not in (None, len(names)):
            raise ValueError(f"nodes = {nodes!r} differs from the {len(names)} nodes of the graph: leave it out.")
    else:
        pairs = _checked_pairs(graph)
        least = 1 + max((end for pair in pairs for end in pair), default=-1)
        count = least if nodes is None else integer_at_least("nodes", nodes, 1)
        if least > count:
            raise ValueError(f"graph has an edge at node {least - 1}, but nodes = {count}: they are counted from 0.")
        names = list(range(count))
    if not names:
        raise ValueError("graph has no node.")
    place = {name: i for i, name in enumerate(names)}
    adjacent = np.zeros((len(names), len(names)), dtype=bool)
    for one, other in pairs:
        if one == other:
            raise ValueError(f"graph has a loop at node {one!r}.")
        adjacent[place[one], place[other]] = adjacent[place[other], place[one]] = True
    return Graph(adjacent, names)


def _checked_pairs(graph: Any) -> list[tuple[int, int]]:
    """Return a list of pairs of integers from 0 on as tuples, or raise `ValueError`."""
    if not isinstance(graph, Iterable) or isinstance(graph, str | bytes):
        raise ValueError(
            f"graph must be one of {', '.join(RANDOM)}, a list of pairs of node numbers, or a networkx graph; "
            f"got {graph!r}."
        )
    pairs = []
    for pair in graph:
        ends = tuple(pair) if isinstance(pair, Iterable) else (pair,)
        integers = all(hasattr(end, "__index__") and not isinstance(end, bool) and end >= 0 for end in ends)
        if len(ends) != 2 or not integers:
            raise ValueError(f"an edge is a pair of node numbers from 0 on, got {pair!r}.")
        pairs.append((int(ends[0]), int(ends[1])))
    return pairs
