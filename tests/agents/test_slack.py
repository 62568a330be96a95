"""The slack is what the losses see beyond the objects: zero at the true flow, and the gap of two divergences always."""

from __future__ import annotations

import json

import pytest
import torch
from true_flows import SMALL, Flow

from agents.backward import Naive
from agents.config import usual, with_values
from agents.evaluation.evaluator import Evaluator
from agents.evaluation.gflownet import FixedPolicy
from agents.evaluation.slack import exact_slack
from agents.model import build_model, make_dag
from agents.networks.target import Targets
from agents.objectives.balance import DetailedBalanceSettings
from agents.parts import Parts
from gfn_envs import enumerate_dag
from gfn_envs.metrics import kl


@pytest.mark.parametrize("dag", SMALL)
def test_slack_is_zero_at_the_true_flow_and_positive_beside_it(dag: str) -> None:
    flow = Flow.of(SMALL[dag]())
    network = flow.network()
    parts = Parts(flow.enumeration.dag, network, Targets(network))
    agent = DetailedBalanceSettings().build(parts, Naive(parts.dag, network))
    figures = exact_slack(flow.enumeration, agent)
    assert figures["slack"] == pytest.approx(0, abs=1e-9)
    several = bool((parts.dag.backward_action_mask(flow.enumeration.states).sum(1) > 1).any())
    assert (figures["slack_uniform"] > 1e-3) is several
    # With the uniform P_B the two slacks are one.
    plain = exact_slack(flow.enumeration, FixedPolicy(parts.dag, flow.policy, stochastic=True))
    assert plain["slack"] == pytest.approx(figures["slack_uniform"], abs=1e-9)
    assert plain.get("backward_entropy", 1.0) == pytest.approx(1)


CASES = [("gfn/Hypergrid-v0", {"dim": 2, "side": 4}), ("gfn/QM9-v0", {"max_atoms": 3})]


@pytest.mark.parametrize(("env", "env_kwargs"), CASES)
def test_slack_is_the_divergence_of_trajectories_less_that_of_objects(env: str, env_kwargs: dict) -> None:
    settings = {"env_kwargs": json.dumps(env_kwargs), "device": "cpu", "backward.zero_init": False}
    config = with_values(usual(env, "db", "tlm"), settings)
    dag = make_dag(config)
    agent, enumeration = build_model(config, dag).agent, enumerate_dag(dag)
    log_pf = enumeration.edge_log_probs(agent.policy())
    log_pb = enumeration.edge_log_probs(agent.backward_policy(), backward=True)
    mass = enumeration.state_probabilities(log_pf)
    flow = mass[enumeration.parents] * log_pf.exp()
    ends = mass[enumeration.terminal]
    over_trajectories = (flow * (log_pf - log_pb)).sum() - (ends * enumeration.log_reward).sum() + enumeration.log_z
    over_objects = kl(ends, enumeration.target)
    assert exact_slack(enumeration, agent)["slack"] == pytest.approx(float(over_trajectories) - over_objects, abs=1e-6)
    assert exact_slack(enumeration, agent)["slack"] > 0.01


@pytest.mark.parametrize(("case", "sharp", "samples", "walks"), [(CASES[0], 20.0, 300, 40), (CASES[1], 1.0, 100, 30)])
def test_the_estimate_bounds_the_exact_slack_from_above_and_comes_near_it(
    case: tuple[str, dict], sharp: float, samples: int, walks: int
) -> None:
    env, env_kwargs = case
    settings = {"env_kwargs": json.dumps(env_kwargs), "device": "cpu", "backward.zero_init": False}
    settings |= {"eval.max_exact_edges": 0, "eval.slack_objects": samples, "eval.test_rollouts": walks}
    config = with_values(usual(env, "db", "tlm"), settings)
    dag = make_dag(config)
    model = build_model(config, dag)
    with torch.no_grad():
        for weight in model.parts.network.head("forward").parameters():
            weight.mul_(sharp)
    exact = exact_slack(enumerate_dag(dag), model.agent)
    evaluator = Evaluator(dag, config.eval)
    assert evaluator.enumeration is None
    estimated = evaluator.metrics["slack"].compute(model.agent, last=True)
    # The slack is well above what the estimate may be off by, and so are the symmetries (0.16).
    for name in ("slack", "slack_uniform"):
        assert exact[name] > 0.2
        assert estimated[name] == pytest.approx(exact[name], abs=0.1)
    assert (exact["slack"] > exact["slack_uniform"]) == (estimated["slack"] > estimated["slack_uniform"])


def test_measuring_slack_changes_no_other_figure() -> None:
    settings = {"env_kwargs": '{"n": 8, "k": 2}', "device": "cpu", "eval.max_exact_edges": 0, "eval.test_every": 1}
    config = with_values(usual("gfn/BitSequence-v0", "tb", "uniform"), {**settings, "eval.test_objects": 20})
    dag = make_dag(config)
    agent = build_model(config, dag).agent
    figures = []
    for without in (False, True):
        evaluator = Evaluator(dag, config.eval, seed=3)
        if without:
            del evaluator.metrics["slack"]
        torch.manual_seed(0)
        figures.append(evaluator.evaluate(agent))
    timeless = [{k: v for k, v in row.items() if "second" not in k and "slack" not in k} for row in figures]
    # NaN is told apart from itself by ==.
    assert str(timeless[0]) == str(timeless[1])
    assert "slack" in figures[0]
