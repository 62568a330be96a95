"""Metrics of phylogenetic trees against plain counting."""

import pytest
import torch
from matplotlib.figure import Figure
from pairs import config, trained

from agents.evaluation.metric import Context, Objects
from agents.evaluation.phylo import NEAR, PhyloMetrics
from agents.evaluation.settings import EvaluationSettings
from gfn_envs import Hypergrid, PhyloTree, enumerate_dag

DAG = PhyloTree("DS5", taxa=6)
EXACT = enumerate_dag(DAG)
TREES = EXACT.states[EXACT.terminal]


def _metric(dag: PhyloTree | Hypergrid = DAG) -> PhyloMetrics:
    return PhyloMetrics(Context(dag, None, EvaluationSettings(), None))


def _objects(rows: list[int], new: list[int]) -> Objects:
    states = TREES[rows]
    log_reward = DAG.log_reward(states)
    return Objects(states, log_reward, log_reward, torch.full((len(rows),), 5), torch.tensor(new, dtype=torch.int64))


def _batches() -> list[list[int]]:
    """Return batches of trees by place, many of them again, the best ones late."""
    order = DAG.mutations(TREES).argsort(descending=True).tolist()
    return [order[:50], order[20:60] + order[:5], order[-40:-4] * 2, order[-20:]]


def test_trees_near_the_best_are_counted_once_each() -> None:
    metric, seen = _metric(), set()
    for batch in _batches():
        new = [i for i, row in enumerate(batch) if row not in seen and row not in batch[:i]]
        metric.add(_objects(batch, new))
        seen |= set(batch)
        mutations = DAG.mutations(TREES[sorted(seen)])
        latest = DAG.mutations(TREES[batch])
        figures = metric.compute(None, last=False)
        assert figures["fewest_mutations"] == mutations.min()
        assert figures["mean_mutations"] == pytest.approx(float(latest.mean()))
        for more in NEAR:
            assert figures[f"trees_within_{more}"] == int((mutations <= mutations.min() + more).sum())
        assert set(figures) == set(metric.columns())
    assert figures["trees_within_0"] < figures["trees_within_10"] < len(seen)


def test_before_the_first_tree_there_is_nothing_to_tell() -> None:
    metric = _metric()
    assert metric.compute(None, last=True) == metric.pictures(None) == {}
    assert metric.tables(None, 0)["best_trees"]() == [("newick", "mutations")]


def test_it_goes_on_after_loading_as_if_never_saved() -> None:
    one, two = _metric(), _metric()
    batches = _batches()
    for batch in batches[:2]:
        one.add(_objects(batch, list(range(len(batch)))))
    two.load_state_dict(one.state_dict())
    for metric in (one, two):
        metric.add(_objects(batches[3], list(range(20))))
    assert one.compute(None, last=True) == two.compute(None, last=True)
    assert one.tables(None, 0)["best_trees"]() == two.tables(None, 0)["best_trees"]()


def test_the_best_trees_are_written_in_newick_and_the_best_one_is_drawn() -> None:
    metric = _metric()
    metric.add(_objects(list(range(len(TREES))), list(range(len(TREES)))))
    head, *rows = metric.tables(None, 0)["best_trees"]()
    assert head == ("newick", "mutations")
    assert len(rows) == 100
    counts = [int(count) for _, count in rows]
    assert counts == sorted(counts) == sorted(DAG.mutations(TREES).int().tolist())[:100]
    read = DAG.from_newick([text for text, _ in rows])
    assert DAG.mutations(read).int().tolist() == counts
    figure = metric.pictures(None)["best_trees"]()
    assert isinstance(figure, Figure)
    assert figure.axes[0].get_title() == f"{counts[0]} mutations in 5 joins"


def test_an_environment_without_trees_is_named() -> None:
    with pytest.raises(ValueError, match="the metric phylo needs Hypergrid to have mutations"):
        _metric(Hypergrid(2, 4))


def test_a_run_reports_it() -> None:
    settings = config("tb", "uniform", env="gfn/PhyloTree-v0", env_kwargs='{"taxa": 5}', network="mlp", eval_every=6)
    trainer = trained(settings)
    row = trainer.history[-1]
    exact = enumerate_dag(trainer.dag)
    fewest = float(PhyloTree(taxa=5).mutations(exact.states[exact.terminal]).min())
    assert row["fewest_mutations"] >= fewest
    assert row["trees_within_0"] <= row["trees_within_10"] <= row["unique_states"] <= 105
