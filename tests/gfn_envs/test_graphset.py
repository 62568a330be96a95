"""Sets of nodes against networkx and plain loops over all subsets."""

import itertools
import json
import math

import networkx as nx
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy.stats import chi2

import gfn_envs
from gfn_envs import GraphSet, check_dag, enumerate_dag
from gfn_envs.envs.graphset.dag import PROBLEMS
from gfn_envs.envs.graphset.graphs import RANDOM

GRAPHS = {
    "petersen": nx.petersen_graph(),
    "path": nx.path_graph(7),
    "star": nx.star_graph(6),
    "triangles": nx.disjoint_union(nx.complete_graph(3), nx.complete_graph(3)),
    "lonely": nx.Graph([(0, 1), (2, 3), (3, 4)]),
    "random": nx.gnp_random_graph(10, 0.35, seed=3),
}
GRAPHS["lonely"].add_node("x")


def holds(problem: str, graph: nx.Graph, nodes: set) -> bool:
    """Tell whether a set of nodes is what the problem asks for, by networkx."""
    part = graph.subgraph(nodes)
    if problem == "dominating_set":
        return nx.is_dominating_set(graph, nodes)
    wanted = 0 if problem == "independent_set" else len(nodes) * (len(nodes) - 1) // 2
    return part.number_of_edges() == wanted


def plain_sets(problem: str, graph: nx.Graph) -> tuple[set[frozenset], set[frozenset]]:
    """Return all sets of the problem, and those that no step changes, by a loop over all subsets."""
    subsets = [frozenset(s) for k in range(len(graph) + 1) for s in itertools.combinations(graph.nodes, k)]
    every = {s for s in subsets if holds(problem, graph, s)}
    step = frozenset.__sub__ if problem == "dominating_set" else frozenset.__or__
    return every, {s for s in every if not any(step(s, {node}) in every - {s} for node in graph.nodes)}


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_states_objects_and_log_z_equal_loops_over_all_subsets(problem: str, name: str) -> None:
    graph = GRAPHS[name]
    dag = GraphSet(problem, graph, beta=0.7)
    exact = enumerate_dag(dag)
    every, ends = plain_sets(problem, graph)
    assert {frozenset(names) for names in dag.members(exact.states)} == every
    assert {frozenset(names) for names in dag.members(exact.states[exact.terminal])} == ends
    sign = -1 if problem == "dominating_set" else 1
    log_z = math.log(math.fsum(math.exp(sign * 0.7 * len(nodes)) for nodes in ends))
    assert exact.log_z == pytest.approx(log_z, abs=1e-6)
    assert dag.log_partition() == pytest.approx(log_z, abs=1e-12)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", RANDOM)
def test_numbers_of_objects_are_those_that_networkx_counts(name: str, seed: int) -> None:
    for problem in ("independent_set", "clique"):
        dag = GraphSet(problem, name, nodes=18, seed=seed)
        graph = nx.from_numpy_array(dag.adjacent)
        cliques = list(nx.find_cliques(nx.complement(graph) if problem == "independent_set" else graph))
        exact = enumerate_dag(dag)
        assert {frozenset(names) for names in dag.members(exact.states[exact.terminal])} == set(map(frozenset, cliques))
        assert dag.log_partition() == pytest.approx(math.log(sum(math.exp(len(c)) for c in cliques)), abs=1e-12)
        assert exact.num_states == 1 + sum(
            1 for _ in nx.enumerate_all_cliques(nx.complement(graph) if problem == "independent_set" else graph)
        )


def test_sets_of_24_nodes_are_listed() -> None:
    dag = GraphSet("clique", nodes=24, degree=12, seed=5)
    cliques = [len(clique) for clique in nx.find_cliques(nx.from_numpy_array(dag.adjacent))]
    assert dag.log_partition() == pytest.approx(math.log(sum(math.exp(size) for size in cliques)), abs=1e-12)
    assert dag.num_modes == cliques.count(max(cliques))


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_law_holds(problem: str) -> None:
    for graph in ("erdos_renyi", "barabasi_albert", GRAPHS["petersen"]):
        check_dag(GraphSet(problem, graph), num_trajectories=32)
    check_dag(GraphSet(problem, nodes=40), num_trajectories=16)
    check_dag(GraphSet(problem, device="meta"))


@pytest.mark.parametrize("problem", PROBLEMS)
def test_numbers_of_trajectories_equal_counting(problem: str) -> None:
    dag = GraphSet(problem, GRAPHS["random"])
    exact = enumerate_dag(dag)
    counts = torch.zeros(exact.num_states, dtype=torch.float64)
    counts[0] = 1
    for parent, child in sorted(zip(exact.parents.tolist(), exact.children.tolist(), strict=True)):
        counts[child] += counts[parent]
    torch.testing.assert_close(dag.log_num_trajectories(exact.states), counts.log().float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_potential_is_log_r_up_to_a_constant_and_grows_by_beta_a_step(problem: str) -> None:
    dag = GraphSet(problem, beta=2.5)
    exact = enumerate_dag(dag)
    grown = dag.log_potential(exact.states[exact.children]) - dag.log_potential(exact.states[exact.parents])
    torch.testing.assert_close(grown, torch.full_like(grown, 2.5))
    ends = exact.states[exact.terminal]
    assert len((dag.log_potential(ends) - dag.log_reward(ends)).unique()) == 1


@pytest.mark.parametrize("problem", PROBLEMS)
def test_modes_are_the_best_sets(problem: str) -> None:
    dag = GraphSet(problem, GRAPHS["random"])
    exact = enumerate_dag(dag)
    hit = dag.modes_hit(exact.states[exact.terminal])
    assert torch.equal(hit.any(1), exact.log_reward == exact.log_reward.max())
    assert hit.sum(0).tolist() == [1] * dag.num_modes


@pytest.mark.parametrize("problem", PROBLEMS)
def test_samples_follow_the_target(problem: str) -> None:
    dag = GraphSet(problem)
    exact = enumerate_dag(dag)
    samples = dag.sample_target(20_000, torch.Generator().manual_seed(0))
    assert samples is not None
    seen = torch.bincount(exact.terminal_rank[exact.index(samples)], minlength=len(exact.terminal))
    expected = exact.target * len(samples)
    assert float(expected.min()) > 5
    statistic = float(((seen - expected) ** 2 / expected).sum())
    assert chi2.sf(statistic, len(expected) - 1) > 1e-3


def test_a_graph_written_in_json_is_the_graph_of_networkx() -> None:
    graph = GRAPHS["petersen"]
    arguments = json.loads(json.dumps({"graph": list(graph.edges), "problem": "dominating_set"}))
    dag = gfn_envs.make("gfn/GraphSet-v0", **arguments)
    assert isinstance(dag, GraphSet)
    assert (dag.adjacent == nx.to_numpy_array(graph).astype(bool)).all()
    assert GraphSet(graph=[[0, 1]], nodes=4).state_dim == 4
    assert GraphSet(graph=[], nodes=2).log_partition() == pytest.approx(2)


def test_names_of_nodes_are_kept() -> None:
    dag = GraphSet("clique", nx.Graph([("a", "b"), ("b", "c"), ("a", "c"), ("c", "d")]))
    best = enumerate_dag(dag).states[-1:]
    assert dag.members(best) == [["a", "b", "c"]]
    assert dag.describe(best) == ["{a, b, c}"]


@pytest.mark.parametrize("name", RANDOM)
def test_equal_seeds_give_equal_graphs_of_about_the_degree(name: str) -> None:
    one, again, other = (GraphSet(graph=name, nodes=200, degree=6, seed=seed).adjacent for seed in (4, 4, 5))
    assert (one == again).all()
    assert (one != other).any()
    assert (one == one.T).all()
    assert not one.diagonal().any()
    assert one.sum(1).mean() == pytest.approx(6, abs=1)


def test_a_barabasi_albert_graph_has_the_edges_of_its_construction_and_hubs() -> None:
    adjacent = GraphSet(graph="barabasi_albert", nodes=200, degree=4).adjacent
    assert adjacent.sum() // 2 == 2 + 197 * 2
    assert adjacent.sum(1).max() > 15
    assert nx.is_connected(nx.from_numpy_array(adjacent))
    assert GraphSet(graph="barabasi_albert", nodes=1, degree=0).state_dim == 1


def test_a_reward_of_ones_own_decides_alone() -> None:
    dag = GraphSet(graph=GRAPHS["path"], reward=lambda states: 1 + states[:, 0])
    check_dag(dag)
    exact = enumerate_dag(dag)
    _, ends = plain_sets("independent_set", GRAPHS["path"])
    assert exact.log_z == pytest.approx(math.log(sum(1 + (0 in nodes) for nodes in ends)), abs=1e-6)
    assert (dag.log_partition(), dag.num_modes, dag.metrics) == (None, 0, ())
    assert dag.sample_target(3, torch.Generator()) is None
    assert float(dag.log_potential(exact.states).abs().max()) == 0


def test_above_24_nodes_nothing_is_listed() -> None:
    dag = GraphSet(nodes=25)
    assert (dag.log_partition(), dag.num_modes, dag.sample_target(1, torch.Generator())) == (None, 0, None)
    assert dag.modes_hit(dag.reset(2)).shape == (2, 0)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_draw_shows_nodes_and_edges(problem: str) -> None:
    dag, axes = GraphSet(problem, GRAPHS["petersen"]), Figure().subplots()
    dag.draw(dag.reset(1), axes)
    assert len(axes.lines) == 15
    assert [text.get_text() for text in axes.texts] == [str(i) for i in range(10)]
    assert axes.get_title() == ("10 nodes" if problem == "dominating_set" else "0 nodes")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"problem": "cliques"}, "Unknown problem 'cliques'. Known, closest first: clique, "),
        ({"graph": "erdos"}, "Unknown graph 'erdos'. Known, closest first: erdos_renyi, barabasi_albert"),
        ({"graph": 3}, "graph must be one of erdos_renyi, barabasi_albert, a list of pairs .*; got 3"),
        ({"graph": [[0, 1], [1, 2, 3]]}, r"an edge is a pair of node numbers from 0 on, got \[1, 2, 3\]"),
        ({"graph": [[0, -1]]}, r"an edge is a pair of node numbers from 0 on, got \[0, -1\]"),
        ({"graph": [["a", "b"]]}, r"an edge is a pair of node numbers from 0 on, got \['a', 'b'\]"),
        ({"graph": [[0, 1.5]]}, r"an edge is a pair of node numbers from 0 on, got \[0, 1.5\]"),
        ({"graph": [[0, 1], [2, 2]]}, "graph has a loop at node 2"),
        ({"graph": [[0, 5]], "nodes": 4}, "graph has an edge at node 5, but nodes = 4"),
        ({"graph": []}, "graph has no node"),
        ({"graph": nx.DiGraph([(0, 1)])}, "graph is directed"),
        ({"graph": nx.path_graph(3), "nodes": 4}, "nodes = 4 differs from the 3 nodes of the graph"),
        ({"problem": "dominating_set", "graph": [], "nodes": 3}, "a dominating set of a graph without edges"),
        ({"nodes": 0}, "nodes must be an integer of at least 1, got 0"),
        ({"degree": -1}, r"degree must be a number in 0 .. nodes - 1 = 15, got -1"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"beta": 0}, "beta must be a positive, finite number, got 0"),
        ({"beta": math.inf}, "beta must be a positive, finite number, got inf"),
        ({"beta": 2, "reward": "math:gcd"}, "beta belongs to the reward size: .* math:gcd"),
        ({"reward": "sizes"}, "Unknown reward 'sizes'. Known, closest first: size"),
    ],
)
def test_bad_arguments_are_named_with_their_value(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GraphSet(**arguments)


def test_a_graph_may_hold_numpy_integers() -> None:
    assert GraphSet(graph=np.array([[0, 1], [1, 2]])).state_dim == 3
