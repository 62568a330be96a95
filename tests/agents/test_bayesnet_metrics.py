"""Metrics of Bayesian networks against networkx, pairs counted by hand, and a policy that samples the posterior."""

import csv
import itertools
import math
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import torch
from torch import Generator, Tensor

from agents.build import build_trainer
from agents.config import usual, with_values
from agents.evaluation.bayesnet import BayesNetMetrics, Marginals, area_under_roc, hamming_distances
from agents.evaluation.gflownet import FixedPolicy
from agents.evaluation.metric import Context, Objects
from agents.evaluation.settings import EvaluationSettings
from agents.networks.graph_transformer import GraphTransformer
from agents.runs import sample
from agents.runs.train import main
from gfn_envs import BayesNet, Enumeration, Hypergrid, enumerate_dag

ENV = "gfn/BayesNet-v0"
CORRELATIONS = ("edge_correlation", "path_correlation", "blanket_correlation")


def _metric(dag: BayesNet, enumeration: Enumeration | None = None) -> BayesNetMetrics:
    return BayesNetMetrics(Context(dag, enumeration, EvaluationSettings(), Generator().manual_seed(0)))


def _random_graphs(d: int, n: int) -> Tensor:
    dag = BayesNet(d, edges_per_node=0.5)
    return dag.adjacency(_random_states(dag, n))


def _random_states(dag: BayesNet, n: int) -> Tensor:
    states, generator = dag.reset(n), Generator().manual_seed(0)
    while not dag.is_terminal(states).all():
        mask = dag.action_mask(states)
        actions = torch.multinomial(mask.float() + 1e-9, 1, generator=generator)[:, 0]
        states = torch.where(mask.any(1, keepdim=True), dag.step(states, actions)[0], states)
    return states


def test_marginals_are_shares_of_graphs_by_networkx() -> None:
    graphs = _random_graphs(5, 30)
    wanted = {"edges": torch.zeros(5, 5), "paths": torch.zeros(5, 5), "blankets": torch.zeros(5, 5)}
    for graph in graphs.tolist():
        network = nx.DiGraph()
        network.add_nodes_from(range(5))
        network.add_edges_from((i, j) for i in range(5) for j in range(5) if graph[i][j])
        for i, j in itertools.permutations(range(5), 2):
            wanted["edges"][i, j] += network.has_edge(i, j)
            wanted["paths"][i, j] += nx.has_path(network, i, j)
            others = {p for child in network.successors(j) for p in network.predecessors(child)}
            wanted["blankets"][i, j] += i in {*network.predecessors(j), *network.successors(j), *others}
    found, off = Marginals.of(graphs), ~torch.eye(5, dtype=torch.bool)
    for name, total in wanted.items():
        torch.testing.assert_close(getattr(found, name)[off], (total / 30).double()[off])


def test_weights_count_graphs_as_often_as_they_say() -> None:
    graphs = _random_graphs(4, 6)
    weights = torch.tensor([0.5, 0.25, 0.25, 0, 0, 0], dtype=torch.float64)
    for one, two in zip(Marginals.of(graphs, weights), Marginals.of(graphs[[0, 0, 1, 2]]), strict=True):
        torch.testing.assert_close(one, two)


def test_distances_count_missing_additional_and_turned_edges_once_each() -> None:
    true = torch.tensor([[0, 1, 0], [0, 0, 1], [0, 0, 0]])
    others = [[[0, 1, 0], [0, 0, 1], [0, 0, 0]], [[0, 0, 0], [1, 0, 1], [0, 0, 0]], [[0, 0, 1], [0, 0, 0], [0, 0, 0]]]
    assert hamming_distances(torch.tensor(others), true).tolist() == [0, 1, 3]


@pytest.mark.parametrize("seed", range(3))
def test_the_area_under_the_curve_is_the_share_of_pairs_in_order(seed: int) -> None:
    generator = Generator().manual_seed(seed)
    p = torch.randint(0, 4, (5, 5), generator=generator).double() / 3
    true = torch.randint(0, 2, (5, 5), generator=generator)
    cells = list(itertools.permutations(range(5), 2))
    ones, zeros = [c for c in cells if true[c]], [c for c in cells if not true[c]]
    wins = sum(float(p[a] > p[b]) + 0.5 * float(p[a] == p[b]) for a in ones for b in zeros)
    assert area_under_roc(p, true) == pytest.approx(wins / (len(ones) * len(zeros)))
    assert math.isnan(area_under_roc(p, torch.zeros(5, 5, dtype=torch.int64)))


def _exact_policy(exact: Enumeration) -> Any:
    """Return the policy that samples the target, with the uniform P_B."""
    log_pb = exact.uniform_backward()
    table = torch.full((exact.num_states, exact.dag.num_actions), -1e9, dtype=torch.float64)
    table[exact.parents, exact.actions] = exact.forward_from_flows(exact.log_flows(log_pb), log_pb)
    return lambda states: table[exact.index(states)]


def test_a_policy_that_samples_the_posterior_agrees_with_it() -> None:
    dag = BayesNet(5, edges_per_node=0.5)
    exact = enumerate_dag(dag)
    found = _metric(dag, exact).compute(FixedPolicy(dag, _exact_policy(exact), True), False)
    assert min(found[name] for name in CORRELATIONS) > 0.97
    for name in ("expected_edges", "expected_shd", "edge_auc"):
        assert found[name] == pytest.approx(found[f"{name}_target"], rel=0.05)
    uniform = FixedPolicy(dag, lambda states: torch.zeros(len(states), dag.num_actions), True)
    worse = _metric(dag, exact).compute(uniform, False)
    assert max(worse[name] for name in CORRELATIONS) < 0.9


def test_enumeration_and_exact_samples_give_the_same_reference() -> None:
    dag = BayesNet(4)
    one, two = _metric(dag, enumerate_dag(dag)).exact, _metric(dag).exact
    assert one is not None
    assert two is not None
    torch.testing.assert_close(one[2].edges, two[2].edges, rtol=0, atol=1e-6)  # log R is float32 in an enumeration
    for name in ("paths", "blankets"):
        torch.testing.assert_close(getattr(one[2], name), getattr(two[2], name), rtol=0, atol=0.03)


def test_without_a_policy_the_latest_samples_are_looked_at_and_are_kept_with_the_run() -> None:
    dag = BayesNet(6)
    metric = _metric(dag)
    assert metric.compute(None, False) == {}
    assert metric.pictures(None) == metric.tables(None, 0) == {}
    old, new = _random_states(dag, 700), dag.sample_target(1000, Generator().manual_seed(3))
    assert new is not None
    for states in (old, new):
        nothing = torch.zeros(len(states))
        metric.add(Objects(states, nothing, nothing, nothing, torch.arange(len(states))))
    found = metric.compute(None, False)
    assert min(found[name] for name in CORRELATIONS) > 0.97
    again = _metric(dag)
    again.load_state_dict(metric.state_dict())
    assert again.compute(None, False) == found


def test_where_truth_or_posterior_are_unknown_their_figures_are_left_out() -> None:
    data = BayesNet(3).values.tolist()
    mine = BayesNet(data=data)
    found = _metric(mine).compute(FixedPolicy(mine, lambda s: torch.zeros(len(s), mine.num_actions), True), False)
    assert set(found) == {"expected_edges", "expected_edges_target", *CORRELATIONS}
    own = BayesNet(3, reward=lambda states: torch.ones(len(states)))
    found = _metric(own).compute(FixedPolicy(own, lambda s: torch.zeros(len(s), own.num_actions), True), False)
    assert set(found) == {"expected_edges", "expected_shd", "edge_auc"}
    for dag in (mine, own, BayesNet(4)):
        metric = _metric(dag)
        uniform = FixedPolicy(dag, lambda states, dag=dag: torch.zeros(len(states), dag.num_actions), True)
        assert set(metric.compute(uniform, False)) <= set(metric.columns())


def test_it_is_for_bayesian_networks() -> None:
    with pytest.raises(ValueError, match=r"the metric bayesnet is for gfn_envs\.BayesNet, got Hypergrid"):
        BayesNetMetrics(Context(Hypergrid(2, 3), None, EvaluationSettings(), None))


def test_a_run_has_the_figures_its_table_of_edges_and_sampling_prints_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--trajectories", "64", "--batch-size", "32", "--eval-every", "1", "--network.width", "8"]
    kwargs = ["--env-kwargs", '{"variables": 4}']
    run = tmp_path / "run"
    assert main(["--env", ENV, "--agent", "tb", "--network", "mlp", *small, *kwargs, "--out", str(run)]) == 0
    with (run / "edge_probabilities.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["from", "to", "probability", "exact", "true"]
    shares = [float(row["probability"]) for row in rows]
    assert shares == sorted(shares, reverse=True)
    assert (run / "edge_probabilities.png").exists()
    capsys.readouterr()
    assert sample.main([str(run), "--num", "50", "--no-progress", "--out", str(tmp_path / "samples.csv")]) == 0
    printed = capsys.readouterr().err.splitlines()
    assert printed[0].split() == ["from", "to", "probability", "exact", "true"]
    with (tmp_path / "samples.csv").open() as file:
        objects = [row["object"] for row in csv.DictReader(file)]
    source, target, share, *_ = printed[1].split()
    assert sum(f"{source}->{target}" in text.split() for text in objects) == pytest.approx(50 * float(share))


def test_the_graph_transformer_trains_on_it() -> None:
    small = {"network.width": 8, "network.layers": 1, "network.attention_heads": 2, "eval.max_exact_edges": 0}
    trainer = build_trainer(with_values(usual(ENV, "tb", "tlm"), small), BayesNet(4))
    assert isinstance(trainer.agent.network, GraphTransformer)
    before = [p.clone() for p in trainer.agent.network.parameters()]
    for _ in range(3):
        trainer.step()
    assert all(bool(p.isfinite().all()) for p in trainer.agent.network.parameters())
    assert any(not torch.equal(p, q) for p, q in zip(before, trainer.agent.network.parameters(), strict=True))
