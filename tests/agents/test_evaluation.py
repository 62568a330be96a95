"""The evaluator counts exactly what it was given, measures in its turn, and leaves the training alone."""

import dataclasses
import io
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_dags import Skips
from true_flows import sample

from agents.build import build_trainer
from agents.config import usual, with_values
from agents.evaluation import modes
from agents.evaluation.correlation import CorrelationMetrics, spread
from agents.evaluation.estimates import elbo, log_likelihood
from agents.evaluation.evaluator import Evaluator
from agents.evaluation.gflownet import FixedPolicy, GFlowNet
from agents.evaluation.metric import Column
from agents.evaluation.settings import EvaluationSettings
from agents.registry import METRICS
from agents.sampling.random_state import make_generator
from agents.sampling.rollout import Trajectories
from agents.trainer import Trainer
from gfn_envs import DAG, BitSequence, Hypergrid
from gfn_envs.exact import first_of
from gfn_envs.metrics import pearson, spearman

ENV = "gfn/BitSequence-v0"


def _dag(**settings: Any) -> BitSequence:
    return BitSequence(
        **{"n": 8, "k": 2, "modes": ["00000000", "11111111", "11110000"], "mode_distance": 1, **settings}
    )


def _trainer(dag: DAG | None = None, backward: str = "tlm", **values: Any) -> Trainer:
    small = {
        "network.width": 8,
        "network.layers": 1,
        "trajectories": 16 * 12,
        "eval_every": 2,
        "eval.max_exact_edges": 0,
        "eval.elbo_samples": 0,
        "eval.slack_objects": 0,
        "eval.test_every": 0,
    }
    named = {k.replace("__", "."): v for k, v in values.items()}
    return build_trainer(with_values(usual(ENV, "tb", backward, "mlp"), small | named), dag or _dag())


def _correlation(trainer: Trainer) -> CorrelationMetrics:
    metric = trainer.evaluator.metrics["correlation"]
    assert isinstance(metric, CorrelationMetrics)
    return metric


def _saved(evaluator: Evaluator) -> dict:
    file = io.BytesIO()
    torch.save(evaluator.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def _rare(dag: BitSequence, seeds: range) -> list[Trajectories]:
    """Return small batches, few of which hit a mode."""
    return [sample(dag, 4, seed) for seed in seeds]


def test_modes_found_are_exactly_those_hit_so_far() -> None:
    trainer, hit, counts = _trainer(), set(), []
    for batch in _rare(_dag(), range(40)):
        trainer.evaluator.add(batch)
        for line in _dag().describe(batch.terminal_states):
            string = line.replace(" ", "")
            hit |= {
                i for i, mode in enumerate(_dag().modes) if sum(a != b for a, b in zip(string, mode, strict=True)) <= 1
            }
        counts.append(trainer.evaluator.evaluate(trainer.agent)["modes_found"])
        assert counts[-1] == len(hit)
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] == 3


def test_where_there_are_too_many_modes_they_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    for most, counted in ((3, True), (2, False)):
        monkeypatch.setattr(modes, "MOST_MODES", most)
        trainer = _trainer()
        trainer.step()
        assert ("modes_found" in trainer.evaluator.evaluate(trainer.agent)) is counted


@pytest.mark.parametrize("flushes", [True, False])
def test_sample_means_are_over_the_trajectories_since_the_last_evaluation(flushes: bool) -> None:
    dag = Hypergrid(2, 5)
    trainer = _trainer(dag)
    evaluator, seen, best = trainer.evaluator, set(), -math.inf
    for part in range(3):
        batches = [sample(dag, 5 + i, seed=10 * part + i) for i in range(4)]
        for batch in batches:
            evaluator.add(batch)
            if flushes:
                evaluator.flush()
        found = evaluator.evaluate(trainer.agent)
        log_reward = [value for batch in batches for value in batch.log_reward.tolist()]
        lengths = [length for batch in batches for length in batch.lengths.tolist()]
        seen |= {tuple(state) for batch in batches for state in batch.terminal_states.tolist()}
        best = max(best, *log_reward)
        assert found["mean_log_reward"] == pytest.approx(sum(log_reward) / 26)
        assert found["mean_reward"] == pytest.approx(sum(map(math.exp, log_reward)) / 26)
        assert found["mean_length"] == pytest.approx(sum(lengths) / 26)
        assert found["best_reward"] == pytest.approx(math.exp(best))
        assert found["unique_states"] == len(seen)
        assert found["log_z_estimate"] == pytest.approx(float(trainer.agent.log_z()))


def test_an_evaluation_before_any_sample_says_so_without_failing() -> None:
    trainer = _trainer(eval__elbo_samples=3, eval__test_every=1, eval__max_exact_edges=10_000)
    found = trainer.evaluator.evaluate(trainer.agent)
    assert found["unique_states"] == found["modes_found"] == 0
    assert all(math.isnan(found[name]) for name in ("best_reward", "top_log_reward", "top_diversity"))
    assert -1 <= found["spearman"] <= 1


@pytest.mark.parametrize(("every", "turns"), [(0, []), (1, [1, 2, 3, 4, 5, 6]), (2, [2, 4, 6]), (4, [4, 6]), (9, [6])])
def test_the_correlation_comes_every_so_many_evaluations_and_at_the_end(every: int, turns: list[int]) -> None:
    trainer = _trainer(eval__test_every=every, eval__test_rollouts=1)
    assert trainer.train(lambda metrics: None, lambda: False, progress=False)
    assert [i + 1 for i, row in enumerate(trainer.history) if "spearman" in row] == turns
    assert bool(_correlation(trainer).test_set) is bool(turns)
    assert all(("pearson" in row) is ("spearman" in row) for row in trainer.history)


def test_a_dag_without_test_states_has_no_correlation_and_one_without_modes_no_count() -> None:
    trainer = _trainer(Hypergrid(2, 4), eval__test_every=1)
    found = trainer.evaluator.evaluate(trainer.agent, last=True)
    assert "spearman" not in found
    assert "correlation" not in trainer.evaluator.metrics
    assert "modes_found" in found
    assert "modes_found" not in _trainer(Skips()).evaluator.evaluate(trainer.agent)


def test_the_correlation_is_that_of_the_test_set_kept() -> None:
    trainer = _trainer(eval__test_every=1, eval__test_objects=10, eval__test_rollouts=400)
    trainer.train(lambda metrics: None, lambda: trainer.iteration == 4, progress=False)
    found, kept, dag = trainer.history[-1], _correlation(trainer).test_set, trainer.dag
    assert {name: len(x) for name, x in kept.items()} == {"states": 10, "log_reward": 10, "log_p": 10}
    assert found["spearman"] == spearman(kept["log_p"], kept["log_reward"])
    assert found["pearson"] == pearson(kept["log_p"], kept["log_reward"])
    assert torch.equal(kept["log_reward"], dag.log_reward(kept["states"]))
    exact = _trainer(eval__max_exact_edges=10_000).evaluator.enumeration
    assert exact is not None
    p = exact.terminal_distribution(trainer.agent.policy())[exact.terminal_rank[exact.index(kept["states"])]]
    torch.testing.assert_close(kept["log_p"].double(), p.log(), rtol=0, atol=0.2)


@pytest.mark.parametrize(
    ("n", "count"), [(24, 9), (24, 23), (24, 24), (24, 0), (24, 99), (7200, 720), (7200, 1), (5, 3)]
)
def test_the_objects_used_are_spread_evenly(n: int, count: int) -> None:
    indices = spread(n, count).tolist()
    if not 0 < count < n:
        assert indices == list(range(n))
        return
    assert len(indices) == count
    for i, index in enumerate(indices):
        assert i * n // count <= index < (i + 1) * n // count


@pytest.mark.parametrize("count", [60, 120, 720, 1440, 3600])
def test_the_objects_used_of_the_published_set_have_all_modes_and_many_numbers_of_flips(count: int) -> None:
    indices = spread(7200, count)
    assert (indices // 120).unique().tolist() == list(range(60))
    assert len((indices % 120).unique()) >= min(count, 60), "a constant stride would see the same flips of every mode"


def _weights(trainer: Trainer) -> Tensor:
    return torch.cat([p.detach().flatten() for p in (*trainer.network.parameters(), *trainer.agent.own.parameters())])


def test_measuring_does_not_change_the_training() -> None:
    measured = []
    for changes in (
        {},
        {"eval__elbo_samples": 256},
        {"eval__test_every": 1},
        {"eval__max_exact_edges": 10_000},
        {"eval_every": 1},
    ):
        trainer = _trainer(**changes)
        trainer.train(lambda metrics: None, lambda: False, progress=False)
        measured.append((_weights(trainer), trainer.generator.get_state()))  # type: ignore[union-attr]
    for weights, state in measured[1:]:
        assert torch.equal(weights, measured[0][0])
        assert torch.equal(state, measured[0][1])


def test_the_elbo_is_measured_only_if_asked_and_lies_below_log_z() -> None:
    assert "elbo" not in _trainer().evaluator.evaluate(_trainer().agent)
    trainer = _trainer(eval__elbo_samples=2000, eval__max_exact_edges=10_000)
    assert trainer.evaluator.enumeration is not None
    assert trainer.evaluator.evaluate(trainer.agent)["elbo"] < trainer.evaluator.enumeration.log_z


@pytest.mark.parametrize("pending", [True, False])
def test_an_evaluator_goes_on_after_loading_as_if_never_saved(pending: bool) -> None:
    values = {
        "eval__elbo_samples": 8,
        "eval__slack_objects": 8,
        "eval__test_every": 2,
        "eval__test_rollouts": 1,
        "eval__max_exact_edges": 10_000,
    }
    one, two = _trainer(**values), _trainer(**values)
    batches = _rare(_dag(), range(12))
    for batch in batches[:6]:
        one.evaluator.add(batch)
    if not pending:
        one.evaluator.flush()
    one.evaluator.evaluate(one.agent)
    for batch in batches[6:9]:
        one.evaluator.add(batch)
    two.evaluator.load_state_dict(_saved(one.evaluator))
    for last in (False, True):
        rows = []
        for trainer in (one, two):
            for batch in batches[9:]:
                trainer.evaluator.add(batch)
            rows.append(trainer.evaluator.evaluate(one.agent, last=last))
            rows[-1].pop("test_seconds", None)
        assert rows[0] == rows[1]
        assert "spearman" in rows[0]
    for name in ("states", "log_reward", "log_p"):
        assert torch.equal(_correlation(one).test_set[name], _correlation(two).test_set[name])
    torch.testing.assert_close(one.evaluator.state_dict(), two.evaluator.state_dict(), rtol=0, atol=0)


def test_evaluators_with_equal_seeds_agree_and_others_differ() -> None:
    trainer = _trainer()
    settings = dataclasses.replace(trainer.config.eval, elbo_samples=8)
    evaluators = [Evaluator(trainer.dag, settings, seed=seed) for seed in (0, 0, 1)]
    one, two, other = (evaluator.evaluate(trainer.agent)["elbo"] for evaluator in evaluators)
    assert one == two != other


def test_the_bound_draws_its_random_numbers_before_the_correlation() -> None:
    trainer = _trainer(
        eval__elbo_samples=8, eval__slack_objects=8, eval__test_every=1, eval__test_rollouts=2, eval__test_objects=5
    )
    found, generator = trainer.evaluator.evaluate(trainer.agent), make_generator(trainer.dag.device, 2)
    assert found["elbo"] == float(elbo(trainer.agent, 8, generator))
    kept = _correlation(trainer).test_set
    assert torch.equal(kept["log_p"], log_likelihood(trainer.agent, kept["states"], 2, generator))


SHARE = """
import agents
from agents import Column, Metric

class Share(Metric):
    \"\"\"The share of samples whose first bits are zero.\"\"\"

    def __init__(self, context):
        super().__init__(context)
        self.seen, self.zero, self.new = 0, 0, 0

    def columns(self):
        return {"zero_share": Column("zeros first", "{:.2f}", "zeros first")}

    def add(self, objects):
        self.seen += len(objects.states)
        self.zero += int((objects.states[:, 0] == 1).sum())
        self.new += len(objects.new)

    def compute(self, gflownet, last):
        return {"zero_share": self.zero / max(self.seen, 1), "unique_states": -self.new}

    def state_dict(self):
        return {"seen": self.seen, "zero": self.zero, "new": self.new}

    def load_state_dict(self, state):
        self.seen, self.zero, self.new = state["seen"], state["zero"], state["new"]

agents.register_metric("share", "own_share:Share")
"""


@pytest.fixture
def share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A user's module that registers a metric; what it registers is forgotten after the test."""
    (tmp_path / "own_share.py").write_text(SHARE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(METRICS, "_rows", dict(METRICS._rows))
    yield "own_share:share"
    sys.modules.pop("own_share", None)


def test_a_metric_from_outside_sees_every_object_and_comes_after_the_others(share: str) -> None:
    one, two = (_trainer(metrics=(share,)) for _ in range(2))
    batches = _rare(_dag(), range(6))
    for batch in batches[:3]:
        one.evaluator.add(batch)
    one.evaluator.flush()
    two.evaluator.load_state_dict(_saved(one.evaluator))
    for trainer in (one, two):
        for batch in batches[3:]:
            trainer.evaluator.add(batch)
        found = trainer.evaluator.evaluate(trainer.agent)
        states = torch.cat([batch.terminal_states for batch in batches])
        assert found["zero_share"] == float((states[:, 0] == 1).double().mean())
        assert found["unique_states"] == -len(states.unique(dim=0))  # in place of the standard one
        assert trainer.evaluator.columns()["zero_share"].heading == "zeros first"
    assert list(one.evaluator.metrics) == ["exact", "samples", "bounds", "slack", "modes", "correlation", "share"]


def test_a_metric_named_twice_is_there_once(share: str) -> None:
    evaluator = _trainer(metrics=("modes", share, share)).evaluator
    assert list(evaluator.metrics) == ["exact", "samples", "bounds", "slack", "modes", "correlation", "share"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("correlation", "needs Hypergrid to have test_states"),
        ("molecules", "needs Hypergrid to have to_smiles"),
        ("shares", "closest first: samples"),
        ("no_such_module:share", "cannot import"),
    ],
)
def test_a_metric_that_cannot_be_had_is_an_error_that_says_why(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Evaluator(Hypergrid(2, 4), EvaluationSettings(), (name,))


def test_what_is_measured_depends_on_what_can_be_looked_at() -> None:
    settings = EvaluationSettings(elbo_samples=4, slack_objects=4, test_every=1, test_rollouts=1, test_objects=4)
    dag = _dag()

    def names(gflownet: GFlowNet | None) -> set[str]:
        return set(Evaluator(dag, settings).evaluate(gflownet, last=True))

    policy = lambda states: torch.zeros(len(states), dag.num_actions)  # noqa: E731
    samples = names(None)
    greedy = names(FixedPolicy(dag, policy, stochastic=False))
    full = names(FixedPolicy(dag, policy, stochastic=True))
    assert {"mean_reward", "modes_found", "l1_empirical"} <= samples
    assert greedy - samples >= {"l1_exact", "total_variation_exact", "mean_reward_exact"}
    assert full - greedy == {
        "elbo",
        "slack",
        "slack_uniform",
        "backward_entropy",
        "spearman",
        "pearson",
        "fcs",
        "test_seconds",
    }
    assert not {"log_z_estimate", "log_z_error"} & full  # it has no estimate
    agent = _trainer(dag).agent
    assert names(agent) - full == {"log_z_estimate", "log_z_error"}


def _counts_exactly(evaluator: Evaluator) -> None:
    """Assert that two rounds of batches with repeated objects are counted as a plain loop would."""
    dag, seen, rounds = evaluator.dag, set(), ([(0, 9), (1, 5)], [(0, 9), (2, 7)])
    for batches in rounds:
        objects = [sample(dag, n, seed) for seed, n in batches]
        for batch in objects:
            evaluator.add(batch)
        found = evaluator.evaluate(None)
        rewards = [reward for batch in objects for reward in batch.log_raw_reward.double().exp().tolist()]
        seen |= {tuple(state) for batch in objects for state in batch.terminal_states.tolist()}
        assert found["mean_reward"] == pytest.approx(sum(rewards) / len(rewards))
        assert found["unique_states"] == len(seen)


MUTANTS: dict[str, tuple[str, Any]] = {
    "everything is new": ("_first_seen", lambda evaluator, keys: torch.arange(len(keys))),
    "nothing is remembered": ("_first_seen", lambda evaluator, keys: first_of(keys)[2]),
    "the last batch is lost": (
        "add",
        lambda evaluator, batch: evaluator._pending.__setitem__(slice(None), [_row(batch)]),
    ),
    "R in place of the raw reward": (
        "add",
        lambda evaluator, batch: evaluator._pending.append((*_row(batch)[:2], batch.log_reward + 1, batch.lengths)),
    ),
}


def _row(batch: Trajectories) -> tuple[Tensor, ...]:
    return batch.terminal_states, batch.log_reward, batch.log_raw_reward, batch.lengths


@pytest.mark.parametrize("mutant", [None, *MUTANTS])
def test_a_wrong_count_is_noticed(mutant: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = Evaluator(Hypergrid(2, 4), EvaluationSettings())
    if mutant is None:
        _counts_exactly(evaluator)
        return
    monkeypatch.setattr(Evaluator, *MUTANTS[mutant])
    with pytest.raises(AssertionError):
        _counts_exactly(evaluator)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"form": "{:.4q}"}, "cannot format"),
        ({"form": "{:.4g} {}"}, "cannot format"),
        ({"scale": "lgo"}, "closest first: log"),
    ],
)
def test_a_column_that_could_not_be_shown_is_refused(values: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Column("steps", **values)  # type: ignore[arg-type]
