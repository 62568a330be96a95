"""Bayesian networks against scipy's densities, networkx, brute force over all graphs, and sums by another formula."""

import decimal
import itertools
import math
from decimal import Decimal
from pathlib import Path

import gymnasium as gym
import networkx as nx
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import Generator, Tensor

import gfn_envs
from gfn_envs import BayesNet, check_dag, enumerate_dag
from gfn_envs.envs.bayesnet.data import SACHS_NAMES, Settings, generated, sachs
from gfn_envs.envs.bayesnet.posterior import Posterior
from gfn_envs.envs.bayesnet.scores import SCORES, best_total, log_minors, parent_sets

COUNTS = {1: 1, 2: 3, 3: 25, 4: 543, 5: 29_281, 6: 3_781_503, 7: 1_138_779_265}
"""Acyclic graphs on labelled nodes (OEIS A003024)."""

REWARDS = list(SCORES)
SHARED = Path(__file__).parents[3] / "shared" / "data" / "sachs_observational.csv"


def _graphs(d: int) -> Tensor:
    """Return every acyclic graph on `d` nodes, int64 `[G, d, d]`, by networkx."""
    pairs = list(itertools.permutations(range(d), 2))
    found = []
    for bits in itertools.product((0, 1), repeat=len(pairs)):
        edges = list(itertools.compress(pairs, bits))
        if len(edges) <= d * (d - 1) // 2 and nx.is_directed_acyclic_graph(nx.DiGraph(edges)):
            graph = torch.zeros(d, d, dtype=torch.int64)
            for i, j in edges:
                graph[i, j] = 1
            found.append(graph)
    return torch.stack(found)


GRAPHS = {d: _graphs(d) for d in (2, 3, 4)}


def _random_local(d: int, seed: int = 0, spread: float = 3.0) -> Tensor:
    return torch.randn(d, 2**d, generator=Generator().manual_seed(seed), dtype=torch.float64) * spread


def _totals(local: Tensor, graphs: Tensor) -> Tensor:
    """Return the sum of `local [d, 2^d]` over the nodes of each of `graphs [G, d, d]`, one family at a time."""
    totals = []
    for graph in graphs.tolist():
        sets = [sum(row[j] << i for i, row in enumerate(graph)) for j in range(len(local))]
        totals.append(sum(float(local[j, s]) for j, s in enumerate(sets)))
    return torch.tensor(totals, dtype=torch.float64)


# --- Scores -----------------------------------------------------------------------------------------------------------


def _log_evidence(data: np.ndarray, d: int) -> float:
    """Return the log marginal likelihood of some of d variables under a normal-Wishart prior.

    The predictive of each observation in turn is a multivariate t, by the textbook updates of the conjugate prior.
    """
    size = data.shape[1]
    if size == 0:
        return 0.0
    kappa, nu, mean = 1.0, d + 2.0 - (d - size), np.zeros(size)
    psi = np.eye(size) * kappa * (d + 2.0 - d - 1) / (kappa + 1)
    total = 0.0
    for x in data:
        dof = nu - size + 1
        total += stats.multivariate_t.logpdf(x, mean, psi * (kappa + 1) / (kappa * dof), dof)
        psi = psi + kappa / (kappa + 1) * np.outer(x - mean, x - mean)
        mean = (kappa * mean + x) / (kappa + 1)
        kappa, nu = kappa + 1, nu + 1
    return total


def _families(d: int) -> list[tuple[int, list[int]]]:
    return [(j, [i for i in range(d) if s >> i & 1]) for j in range(d) for s in range(2**d) if not s >> j & 1]


def test_bge_is_the_ratio_of_two_evidences_under_the_normal_wishart_prior() -> None:
    data = generated(4, Settings(1.0, 12, 3, 0.1)).values + 0.7
    scores = SCORES["bge"](torch.from_numpy(data), 0.1)
    for j, parents in _families(4):
        wanted = _log_evidence(data[:, [*parents, j]], 4) - _log_evidence(data[:, parents], 4)
        assert float(scores[j, sum(1 << i for i in parents)]) == pytest.approx(wanted, abs=1e-10)


@pytest.mark.parametrize("variance", [0.1, 0.7])
def test_the_linear_gaussian_score_is_the_density_of_a_normal_distribution(variance: float) -> None:
    data = generated(4, Settings(1.0, 15, 3, 0.1)).values
    scores = SCORES["linear_gaussian"](torch.from_numpy(data), variance)
    for j, parents in _families(4):
        x = data[:, parents]
        wanted = stats.multivariate_normal.logpdf(data[:, j], np.zeros(15), variance * np.eye(15) + x @ x.T)
        assert float(scores[j, sum(1 << i for i in parents)]) == pytest.approx(wanted, abs=1e-10)


@pytest.mark.parametrize("reward", REWARDS)
def test_the_score_of_a_graph_without_edges_is_that_of_independent_variables(reward: str) -> None:
    dag = BayesNet(3, reward=reward)
    wanted = {
        "bge": sum(_log_evidence(dag.values[:, [j]].numpy(), 3) for j in range(3)),
        "linear_gaussian": stats.norm.logpdf(dag.values.numpy(), scale=math.sqrt(0.1)).sum(),
    }
    assert float(dag.log_likelihood(dag.reset(1))) == pytest.approx(wanted[reward], abs=1e-9)


def test_minors_are_the_determinants_of_the_submatrices() -> None:
    root = torch.randn(5, 9, generator=Generator().manual_seed(0), dtype=torch.float64)
    matrix = root @ root.T
    found = log_minors(matrix)
    for s in range(32):
        rows = [i for i in range(5) if s >> i & 1]
        assert float(found[s]) == pytest.approx(np.linalg.slogdet(matrix[rows][:, rows].numpy())[1], abs=1e-12)


def _markov_class(graph: list[list[int]]) -> tuple:
    """Return the skeleton and the v-structures of a graph: equal exactly for Markov-equivalent graphs."""
    d = len(graph)
    joined = frozenset(frozenset((i, j)) for i in range(d) for j in range(d) if graph[i][j])
    colliders = frozenset(
        (frozenset((i, k)), j)
        for i, k in itertools.combinations(range(d), 2)
        for j in range(d)
        if graph[i][j] and graph[k][j] and frozenset((i, k)) not in joined
    )
    return joined, colliders


def test_markov_equivalent_graphs_score_alike_by_bge_and_not_by_the_other_score() -> None:
    classes: dict[tuple, list[int]] = {}
    for row, graph in enumerate(GRAPHS[4].tolist()):
        classes.setdefault(_markov_class(graph), []).append(row)
    assert len(classes) == 185
    spread = {}
    for reward in REWARDS:
        dag = BayesNet(4, reward=reward, edges_per_node=1.5)
        found = dag.log_likelihood(dag.from_adjacency(GRAPHS[4]))
        spread[reward] = max(float(found[rows].max() - found[rows].min()) for rows in classes.values())
    assert spread["bge"] < 1e-10
    assert spread["linear_gaussian"] > 1


@pytest.mark.parametrize("reward", REWARDS)
def test_the_best_graph_has_reward_1_and_the_log_of_the_reward_is_the_score_less_a_constant(reward: str) -> None:
    dag = BayesNet(4, reward=reward)
    states = dag.from_adjacency(GRAPHS[4])
    scores, log_reward = dag.log_likelihood(states), dag.log_reward(states)
    assert dag.log_constant == pytest.approx(float(scores.max()), abs=1e-10)
    assert float(log_reward.max()) == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(log_reward.double(), scores - dag.log_constant, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("d", [2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_the_best_total_is_the_maximum_over_all_graphs(d: int, seed: int) -> None:
    local = _random_local(d, seed)
    assert best_total(local) == pytest.approx(float(_totals(local, GRAPHS[d]).max()), abs=1e-12)


# --- The exact posterior ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("d", "count"), COUNTS.items())
def test_equal_weights_count_the_acyclic_graphs(d: int, count: int) -> None:
    assert math.exp(Posterior(torch.zeros(d, 2**d)).log_z) == pytest.approx(count, rel=1e-12)


@pytest.mark.parametrize("d", [2, 3, 4])
@pytest.mark.parametrize("spread", [1.0, 300.0])
def test_log_z_and_the_probabilities_of_parents_and_edges_equal_sums_over_all_graphs(d: int, spread: float) -> None:
    local = _random_local(d, spread=spread)
    exact, totals = Posterior(local), _totals(local, GRAPHS[d])
    assert exact.log_z == pytest.approx(float(totals.logsumexp(0)), abs=1e-12)
    probability = totals.softmax(0)
    edges = (GRAPHS[d] * probability.view(-1, 1, 1)).sum(0)
    torch.testing.assert_close(exact.edges, edges, rtol=0, atol=1e-12)
    torch.testing.assert_close(exact.parents.sum(1), torch.ones(d, dtype=torch.float64), rtol=0, atol=1e-12)
    sets = (GRAPHS[d] << torch.arange(d).unsqueeze(1)).sum(1)
    for j in range(d):
        wanted = torch.zeros(2**d, dtype=torch.float64).index_add(0, sets[:, j], probability)
        torch.testing.assert_close(exact.parents[j], wanted, rtol=0, atol=1e-12)


def _log_z_by_sinks(local: Tensor) -> float:
    """Return log Z by inclusion and exclusion over the nodes without children, with 80 digits, as its terms cancel."""
    d = len(local)
    with decimal.localcontext() as context:
        context.prec = 80
        totals = [[Decimal(value).exp() for value in row] for row in local.tolist()]
        for row in totals:
            for i, s in itertools.product(range(d), range(2**d)):
                if s >> i & 1:
                    row[s] += row[s ^ 1 << i]
        z = [Decimal(1)]
        for nodes in range(1, 2**d):
            total, sinks = Decimal(0), nodes
            while sinks:
                rest, term = nodes & ~sinks, z[nodes & ~sinks]
                for j in range(d):
                    if sinks >> j & 1:
                        term *= totals[j][rest]
                total += term if sinks.bit_count() % 2 else -term
                sinks = sinks - 1 & nodes
            z.append(total)
        return float(z[-1].ln())


@pytest.mark.parametrize("d", [5, 6, 7])
def test_log_z_equals_inclusion_and_exclusion_over_sinks(d: int) -> None:
    local = _random_local(d, spread=20.0)
    assert Posterior(local).log_z == pytest.approx(_log_z_by_sinks(local), abs=1e-12)


@pytest.mark.slow
def test_log_z_of_sachs_equals_inclusion_and_exclusion_over_sinks() -> None:
    dag = BayesNet(data="sachs")
    scores = SCORES["bge"](dag.values, 0.1)
    assert dag.log_partition() == pytest.approx(_log_z_by_sinks(scores - scores[:, :1]) + dag._of_empty, abs=1e-9)


def _chi_square(counts: Tensor, probability: Tensor, n: int) -> float:
    """Return the p-value of `counts` under `probability`, rare outcomes taken together."""
    common = probability * n >= 5
    expected = torch.cat([probability[common], probability[~common].sum(0, keepdim=True)]) * n
    observed = torch.cat([counts[common], counts[~common].sum(0, keepdim=True)]).double()
    keep = expected > 0
    return float(stats.chisquare(observed[keep], expected[keep] * observed[keep].sum() / expected[keep].sum()).pvalue)


@pytest.mark.parametrize("d", [2, 3, 4])
def test_samples_follow_the_posterior(d: int) -> None:
    local, n = _random_local(d, spread=1.0), 20_000
    graphs = Posterior(local).sample(n, Generator().manual_seed(1))
    keys = (GRAPHS[d].flatten(1) << torch.arange(d * d)).sum(1)
    drawn = (graphs.flatten(1) << torch.arange(d * d)).sum(1)
    assert torch.isin(drawn, keys).all()
    counts = (drawn.unsqueeze(1) == keys).sum(0)
    # A correct sampler fails this for one seed in 1,000; the seed is fixed.
    assert _chi_square(counts, _totals(local, GRAPHS[d]).softmax(0), n) > 1e-3


def test_samples_of_sachs_are_acyclic_and_have_the_exact_edge_probabilities() -> None:
    dag, n = BayesNet(data="sachs"), 2000
    states = dag.sample_target(n, Generator().manual_seed(0))
    assert states is not None
    assert dag.posterior is not None
    graphs = dag.adjacency(states)
    assert torch.equal(dag.from_adjacency(graphs), states)
    exact = dag.posterior.edges
    error = (graphs.double().mean(0) - exact).abs() / (exact * (1 - exact) / n + 1e-12).sqrt()
    assert float(error.max()) < 5
    assert float(exact[2, 4] + exact[4, 2]) > 0.95  # Plcg and PIP3


def test_the_log_partition_of_sachs() -> None:
    dag = BayesNet(data="sachs")
    assert dag.log_partition() == pytest.approx(6.653341, abs=1e-6)
    assert float(dag.log_reward(dag.reset(1))) == pytest.approx(-2676.8730, abs=1e-3)


@pytest.mark.parametrize("d", [1, 0, 13])
def test_the_exact_posterior_is_for_few_nodes(d: int) -> None:
    if d == 1:
        assert Posterior(torch.zeros(1, 2)).sample(3, Generator()).tolist() == [[[0]]] * 3
        return
    with pytest.raises(ValueError, match=f"1 to 12 nodes, got {d}"):
        Posterior(torch.zeros(d, 2))


# --- The environment --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"variables": 2, "edges_per_node": 0.5},
        {"variables": 3},
        {"variables": 4, "reward": "linear_gaussian"},
        {"variables": 8, "edges_per_node": 2},
        {"data": "sachs"},
        {"variables": 13},
    ],
)
def test_the_law_holds(settings: dict) -> None:
    check_dag(BayesNet(**settings), num_trajectories=8)
    check_dag(BayesNet(**settings, device="meta"))


@pytest.mark.parametrize(("d", "states", "edges"), [(2, 6, 5), (3, 50, 73), (4, 1086, 2559), (5, 58_562, 205_601)])
def test_sizes_and_log_z_by_enumeration(d: int, states: int, edges: int) -> None:
    dag = BayesNet(d, edges_per_node=0.5)
    exact = enumerate_dag(dag)
    assert (exact.num_states, len(exact.terminal), dag.max_steps) == (states, COUNTS[d], d * (d - 1) // 2 + 1)
    assert len(exact.actions) == edges
    wanted = dag.log_likelihood(exact.states[exact.terminal]) - dag.log_constant
    assert dag.log_partition() == pytest.approx(float(wanted.logsumexp(0)), abs=1e-12)
    assert exact.log_z == pytest.approx(dag.log_partition(), abs=1e-5)


def test_masks_forbid_exactly_the_edges_that_are_there_or_close_a_cycle() -> None:
    dag = BayesNet(6, edges_per_node=1)
    generator, states = Generator().manual_seed(0), dag.reset(60)
    for _ in range(9):
        mask = dag.action_mask(states)
        for row, legal in zip(dag.adjacency(states).tolist(), mask.tolist(), strict=True):
            edges = {(i, j) for i in range(6) for j in range(6) if row[i][j]}
            for i, j in itertools.product(range(6), repeat=2):
                graph = nx.DiGraph([*edges, (i, j)])
                assert legal[6 * i + j] == ((i, j) not in edges and nx.is_directed_acyclic_graph(graph))
            assert legal[36]
        mask = mask.float()
        mask[:, 36] = 1e-3
        states = dag.step(states, torch.multinomial(mask, 1, generator=generator)[:, 0])[0]


def test_steps_on_a_hand_written_table() -> None:
    dag = BayesNet(3)
    state, done = torch.tensor([[0, 1, 0, 0, 0, 0, 0, 0, 0, 0]]), torch.tensor([[0, 1, 0, 0, 0, 0, 0, 0, 0, 1]])
    assert dag.action_mask(state).int().tolist() == [[0, 0, 1, 0, 0, 1, 1, 1, 0, 1]]
    assert [x.tolist() for x in dag.step(state, torch.tensor([5]))] == [[[0, 1, 0, 0, 0, 1, 0, 0, 0, 0]], [5]]
    assert [x.tolist() for x in dag.step(state, torch.tensor([9]))] == [done.tolist(), [9]]
    assert dag.backward_action_mask(done).int().tolist() == [[0] * 9 + [1]]
    assert dag.backward_action_mask(state).int().tolist() == [[0, 1] + [0] * 8]
    assert dag.describe(torch.cat([state, done, dag.reset(1)])) == ["X0->X1", "X0->X1 stopped", "(no edge)"]


def test_numbers_of_trajectories_equal_counting_along_all_edges() -> None:
    exact = enumerate_dag(BayesNet(3))
    counts = [1] + [0] * (exact.num_states - 1)
    for parent, child in zip(exact.parents.tolist(), exact.children.tolist(), strict=True):
        counts[child] += counts[parent]
    wanted = torch.tensor([math.log(count) for count in counts])
    torch.testing.assert_close(exact.dag.log_num_trajectories(exact.states), wanted)


@pytest.mark.parametrize("settings", [{}, {"reward": "linear_gaussian"}, {"reward": lambda s: 1.0 + s.sum(1)}])
def test_the_potential_is_what_stopping_here_pays_beyond_the_empty_graph(settings: dict) -> None:
    dag = BayesNet(3, **settings)
    states = dag.from_adjacency(GRAPHS[3])
    before = torch.cat([states[:, :-1], torch.zeros(len(states), 1, dtype=torch.int64)], 1)
    wanted = dag.log_reward(states) - dag.log_reward(dag.from_adjacency(torch.zeros(1, 3, 3)))
    torch.testing.assert_close(dag.log_potential(states), wanted, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(dag.log_potential(before), dag.log_potential(states))
    assert float(dag.log_potential(dag.reset(1))) == 0


def test_a_reward_of_ones_own_takes_states_and_leaves_nothing_exact() -> None:
    dag = BayesNet(3, reward=lambda states: 1.0 + dag.adjacency(states)[:, 0, 1])
    check_dag(dag)
    assert dag.log_partition() is dag.sample_target(3, Generator()) is dag.posterior is None
    exact = enumerate_dag(dag)
    edge = GRAPHS[3][:, 0, 1].sum()
    assert exact.log_z == pytest.approx(math.log(25 + int(edge)), abs=1e-5)


def test_above_12_variables_nothing_is_exact_but_the_reward() -> None:
    dag = BayesNet(13)
    assert dag.log_partition() is dag.sample_target(3, Generator()) is dag.posterior is None
    assert float(dag.log_potential(dag.reset(1))) == 0


def test_target_samples_are_stopped_states_with_the_frequencies_of_an_enumeration() -> None:
    dag, n = BayesNet(3, samples=5), 20_000
    exact = enumerate_dag(dag)
    states = dag.sample_target(n, Generator().manual_seed(0))
    assert states is not None
    counts = exact.terminal_rank[exact.index(states)].bincount(minlength=25)
    assert _chi_square(counts, exact.target, n) > 1e-3


def test_a_cyclic_start_is_an_error_in_every_view() -> None:
    cycle = [0, 1, 0, 0, 0, 1, 1, 0, 0, 0]
    message = r"options\['state'\] must be a state that can be reached from s0, got \[0, 1, 0, 0, 0, 1, 1, 0, 0, 0\]"
    for env in (gym.make("gfn/BayesNet-v0", variables=3), gym.make_vec("gfn/BayesNet-v0", num_envs=2, variables=3)):
        with pytest.raises(ValueError, match=message):
            env.reset(options={"state": cycle})
        env.reset(options={"state": [0, 1, 0, 0, 0, 1, 0, 0, 0, 1]})
    with pytest.raises(ValueError, match="graph 1 has a cycle: X0->X1 X1->X2 X2->X0"):
        BayesNet(3).from_adjacency(torch.tensor([[0] * 9, cycle[:9]]).view(2, 3, 3))
    with pytest.raises(ValueError, match=r"graphs must be \[B, 3, 3\] of 0 and 1"):
        BayesNet(3).from_adjacency(torch.full((1, 3, 3), 2))


def test_the_graph_view_tells_variables_apart_and_has_edges_as_ordered_pairs() -> None:
    dag = BayesNet(4)
    states = dag.from_adjacency(GRAPHS[4][:50])
    nodes, pairs, whole = dag.graph(states)
    assert nodes.tolist() == [[[1], [2], [3], [4]]] * 50
    assert torch.equal(pairs, GRAPHS[4][:50])
    assert whole.tolist() == [[1]] * 50


def test_draw_has_an_arrow_for_each_edge_and_a_faint_one_for_each_that_is_missing() -> None:
    dag, axes = BayesNet(data="sachs"), Figure().subplots()
    assert dag.true_graph is not None
    assert int(dag.true_graph.sum()) == 17
    path = torch.cat([dag.reset(1), dag.step(dag.reset(1), torch.tensor([2]))[0]])
    dag.draw(path, axes)
    arrows = [text for text in axes.texts if getattr(text, "arrow_patch", None)]
    assert len(arrows) == 18
    assert {text.get_text() for text in axes.texts} - {""} == set(SACHS_NAMES)


# --- Data -------------------------------------------------------------------------------------------------------------


def test_generated_data_depend_on_the_seed_alone() -> None:
    one, two, other = (generated(5, Settings(1.0, 30, seed, 0.1)) for seed in (0, 0, 1))
    assert (one.values == two.values).all()
    assert (one.graph == two.graph).all()
    assert not (one.values == other.values).any()


def test_generated_networks_have_the_expected_number_of_edges_and_no_cycle() -> None:
    graphs = [generated(5, Settings(1.0, 1, seed, 0.1)).graph for seed in range(400)]
    assert all(nx.is_directed_acyclic_graph(nx.DiGraph(graph)) for graph in graphs)
    numbers = np.array([graph.sum() for graph in graphs])  # binomial, 10 pairs with probability 1/2
    assert abs(numbers.mean() - 5) < 4 * math.sqrt(2.5 / 400)
    assert generated(4, Settings(1.5, 1, 0, 0.1)).graph.sum() == 6
    where = sum(graphs)
    assert (where > 0).sum() == 20


def test_generated_variables_are_sums_of_their_parents_and_noise_of_the_given_variance() -> None:
    data = generated(4, Settings(1.0, 20_000, 1, 0.3))
    weights = []
    for j in range(4):
        x = data.values[:, data.graph[:, j] == 1]
        weight, *_ = np.linalg.lstsq(x, data.values[:, j], rcond=None)
        weights += list(weight)
        assert (data.values[:, j] - x @ weight).var() == pytest.approx(0.3, rel=0.05)
    assert len(weights) == data.graph.sum()
    assert np.std(weights) > 0.3


def test_sachs_is_standardised_and_its_network_is_the_consensus_of_17_edges() -> None:
    data = sachs()
    assert data.values.shape == (853, 11)
    np.testing.assert_allclose(data.values.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(data.values.std(0, ddof=1), 1)
    assert nx.is_directed_acyclic_graph(nx.DiGraph(data.graph))
    edges = {(SACHS_NAMES[i], SACHS_NAMES[j]) for i, j in np.argwhere(data.graph)}
    assert len(edges) == 17
    assert {("Raf", "Mek"), ("Mek", "Erk"), ("Erk", "Akt"), ("PKC", "PKA")} < edges


def test_sachs_is_the_published_table() -> None:
    if not SHARED.exists():
        pytest.skip(f"{SHARED} is not there")
    raw = np.loadtxt(SHARED, delimiter=",", skiprows=1)
    np.testing.assert_allclose(sachs().values, (raw - raw.mean(0)) / raw.std(0, ddof=1), atol=1e-12)


class Table:
    """What a pandas table offers."""

    columns = ("height", "weight")

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        return np.array([[1.0, 2.0], [3.0, 5.0], [2.0, 2.0]])


def test_ones_own_data_may_be_an_array_lists_a_table_or_a_file(tmp_path: Path) -> None:
    values = np.asarray(Table())
    np.save(tmp_path / "mine.npy", values)
    np.savetxt(tmp_path / "mine.csv", values, delimiter=",", header="height,weight", comments="")
    np.savetxt(tmp_path / "plain.csv", values, delimiter=",")
    named, numbered = ("height", "weight"), ("X0", "X1")
    for data, names in (
        (values, numbered),
        (values.tolist(), numbered),
        (Table(), named),
        (str(tmp_path / "mine.npy"), numbered),
        (str(tmp_path / "mine.csv"), named),
        (str(tmp_path / "plain.csv"), numbered),
    ):
        dag = BayesNet(data=data)
        assert dag.names == names
        assert dag.true_graph is None
        assert dag.values.tolist() == values.tolist()
        dag.draw(dag.reset(1), Figure().subplots())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variables": 1}, "variables must be an integer of at least 2, got 1"),
        ({"variables": 21}, "2 to 20 variables, got 21"),
        ({"variables": 4.0}, "variables must be an integer"),
        ({"data": "sach"}, "Unknown data 'sach'. Known, closest first: sachs"),
        ({"data": "sachs", "variables": 5}, "variables is 5, but the data have 11"),
        ({"data": "sachs", "samples": 10, "data_seed": 1}, "samples, data_seed: settings of data 'erdos_renyi'"),
        ({"data": "no_such.csv"}, r"cannot read data from no_such\.csv"),
        ({"data": [[1.0, math.nan], [0.0, 0.0]]}, "data must be finite, but row 0, column 1 is nan"),
        ({"data": [[1.0, 2.0], [0.0]]}, r"data must be numbers \[N, d\]"),
        ({"data": [1.0, 2.0]}, r"data must have shape \[N, d\], a row an observation, got \[2\]"),
        ({"data": [["a", "b"]]}, r"data must be numbers \[N, d\]"),
        ({"data": np.zeros((0, 3))}, r"data must have shape .* got \[0, 3\]"),
        ({"data": np.zeros((4, 1))}, "2 to 20 variables, got 1"),
        ({"reward": "bde"}, "Unknown reward 'bde'. Known, closest first: bge"),
        ({"edges_per_node": 3.0}, r"edges_per_node must be at most 2 for 5 variables, got 3\.0"),
        ({"edges_per_node": -1}, "edges_per_node must be a positive, finite number, got -1"),
        ({"edges_per_node": "1"}, "edges_per_node must be a positive, finite number"),
        ({"data": "sachs", "noise_variance": 0.2}, "noise_variance: settings of data 'erdos_renyi', which nothing"),
        ({"data": "sachs", "reward": "linear_gaussian", "noise_variance": -1}, "noise_variance must be a positive"),
        ({"samples": 0}, "samples must be an integer of at least 1"),
        ({"data_seed": -1}, "data_seed must be an integer of at least 0"),
        ({"noise_variance": 0.0}, "noise_variance must be a positive, finite number"),
    ],
)
def test_bad_arguments_are_named_with_their_value(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BayesNet(**settings)


def test_a_file_that_holds_no_numbers_is_named(tmp_path: Path) -> None:
    file = tmp_path / "words.csv"
    file.write_text("a,b\n1,x\n")
    with pytest.raises(ValueError, match=r"the file .*words\.csv must be numbers"):
        BayesNet(data=str(file))


def test_the_families_of_the_tests_are_all_of_them() -> None:
    assert len(_families(4)) == 4 * 8
    assert parent_sets(3)[5].tolist() == [True, False, True]


def test_it_is_registered_with_moderate_defaults() -> None:
    dag = gfn_envs.make("gfn/BayesNet-v0")
    assert isinstance(dag, BayesNet)
    assert (dag.d, tuple(dag.values.shape)) == (5, (100, 5))
    assert dag.stop_action == 25
