"""Factor graphs against plain loops over all assignments, and the random graphs against networkx."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import gfn_envs
from gfn_envs import FactorGraph, check_dag, enumerate_dag
from gfn_envs.envs.factor_graph.instances import MAX_CLIQUE, chain

RANDOM = np.random.default_rng(0)
UNEVEN = {
    "factors": [
        ((0,), RANDOM.standard_normal(2)),
        ((2, 0), RANDOM.standard_normal((4, 2))),
        ((1, 3, 2), RANDOM.standard_normal((3, 1, 4))),
        ((3, 1), RANDOM.standard_normal((1, 3))),
    ]
}
SMALL: dict[str, dict[str, Any]] = {
    "chain": {"variables": 4, "values": 3},
    "permuted_chain": {"factors": "permuted_chain", "variables": 4, "values": 3, "seed": 2},
    "factor_graph1": {"factors": "factor_graph1", "variables": 5, "values": 2, "seed": 1},
    "factor_graph2": {"factors": "factor_graph2", "variables": 6},
    "uneven": UNEVEN,
}


def _assignments(sizes: Sequence[int]) -> Tensor:
    """Return all terminal states."""
    return torch.tensor(list(itertools.product(*(range(1, size + 1) for size in sizes))))


def _plain_sum(dag: FactorGraph, state: list[int]) -> float:
    """Return the sum of the factors all of whose variables are set."""
    total = 0.0
    for variables, table in dag.factors:
        values = [state[i] - 1 for i in variables]
        if min(values) >= 0:
            total += float(table[tuple(values)])
    return total


@pytest.mark.parametrize("name", SMALL)
def test_the_law_holds(name: str) -> None:
    check_dag(FactorGraph(**SMALL[name]))
    check_dag(FactorGraph(**SMALL[name], device="meta"))


@pytest.mark.parametrize("name", SMALL)
def test_log_r_and_the_potential_are_sums_of_the_decided_factors(name: str) -> None:
    dag = FactorGraph(**SMALL[name])
    states = enumerate_dag(dag).states
    wanted = torch.tensor([_plain_sum(dag, state) for state in states.tolist()], dtype=torch.float64)
    torch.testing.assert_close(dag.log_weights(states), wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(dag.log_potential(states), wanted.float())
    torch.testing.assert_close(dag.log_reward(states), wanted.float())
    assert len(wanted.unique()) > 5


@pytest.mark.parametrize("name", SMALL)
def test_log_z_by_elimination_is_the_sum_over_all_assignments(name: str) -> None:
    dag = FactorGraph(**SMALL[name])
    states = _assignments(dag.sizes)
    log_z = dag.log_partition()
    assert log_z == pytest.approx(float(dag.log_weights(states).logsumexp(0)), abs=1e-12)
    exact = enumerate_dag(dag)
    assert log_z == pytest.approx(exact.log_z, abs=1e-6)
    assert exact.num_states == math.prod(size + 1 for size in dag.sizes)
    assert len(exact.terminal) == math.prod(dag.sizes)


@pytest.mark.parametrize("name", SMALL)
def test_samples_of_the_target_have_its_frequencies(name: str) -> None:
    dag, n = FactorGraph(**SMALL[name]), 20_000
    exact = enumerate_dag(dag)
    samples = dag.sample_target(n, torch.Generator().manual_seed(0))
    counts = torch.bincount(exact.terminal_rank[exact.index(samples)], minlength=len(exact.terminal))
    expected = n * exact.target
    often = expected >= 5
    seen, wanted = [*counts[often].tolist(), int(counts[~often].sum())], [*expected[often].tolist()]
    wanted.append(n - sum(wanted))
    if wanted[-1] < 5:
        seen[-2:], wanted[-2:] = [sum(seen[-2:])], [sum(wanted[-2:])]
    # A right sampler stays above this with probability 0.999.
    assert stats.chisquare(seen, wanted).pvalue > 1e-3


def test_each_order_of_the_variables_is_a_trajectory() -> None:
    dag = FactorGraph(**UNEVEN)
    exact = enumerate_dag(dag)
    wanted = [math.log(math.factorial(sum(value > 0 for value in row))) for row in exact.states.tolist()]
    torch.testing.assert_close(dag.log_num_trajectories(exact.states), torch.tensor(wanted))


def test_the_default_has_the_published_size() -> None:
    exact = enumerate_dag(gfn_envs.make("gfn/FactorGraph-v0"))
    assert (exact.num_states, len(exact.terminal)) == (15_625, 4_096)


def test_variables_may_have_different_numbers_of_values() -> None:
    dag = FactorGraph(**UNEVEN)
    assert dag.sizes == (2, 3, 4, 1)
    assert dag.nvec == (3, 4, 5, 2)
    assert (dag.num_actions, dag.num_backward_actions, dag.max_steps) == (16, 4, 4)
    mask = dag.action_mask(torch.tensor([[0, 2, 0, 0]])).int().tolist()
    assert mask == [[1, 1, 0, 0] + [0] * 4 + [1, 1, 1, 1] + [1, 0, 0, 0]]
    assert dag.describe(torch.tensor([[2, 0, 4, 1]])) == ["1 . 3 0"]


@pytest.mark.parametrize(
    "factors",
    [
        {(0, 1): [[1.0, 2.0], [3.0, 5.0]], 1: [0.5, 0.25]},
        [[[0, 1], [[1, 2], [3, 5]]], [[1], [0.5, 0.25]]],
        [((1, 0), torch.tensor([[1.0, 3.0], [2.0, 5.0]])), (np.array([1]), np.array([0.5, 0.25]))],
    ],
)
def test_factors_of_ones_own_are_written_in_several_ways(factors: Any) -> None:
    log_reward = FactorGraph(factors).log_reward(_assignments([2, 2]))
    torch.testing.assert_close(log_reward, torch.tensor([1.5, 2.25, 3.5, 5.25]))


def test_the_chain_repels_neighbours_by_the_circular_distance() -> None:
    dag = FactorGraph("chain", 5, 4)
    binary = [(variables, table) for variables, table in dag.factors if len(variables) == 2]
    assert [variables for variables, _ in binary] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    for _, table in binary:
        assert table.tolist() == [[2.5 * min(abs(a - b), 4 - abs(a - b)) for b in range(4)] for a in range(4)]
    assert [variables for variables, _ in dag.factors if len(variables) == 1] == [(i,) for i in range(5)]


def test_unary_factors_of_chains_have_the_covariance_of_the_gaussian_process() -> None:
    random = np.random.default_rng(0)
    draws = np.array([[table for _, table in chain(2, 2, random)[:2]] for _ in range(4000)])
    covariance = np.cov(draws.reshape(4000, 4).T)
    near, far = 0.5 * math.exp(-0.5), 0.5 * math.exp(-1)
    wanted = [[0.5, near, near, far], [near, 0.5, far, near], [near, far, 0.5, near], [far, near, near, 0.5]]
    # Four standard errors of a variance of 0.5 from 4,000 draws are 0.045.
    np.testing.assert_allclose(covariance, wanted, atol=0.045)


def test_the_permuted_chain_is_a_path_with_rows_of_probabilities() -> None:
    dag = FactorGraph("permuted_chain", 6, 4, seed=3)
    graph = nx.Graph([variables for variables, _ in dag.factors])
    assert nx.is_isomorphic(graph, nx.path_graph(6))
    assert [variables for variables, _ in dag.factors] != [(i, i + 1) for i in range(5)]
    for _, table in dag.factors:
        np.testing.assert_allclose(table.sum(1), 1)
        assert (table > 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_the_first_random_graph_has_a_factor_for_each_maximal_clique(seed: int) -> None:
    dag = FactorGraph("factor_graph1", 8, 2, seed=seed)
    graph = nx.Graph([pair for variables, _ in dag.factors for pair in itertools.combinations(variables, 2)])
    assert nx.is_connected(graph)
    assert {frozenset(clique) for clique in nx.find_cliques(graph)} == {frozenset(v) for v, _ in dag.factors}
    assert max(len(variables) for variables, _ in dag.factors) <= MAX_CLIQUE


@pytest.mark.parametrize("seed", range(5))
def test_the_second_random_graph_has_pairs_that_differ_and_cliques_that_vote(seed: int) -> None:
    dag = FactorGraph("factor_graph2", 10, seed=seed)
    votes, pairs = dag.factors[:-5], dag.factors[-5:]
    assert [(variables, table.tolist()) for variables, table in pairs] == [
        ((2 * i, 2 * i + 1), [[0, 2], [2, 0]]) for i in range(5)
    ]
    graph = nx.Graph([(a // 2, b // 2) for variables, _ in votes for a, b in itertools.combinations(variables, 2)])
    assert nx.is_connected(graph)
    assert set(graph) == set(range(5))
    for variables, table in votes:
        for values in itertools.product((0, 1), repeat=len(variables)):
            assert table[values] == (2.0 if 2 * sum(values) >= len(values) else 0.0)


@pytest.mark.parametrize("name", ["chain", "permuted_chain", "factor_graph1", "factor_graph2"])
def test_a_seed_stands_for_one_instance(name: str) -> None:
    one, same, other = (FactorGraph(name, seed=seed) for seed in (0, 0, 1))
    for (a, x), (b, y) in zip(one.factors, same.factors, strict=True):
        assert a == b
        assert np.array_equal(x, y)
    differ = [a[0] != b[0] or not np.array_equal(a[1], b[1]) for a, b in zip(one.factors, other.factors, strict=False)]
    assert any(differ) or len(one.factors) != len(other.factors)


def test_sums_that_are_too_large_are_refused_and_nothing_else_is() -> None:
    pairs = itertools.combinations(range(30), 2)
    dag = FactorGraph([(pair, np.eye(3)) for pair in pairs])
    assert dag.log_partition() is dag.sample_target(1, torch.Generator()) is None
    with pytest.raises(ValueError, match="a table of more than 16,777,216 entries: too large"):
        dag.exact_sums()
    assert dag.log_reward(torch.ones(1, 30, dtype=torch.int64)).tolist() == [30 * 29 / 2]


def _by_sum(states: Tensor) -> Tensor:
    return 1 + states.sum(1).float()


def test_a_reward_of_ones_own_takes_the_place_of_the_factors() -> None:
    dag = FactorGraph("chain", 3, 2, reward=_by_sum)
    check_dag(dag)
    exact = enumerate_dag(dag)
    complete = exact.states[exact.terminal]
    torch.testing.assert_close(dag.log_reward(complete), (1 + complete.sum(1).float()).log())
    part = exact.states[~dag.is_terminal(exact.states)]
    assert torch.equal(dag.log_potential(part), torch.zeros(len(part)))
    assert dag.log_partition() is dag.sample_target(1, torch.Generator()) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"factors": "chains"}, "Unknown factors 'chains'. Known, closest first: chain, "),
        ({"factors": []}, "factors must be a list of pairs .* that is not empty"),
        ({"factors": 3}, "factors must be a list of pairs"),
        ({"factors": [((0, 1), [0.0, 1.0])]}, r"one axis for each .* variables \[0, 1\] and a table of shape \[2\]"),
        ({"factors": [((0, 0), np.eye(2))]}, "all different"),
        ({"factors": [((), 1.0)]}, "one axis for each"),
        ({"factors": [((0,), [0.0, math.nan])]}, "the table of factor 0 must hold finite logs, got nan"),
        ({"factors": [((0,), [-math.inf, 0.0])]}, "must hold finite logs, got -inf"),
        ({"factors": [((-1,), [0.0])]}, "a variable must be an integer of at least 0, got -1"),
        ({"factors": [((0.5,), [0.0])]}, r"a variable must be an integer of at least 0, got 0\.5"),
        ({"factors": [((0,), [[0.0], [0.0, 1.0]])]}, r"factor 0 must be a pair \(variables, table\)"),
        ({"factors": [(0,)]}, "factor 0 must be a pair"),
        ({"factors": [((0,), [0.0, 1.0]), ((0, 1), np.ones((3, 2)))]}, "variable 0 has 2 values in factor 0 and 3 in"),
        ({"factors": [((0, 2), np.eye(2))]}, "variable 1 is in no factor"),
        ({"factors": [((0,), [])]}, "variable 0 has no value in factor 0"),
        ({"factors": [((0,), [0, 1])], "seed": 1}, "variables, values and seed belong to named graphs"),
        ({"factors": [((0,), [0, 1])], "values": 2}, "variables, values and seed belong to named graphs"),
        ({"factors": [((0,), [0, 1])], "variables": 1}, "variables, values and seed belong to named graphs"),
        ({"variables": 1}, "variables must be an integer of at least 2, got 1"),
        ({"values": 1}, "values must be an integer of at least 2, got 1"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"factors": "factor_graph2", "variables": 7}, "variables must be even and values 2, got 7, 2"),
        ({"factors": "factor_graph2", "values": 4}, "variables must be even and values 2, got 6, 4"),
        ({"reward": "factor"}, "Unknown reward 'factor'. Known, closest first: factors"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FactorGraph(**arguments)


@pytest.mark.parametrize("factors", ["permuted_chain", "factor_graph1"])
def test_a_graph_of_very_many_variables_is_built_and_summed(factors: str) -> None:
    dag = FactorGraph(factors, variables=1500, values=2)
    if factors == "permuted_chain":
        assert math.isfinite(dag.log_partition() or math.nan)
    else:
        assert dag.log_partition() is None  # its sums take too large tables


def test_more_variables_than_can_be_built_are_refused() -> None:
    with pytest.raises(ValueError, match="variables must be at most 100,000, got 1,000,000"):
        FactorGraph("permuted_chain", variables=10**6)
