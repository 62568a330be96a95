"""Automorphisms and canonical orders against networkx, which searches for isomorphisms one by one."""

import itertools
import math
import operator
from collections.abc import Callable

import networkx as nx
import pytest
import torch
from networkx.algorithms.isomorphism import DiGraphMatcher, GraphMatcher
from torch import Generator, Tensor

from gfn_envs.envs.molecules.symmetry import canonical_order, log_automorphisms, mix, rename

SLOTS = 9


def tensors(graphs: list[nx.Graph], slots: int = SLOTS) -> tuple[Tensor, Tensor]:
    """Return colours `[B, slots]` and pairs `[B, slots, slots]` of graphs with attributes colour and label (or 1)."""
    colours = torch.zeros(len(graphs), slots, dtype=torch.int64)
    pairs = torch.zeros(len(graphs), slots, slots, dtype=torch.int64)
    for b, graph in enumerate(graphs):
        slot = {node: i for i, node in enumerate(graph)}
        for node, colour in graph.nodes(data="colour", default=1):
            colours[b, slot[node]] = colour
        for u, v, label in graph.edges(data="label", default=1):
            pairs[b, slot[u], slot[v]] = label
            if not graph.is_directed():
                pairs[b, slot[v], slot[u]] = label
    return colours, pairs


def count(graph: nx.Graph) -> int:
    """Return |Aut| by listing all automorphisms."""
    matcher = (DiGraphMatcher if graph.is_directed() else GraphMatcher)(
        graph, graph, node_match=operator.eq, edge_match=operator.eq
    )
    return sum(1 for _ in matcher.isomorphisms_iter())


def shuffled(colours: Tensor, pairs: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Return the same graphs with their slots, empty ones too, in a random order."""
    noise = torch.rand(colours.shape, generator=Generator().manual_seed(seed))
    return rename(colours, pairs, noise.argsort(1))


def canonical_rows(colours: Tensor, pairs: Tensor) -> Tensor:
    colours, pairs = rename(colours, pairs, canonical_order(colours, pairs))
    return torch.cat([colours, pairs.flatten(1)], 1)


def atlas() -> list[nx.Graph]:
    """All 462 connected graphs of at most 7 nodes and degree at most 4."""
    graphs = [graph for graph in nx.graph_atlas_g() if len(graph) and nx.is_connected(graph)]
    return [graph for graph in graphs if max(degree for _, degree in graph.degree()) <= 4]


def regular() -> list[nx.Graph]:
    """Regular graphs, whose nodes all look alike to a count of neighbours."""
    sizes = [(6, 3), (8, 3), (8, 4), (9, 4), (9, 2)]
    graphs = [nx.random_regular_graph(degree, n, seed=seed) for n, degree in sizes for seed in range(20)]
    return [graph for graph in graphs if nx.is_connected(graph)]


def rings() -> list[nx.Graph]:
    """Rings with chords whose labels repeat along the ring, such as single and double bonds that alternate."""
    graphs = []
    for n, step, labels in itertools.product(range(4, 10), (0, 2, 3, 4), itertools.product((1, 2), repeat=2)):
        graph = nx.cycle_graph(n)
        for i in range(n):
            graph.edges[i, (i + 1) % n]["label"] = labels[i % 2]
        chords = [(i, (i + step) % n) for i in range(0, n, 1 + n % 2) if step]
        graph.add_edges_from((edge for edge in chords if len(set(edge)) == 2 and not graph.has_edge(*edge)), label=3)
        graphs.append(graph)
    return graphs


def coloured() -> list[nx.Graph]:
    """Random sparse graphs with few colours and labels, so that some symmetry is left."""
    random = torch.Generator().manual_seed(3)
    graphs = []
    for seed in range(150):
        graph = nx.gnm_random_graph(seed % 6 + 4, seed % 6 + 4, seed=seed)
        for node in graph:
            graph.nodes[node]["colour"] = 1 + int(torch.rand(1, generator=random) < 0.2)
        for edge in graph.edges:
            graph.edges[edge]["label"] = 1 + int(torch.rand(1, generator=random) < 0.2)
        graphs.append(graph)
    return graphs


def directed() -> list[nx.Graph]:
    """Trees with labels that differ in the two directions of an edge, as fragments joined at attachment points have."""
    random = torch.Generator().manual_seed(4)
    graphs = []
    for seed in range(100):
        tree = nx.random_labeled_tree(seed % 8 + 2, seed=seed).to_directed()
        for edge in tree.edges:
            tree.edges[edge]["label"] = 1 + int(torch.rand(1, generator=random) < 0.3)
        graphs.append(tree)
    return graphs + [nx.cycle_graph(n, create_using=nx.DiGraph) for n in range(3, 10)]


@pytest.mark.parametrize("family", [atlas, regular, rings, coloured, directed])
def test_automorphisms_are_as_many_as_a_search_finds(family: Callable[[], list[nx.Graph]]) -> None:
    graphs = family()
    wanted = torch.tensor([math.log(count(graph)) for graph in graphs])
    assert len(wanted.unique()) > 3
    torch.testing.assert_close(log_automorphisms(*tensors(graphs)), wanted)


@pytest.mark.parametrize("family", [atlas, regular, rings, coloured, directed])
def test_isomorphic_graphs_have_one_canonical_form(family: Callable[[], list[nx.Graph]]) -> None:
    graphs = tensors(family())
    forms = canonical_rows(*graphs)
    for seed in range(5):
        moved = shuffled(*graphs, seed)
        assert torch.equal(canonical_rows(*moved), forms)
        torch.testing.assert_close(log_automorphisms(*moved), log_automorphisms(*graphs))


def test_graphs_that_are_not_isomorphic_have_different_canonical_forms() -> None:
    graphs = atlas()
    assert len(canonical_rows(*tensors(graphs)).unique(dim=0)) == len(graphs) == 462
    graphs = [graph for graph in coloured() if len(graph) <= 5][:60]
    forms = canonical_rows(*tensors(graphs))
    equal = (forms.unsqueeze(0) == forms.unsqueeze(1)).all(2)
    assert int(equal.sum()) > len(graphs)
    for i, j in itertools.combinations(range(len(graphs)), 2):
        alike = nx.is_isomorphic(graphs[i], graphs[j], node_match=operator.eq, edge_match=operator.eq)
        assert bool(equal[i, j]) == alike


@pytest.mark.parametrize("n", range(1, 10))
def test_all_nodes_may_be_alike(n: int) -> None:
    graphs = tensors([nx.complete_graph(n), nx.empty_graph(n)], n)
    torch.testing.assert_close(log_automorphisms(*graphs), torch.full((2,), math.lgamma(n + 1)))


def test_a_canonical_order_is_a_permutation_with_filled_slots_first() -> None:
    colours, pairs = shuffled(*tensors(coloured()), 0)
    order = canonical_order(colours, pairs)
    assert torch.equal(order.sort(1).values, torch.arange(SLOTS).expand_as(order))
    filled = colours.gather(1, order) > 0
    assert torch.equal(filled, filled.sort(dim=1, descending=True, stable=True).values)


@pytest.mark.parametrize("slots", [7, 8])
def test_empty_slots_count_for_nothing(slots: int) -> None:
    graphs = atlas()
    torch.testing.assert_close(log_automorphisms(*tensors(graphs, slots)), log_automorphisms(*tensors(graphs)))


def test_graphs_without_and_with_one_slot() -> None:
    colours, pairs = torch.tensor([[0], [3]]), torch.zeros(2, 1, 1, dtype=torch.int64)
    assert log_automorphisms(colours, pairs).tolist() == [0, 0]
    assert canonical_order(colours, pairs).tolist() == [[0], [0]]
    assert log_automorphisms(torch.zeros(1, 9).long(), torch.zeros(1, 9, 9).long()).tolist() == [0]


def test_a_row_does_not_depend_on_the_others() -> None:
    colours, pairs = tensors(coloured())
    order, sizes = canonical_order(colours, pairs), log_automorphisms(colours, pairs)
    for b in range(0, len(colours), 10):
        assert torch.equal(canonical_order(colours[b : b + 1], pairs[b : b + 1]), order[b : b + 1])
        assert torch.equal(log_automorphisms(colours[b : b + 1], pairs[b : b + 1]), sizes[b : b + 1])


def test_no_value_is_read_back() -> None:
    colours, pairs = (x.to("meta") for x in tensors(atlas()[:3]))
    assert log_automorphisms(colours, pairs).shape == (3,)
    assert canonical_order(colours, pairs).shape == colours.shape


def test_the_hash_is_arithmetic_modulo_two_to_the_64() -> None:
    # Shipped files hold keys made with it: another hash would make every molecule look novel.
    def plain(x: int) -> int:
        x %= 2**64
        for factor in (0x7FB5D329728EA185, 0x9E3779B97F4A7C15, 1):
            x = (x ^ (x >> 32)) * factor % 2**64
        return x - 2**64 if x >= 2**63 else x

    values = [0, 1, -1, 7, 2**62, -(2**63), 2**63 - 1, 123456789123456789]
    assert mix(torch.tensor(values)).tolist() == [plain(x) for x in values]
    assert len(mix(torch.arange(-50_000, 50_000)).unique()) == 100_000
