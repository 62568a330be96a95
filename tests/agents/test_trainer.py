"""The loop: a saved run goes on bit for bit, evaluation changes nothing, and bad numbers stop it in time."""

import io
import math
from typing import Any

import pytest
import torch
from pairs import DQNS, PAIRS, built, config, trained, weights

from agents.build import build_trainer
from agents.trainer import Trainer
from gfn_envs import DAG, Hypergrid


def _train(trainer: Trainer, until: int | None = None) -> None:
    trainer.train(lambda metrics: None, lambda: trainer.iteration == until, progress=False)


def _timeless(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if "second" not in name} for row in history]


def _reloaded(trainer: Trainer) -> Trainer:
    """Return a fresh trainer that went through a file."""
    file = io.BytesIO()
    torch.save(trainer.state_dict(), file)
    file.seek(0)
    fresh = built(trainer.config)
    _train(fresh, until=2)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    return fresh


LONG: dict[str, Any] = {
    "trajectories": 16 * 24,
    "eval_every": 5,
    "eval__max_exact_edges": 1000,
    "eval__window": 100,
    "epsilon": 0.5,
    "epsilon_end": 0.1,
    "epsilon_trajectories": 16 * 20,
    "learning_starts": 4,
}


@pytest.mark.parametrize("at", [3, 11])
@pytest.mark.parametrize(("agent", "backward"), PAIRS)
def test_a_saved_run_goes_on_bit_for_bit(agent: str, backward: str, at: int) -> None:
    learned = {"backward.exact": False} if backward == "maxent" else {}
    slow = {"agent.target_every": 3} if agent in DQNS else {}
    settings = config(agent, backward, **LONG, **learned, **slow)
    whole = built(settings)
    _train(whole)
    part = built(settings)
    _train(part, until=at)
    assert part.iteration == at
    fresh = _reloaded(part)
    _train(fresh)
    assert torch.equal(weights(fresh), weights(whole))
    assert len(whole.history) == 5
    assert _timeless(fresh.history) == _timeless(whole.history)


@pytest.mark.parametrize(("agent", "backward"), [("tb", "pessimistic"), ("mdqn", "tlm"), ("softdqn", "naive")])
def test_a_state_saved_in_the_middle_of_an_evaluation_period_keeps_its_sums(agent: str, backward: str) -> None:
    settings = config(agent, backward, trajectories=16 * 10, eval__max_exact_edges=1000)
    whole, part = built(settings), built(settings)
    _train(whole)
    for at in range(1, 10):
        _train(part, until=at)
        part = _reloaded(part)
    _train(part)
    assert _timeless(part.history) == _timeless(whole.history)
    assert torch.equal(weights(part), weights(whole))


@pytest.mark.parametrize(("agent", "backward"), PAIRS)
def test_how_often_one_evaluates_does_not_change_the_training(agent: str, backward: str) -> None:
    often, seldom = (trained(config(agent, backward, eval_every=n, eval__max_exact_edges=1000)) for n in (1, 1000))
    assert torch.equal(weights(often), weights(seldom))
    assert (len(often.history), len(seldom.history)) == (12, 1)
    assert often.history[-1]["l1_exact"] == seldom.history[-1]["l1_exact"]
    assert often.history[-1]["l1_empirical"] == seldom.history[-1]["l1_empirical"]
    assert often.history[-1]["unique_states"] == seldom.history[-1]["unique_states"]


def test_means_between_evaluations_add_up_to_the_mean_of_the_run() -> None:
    often, seldom = (trained(config("db", "tlm", eval_every=n)) for n in (4, 1000))
    for name in ("mean_reward", "mean_length", "loss", "backward_loss"):
        mean = sum(row[name] for row in often.history) / len(often.history)
        assert mean == pytest.approx(seldom.history[-1][name], rel=1e-6), name
    assert [row["trajectories"] for row in often.history] == [64, 128, 192]


def test_metrics_are_those_of_the_trajectories_sampled() -> None:
    trainer = built(config("db", "uniform", eval__max_exact_edges=1000))
    batches = []
    collect = trainer.collect
    trainer.collect = lambda: batches.append(collect()) or batches[-1]
    _train(trainer)
    ends = torch.cat([batch.all.terminal_states for batch in batches])
    rewards = trainer.dag.log_reward(ends).double().exp()
    metrics, enumeration = trainer.history[-1], trainer.evaluator.enumeration
    assert enumeration is not None
    assert metrics["trajectories"] == len(ends) == 192
    assert metrics["mean_reward"] == pytest.approx(float(rewards.mean()))
    assert metrics["best_reward"] == pytest.approx(float(rewards.max()))
    assert metrics["mean_length"] == pytest.approx(float(torch.cat([b.all.lengths for b in batches]).double().mean()))
    assert metrics["unique_states"] == len(ends.unique(dim=0))
    shares = torch.stack([(ends == x).all(1).double().mean() for x in enumeration.states[enumeration.terminal]])
    assert metrics["l1_empirical"] == pytest.approx(float((shares - enumeration.target).abs().sum()))
    exact = enumeration.terminal_distribution(trainer.agent.policy())
    assert metrics["l1_exact"] == pytest.approx(float((exact - enumeration.target).abs().sum()))
    assert metrics["total_variation_exact"] == pytest.approx(metrics["l1_exact"] / 2)
    assert metrics["log_z_error"] == pytest.approx(metrics["log_z_estimate"] - enumeration.log_z)
    rewards = enumeration.log_reward.exp()
    assert metrics["mean_reward_exact"] == pytest.approx(float((exact * rewards).sum()))
    assert metrics["mean_reward_target"] == pytest.approx(float(rewards.square().sum() / rewards.sum()))


def test_a_graph_over_the_limit_of_edges_is_not_evaluated_exactly() -> None:
    edges = 2 * 5 * 4 + 25
    assert "l1_exact" in trained(config(eval__max_exact_edges=edges)).history[-1]
    assert "l1_exact" not in trained(config(eval__max_exact_edges=edges - 1)).history[-1]


def test_the_loop_does_as_many_iterations_as_cover_the_trajectories() -> None:
    for trajectories, iterations in ((1, 1), (16, 1), (17, 2), (160, 10)):
        trainer = trained(config(trajectories=trajectories))
        assert (trainer.iteration, trainer.trajectories) == (iterations, 16 * iterations)
        assert len(trainer.history) == 1


def test_stopping_leaves_the_run_unfinished_and_it_can_go_on() -> None:
    trainer, seen = built(config(eval_every=4)), []
    assert not trainer.train(seen.append, lambda: trainer.iteration == 6, progress=False)
    assert (trainer.iteration, len(seen)) == (6, 1)
    assert trainer.train(seen.append, lambda: False, progress=False)
    assert (trainer.iteration, len(seen)) == (12, 3)
    assert seen == trainer.history
    assert torch.equal(weights(trainer), weights(trained(config(eval_every=4))))


def test_seconds_grow_and_iterations_per_second_fit_them() -> None:
    history = trained(config(eval_every=4)).history
    seconds = [0.0, *(row["seconds"] for row in history)]
    assert seconds == sorted(seconds)
    for row, before, after in zip(history, seconds, seconds[1:], strict=False):
        assert row["iterations_per_second"] == pytest.approx(4 / (after - before))


def test_epsilon_falls_linearly_and_stays_at_its_end() -> None:
    trainer = built(config(epsilon=0.5, epsilon_end=0.1, epsilon_trajectories=16 * 8))
    seen = []
    for _ in range(11):
        seen.append(trainer.epsilon())
        trainer.step()
    assert seen == pytest.approx([0.5 - 0.05 * i for i in range(8)] + [0.1] * 3)
    constant = built(config(epsilon=0.3))
    constant.step()
    assert constant.epsilon() == 0.3


def test_nothing_is_learned_before_learning_starts_but_all_is_collected() -> None:
    trainer = built(config("mdqn", "tlm", learning_starts=4))
    start = weights(trainer)
    for _ in range(4):
        trainer.step()
    assert torch.equal(start, weights(trainer))
    assert trainer.buffer.filled > 4 * 16
    trainer.step()
    assert not torch.equal(start, weights(trainer))


def _with_bad_reward(value: float) -> DAG:
    dag = Hypergrid(dim=2, side=5)
    log_reward = dag.log_reward
    dag.log_reward = lambda states: torch.where((states == torch.tensor([0, 1, 1])).all(1), value, log_reward(states))
    return dag


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_bad_reward_stops_the_run_before_it_is_learned_from_and_is_named(value: float) -> None:
    with pytest.raises(ValueError, match=r"at state \[0, 1, 1\]"):
        build_trainer(config(eval__max_exact_edges=1000), _with_bad_reward(value))
    trainer = build_trainer(config(trajectories=16 * 100), _with_bad_reward(value))
    with pytest.raises(ValueError, match=r"at state \[0, 1, 1\]"):
        _train(trainer)
    assert bool(weights(trainer).isfinite().all())


@pytest.mark.parametrize(("agent", "backward"), [("db", "uniform"), ("tb", "tlm"), ("softdqn", "naive")])
@pytest.mark.parametrize("stops", [False, True])
def test_a_loss_that_is_no_number_stops_the_run_before_it_is_evaluated_or_handed_back(
    agent: str, backward: str, stops: bool
) -> None:
    trainer, seen = built(config(agent, backward, eval_every=4)), []
    _train(trainer, until=1)
    with torch.no_grad():
        next(trainer.network.parameters()).fill_(math.nan)
    with pytest.raises(FloatingPointError, match="no longer finite"):
        trainer.train(seen.append, lambda: stops and trainer.iteration == 3, progress=False)
    assert seen == []
    assert trainer.iteration == 2


def test_the_progress_line_has_the_loss_the_leading_metric_and_the_time_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    trainer = built(config("tb", "uniform", trajectories=16 * 120, eval_every=50, eval__max_exact_edges=1000))
    trainer.train(lambda metrics: None, lambda: False, progress=True)
    line = capsys.readouterr().err.split("\r")[-1]
    assert "loss=" in line
    assert f"TV exact={trainer.history[-2]['total_variation_exact']:.4f}" in line
    assert " left, " in line
