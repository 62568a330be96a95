"""Random graphs against networkx: what is promised of their edges, and paths counted one by one."""

import math

import networkx as nx
import pytest
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import Generator

import gfn_envs
from gfn_envs import RandomDAG, check_dag, enumerate_dag

SMALL = [
    {"layers": 1, "width": 1},
    {"layers": 1, "width": 7},
    {"layers": 3, "width": 2, "most_parents": 9},
    {"layers": 4, "width": 5, "most_parents": 3, "seed": 2},
    {"layers": 6, "width": 4, "most_parents": 1, "concentration": 5.0},
]


def _network(dag: RandomDAG) -> nx.DiGraph:
    exact = enumerate_dag(dag)
    nodes = exact.states[:, 0]
    return nx.DiGraph(list(zip(nodes[exact.parents].tolist(), nodes[exact.children].tolist(), strict=True)))


@pytest.mark.parametrize("settings", [{}, *SMALL])
def test_the_law_holds(settings: dict) -> None:
    check_dag(RandomDAG(**settings), num_trajectories=32)
    check_dag(RandomDAG(**settings, device="meta"))


@pytest.mark.parametrize("settings", [{}, *SMALL])
def test_every_node_has_a_parent_in_the_layer_before_and_no_more_than_allowed(settings: dict) -> None:
    dag = RandomDAG(**settings)
    graph = _network(dag)
    assert sorted(graph) == list(range(1 + dag.layers * dag.width))
    layer = {node: -(-node // dag.width) for node in graph}
    degrees = set()
    for node in graph:
        before = [layer[node] - layer[parent] for parent in graph.predecessors(node)]
        degrees.add(len(before))
        assert node == 0 or min(before) == 1
        assert all(1 <= step <= 2 for step in before)
        assert len(before) <= settings.get("most_parents", 6)
    assert nx.dag_longest_path_length(graph) == dag.max_steps == dag.layers
    assert dag.num_actions == max(dict(graph.out_degree).values())
    assert dag.num_backward_actions == max(degrees)
    assert dag.ends.tolist() == sorted(node for node in graph if graph.out_degree(node) == 0)


def test_numbers_of_trajectories_are_numbers_of_paths() -> None:
    dag = RandomDAG(5, 4, 3, seed=1)
    graph = _network(dag)
    for node in range(1, 21):
        paths = sum(1 for _ in nx.all_simple_paths(graph, 0, node))
        assert float(dag.log_num_trajectories(torch.tensor([[node]]))) == pytest.approx(math.log(paths), abs=1e-5)


@pytest.mark.parametrize("settings", [{}, *SMALL])
def test_log_z_is_that_of_the_enumeration_and_the_mean_reward_is_about_one(settings: dict) -> None:
    dag = RandomDAG(**settings)
    exact = enumerate_dag(dag)
    assert exact.num_states == dag.nvec[0]
    assert exact.log_z == pytest.approx(dag.log_partition(), abs=1e-6)
    assert exact.log_z == pytest.approx(math.log(len(exact.terminal)), abs=1e-3)


@pytest.mark.parametrize("settings", [{}, *SMALL])
def test_samples_follow_the_target(settings: dict) -> None:
    dag, n = RandomDAG(**settings), 20_000
    exact = enumerate_dag(dag)
    states = dag.sample_target(n, Generator().manual_seed(0))
    assert states is not None
    counts = exact.terminal_rank[exact.index(states)].bincount(minlength=len(exact.terminal))
    common = exact.target * n >= 5
    observed, expected = counts[common].double(), exact.target[common] * n
    # A correct sampler fails this for one seed in 1,000; the seed is fixed.
    expected = expected * observed.sum() / expected.sum()
    assert len(observed) == 1 or stats.chisquare(observed, expected).pvalue > 1e-3


def test_the_uniform_and_the_maximum_entropy_backward_policies_differ() -> None:
    dag = RandomDAG()
    exact = enumerate_dag(dag)
    log_n = dag.log_num_trajectories(exact.states).double()
    maxent, uniform = log_n[exact.parents] - log_n[exact.children], exact.uniform_backward()
    flow = (exact.log_flows(maxent)[exact.children] + maxent - exact.log_z).exp()
    assert float((flow * (maxent - uniform)).sum()) == pytest.approx(0.65, abs=0.01)
    assert (exact.num_states, len(exact.actions), len(exact.terminal)) == (129, 395, 19)


def test_the_seed_decides_graph_and_rewards() -> None:
    one, same, other = (RandomDAG(seed=seed) for seed in (0, 0, 1))
    states = torch.arange(129).unsqueeze(1)
    assert torch.equal(one.log_reward(states), same.log_reward(states))
    assert _network(one).edges == _network(same).edges != _network(other).edges


def test_a_small_concentration_gives_rewards_that_differ_and_are_still_positive() -> None:
    spread = [float(RandomDAG(concentration=c).log_reward(torch.arange(129).unsqueeze(1)).std()) for c in (0.01, 100)]
    assert spread[0] > 10 * spread[1]


def test_a_reward_of_ones_own_leaves_nothing_exact() -> None:
    dag = RandomDAG(2, 3, reward=lambda states: 1.0 + states[:, 0])
    check_dag(dag)
    assert dag.log_partition() is dag.sample_target(3, Generator()) is None
    assert enumerate_dag(dag).log_z == pytest.approx(math.log(sum(1 + int(node) for node in dag.ends)), abs=1e-6)


@pytest.mark.parametrize("reward", ["dirichlet", lambda states: torch.ones(len(states))])
def test_nodes_are_described_and_paths_drawn(reward: object) -> None:
    dag, axes = RandomDAG(2, 3, reward=reward), Figure().subplots()  # type: ignore[arg-type]
    path = torch.tensor([[0], [2], [4]])
    assert dag.describe(path) == ["node 0 (layer 0)", "node 2 (layer 1)", "node 4 (layer 2)"]
    dag.draw(path, axes)
    assert list(axes.lines[-1].get_xdata()) == [0, 1, 2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": 0}, "layers must be an integer of at least 1, got 0"),
        ({"width": 0}, "width must be an integer of at least 1"),
        ({"most_parents": 0}, "most_parents must be an integer of at least 1"),
        ({"layers": 1000, "width": 1000}, r"layers \* width must be less than 100,000, got 1000 \* 1000"),
        ({"concentration": 0}, "concentration must be a positive, finite number, got 0"),
        ({"seed": 0.5}, "seed must be an integer of at least 0"),
        ({"reward": "uniform"}, "Unknown reward 'uniform'"),
    ],
)
def test_bad_arguments_are_named_with_their_value(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomDAG(**settings)


def test_it_is_registered() -> None:
    assert isinstance(gfn_envs.make("gfn/RandomDAG-v0"), RandomDAG)
