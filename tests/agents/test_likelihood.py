"""Estimates by trajectories: exact at the true flows, unbiased elsewhere, and bounds on their two sides."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from toy_dags import Bag
from true_flows import SMALL, Flow

from agents.backward import Backward, Naive, Uniform
from agents.evaluation import estimates as likelihood
from agents.evaluation.estimates import elbo, eubo, flow_consistency, log_likelihood, log_ratios
from agents.networks.base import Network
from agents.objectives import losses
from agents.objectives.balance import Balance
from agents.objectives.base import Agent
from agents.objectives.trajectory import ConstantFlow
from agents.optimizer import Optimizer
from agents.sampling.categorical import log_prob
from agents.sampling.rollout import Trajectories, rollout
from agents.training import train
from gfn_envs import enumerate_dag

SEEDS = [0, 1]
ALL = {**SMALL, "bag": Bag}


def _agent(flow: Flow, network: Network, backward: Backward | None = None) -> Balance:
    """Return an agent whose policies are those of a tabular network."""
    dag = flow.enumeration.dag
    optimizer = Optimizer(network, [(network.parameters(), 0.0)])
    backward = backward or Naive(dag, network)
    return Balance(dag, network, backward, ConstantFlow(dag.device), losses.trajectory_balance, False, optimizer)


def _true(dag: str, seed: int = 0) -> tuple[Flow, Balance]:
    flow = Flow.of(SMALL[dag](), seed)
    return flow, _agent(flow, flow.network())


def _random(dag: str, seed: int = 0, uniform: bool = False) -> tuple[Flow, Balance]:
    """Return an agent with random P_F, and P_B random or uniform."""
    flow, generator = Flow.of(ALL[dag](), seed), torch.Generator().manual_seed(seed + 100)
    network = flow.network()
    with torch.no_grad():
        for name in ("forward", "backward"):
            values = network.table(name)
            values.copy_(torch.randn(values.shape, generator=generator, dtype=values.dtype))
    return flow, _agent(flow, network, Uniform(flow.enumeration.dag) if uniform else None)


def _complete(flow: Flow) -> Tensor:
    return flow.enumeration.states[flow.enumeration.terminal]


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dag", SMALL)
def test_one_walk_gives_the_exact_likelihood_at_the_true_flow_of_any_backward_policy(dag: str, seed: int) -> None:
    flow, agent = _true(dag, seed)
    for rollouts in (1, 3):
        found = log_likelihood(agent, _complete(flow), rollouts, _generator())
        torch.testing.assert_close(found, flow.enumeration.log_reward - flow.enumeration.log_z, rtol=0, atol=1e-5)


CASES = [(dag, uniform) for dag in ("grid", "subsets", "skips") for uniform in (True, False)]


# A bag's slots are renamed: a table of backward logits would not treat them alike, so it has the uniform one alone.
@pytest.mark.parametrize(("dag", "uniform"), [*CASES, ("bag", True)])
def test_likelihoods_of_a_random_policy_are_unbiased(dag: str, uniform: bool) -> None:
    flow, agent = _random(dag, uniform=uniform)
    exact, states = flow.enumeration.terminal_distribution(agent.policy()), _complete(flow)
    for rollouts, repeats in ((1, 4000), (5, 800)):
        many = states.repeat_interleave(repeats, 0)
        found = log_likelihood(agent, many, rollouts, _generator(), chunk=50_000).double().exp().view(-1, repeats)
        error = found.std(1) / math.sqrt(repeats)
        assert bool(((found.mean(1) - exact).abs() <= 5 * error + 1e-6).all())
        assert float((found.mean(1) - exact).abs().sum()) < 0.05


@pytest.mark.parametrize("dag", ["grid", "subsets"])
def test_more_walks_tighten_the_bound(dag: str) -> None:
    flow, agent = _random(dag)
    exact = flow.enumeration.terminal_distribution(agent.policy()).log()
    states = _complete(flow).repeat(200, 1)
    gaps = [
        float((exact.repeat(200) - log_likelihood(agent, states, rollouts, _generator())).mean())
        for rollouts in (1, 4, 16)
    ]
    assert gaps[0] > 1.5 * gaps[1] > 1.5**2 * gaps[2] > 0


def test_the_standard_error_is_the_spread_of_repeated_estimates() -> None:
    flow, agent = _random("grid")
    states = _complete(flow)
    found, error = likelihood.likelihood(agent, states.repeat_interleave(400, 0), 50, _generator(), chunk=50_000)
    spread = found.view(-1, 400).double().std(1)
    ratio = error.view(-1, 400).double().mean(1) / spread
    assert 0.85 < float(ratio.nanmedian()) < 1.15  # it is lower where few walks carry the mean
    assert float(spread.max()) > 0.1
    assert bool(likelihood.likelihood(agent, states, 1, _generator())[1].isnan().all())


def test_each_state_keeps_its_place_whatever_the_chunk() -> None:
    flow, agent = _random("subsets")
    states = torch.cat([_complete(flow), _complete(flow).flip(0)])
    exact = flow.enumeration.terminal_distribution(agent.policy()).log()
    exact = torch.cat([exact, exact.flip(0)])
    results = [log_likelihood(agent, states, 3000, _generator(), chunk) for chunk in (999, 10**6)]
    for found in results:
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=0.25)
    assert not torch.equal(results[0], results[1])
    flow, agent = _true("subsets")
    for chunk in (1, 7, 1000):
        found = log_likelihood(agent, _complete(flow), 2, _generator(), chunk)
        torch.testing.assert_close(found, flow.enumeration.log_reward - flow.enumeration.log_z, rtol=0, atol=1e-5)


def test_equal_generators_give_equal_estimates() -> None:
    flow, agent = _random("grid")
    one, two, other = (log_likelihood(agent, _complete(flow), 2, _generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def _target_samples(flow: Flow, n: int) -> Tensor:
    return _complete(flow)[torch.multinomial(flow.enumeration.target, n, replacement=True, generator=_generator())]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dag", SMALL)
def test_elbo_and_eubo_enclose_log_z_and_meet_it_at_the_true_flow(dag: str, seed: int) -> None:
    flow, agent = _random(dag, seed)
    log_z, samples = flow.enumeration.log_z, _target_samples(flow, 4000)
    low, high = float(elbo(agent, 4000, _generator())), float(eubo(agent, samples, _generator()))
    assert low < log_z < high
    flow, agent = _true(dag, seed)
    for bound in (elbo(agent, 10, _generator()), eubo(agent, samples[:10], _generator())):
        assert float(bound) == pytest.approx(log_z, abs=1e-5)


@pytest.mark.parametrize("dag", ["grid", "subsets", "skips"])
def test_the_elbo_falls_short_by_the_divergence_of_the_trajectories(dag: str) -> None:
    flow, agent = _random(dag)
    e = flow.enumeration
    log_pf, log_pb = e.edge_log_probs(agent.policy()), e.edge_log_probs(agent.backward.logits, backward=True)
    passing = e.state_probabilities(log_pf)
    terminal = passing[e.terminal]
    expected = float((terminal * e.log_reward).sum() - (passing[e.parents] * log_pf.exp() * (log_pf - log_pb)).sum())
    assert float(elbo(agent, 20_000, _generator())) == pytest.approx(expected, abs=0.08)


def test_ratios_are_the_plain_sums_along_each_walk() -> None:
    flow, agent = _random("skips")
    e, walks = flow.enumeration, rollout(flow.enumeration.dag, agent.policy(), flow.enumeration.dag.reset(50), None)
    assert len(set(walks.lengths.tolist())) > 1
    log_pf, log_pb = e.edge_log_probs(agent.policy()), e.edge_log_probs(agent.backward.logits, backward=True)
    edges = flow.edges(walks)
    wanted = torch.where(walks.mask, (log_pf - log_pb)[edges], 0.0).sum(1)
    torch.testing.assert_close(log_ratios(agent, walks), wanted, rtol=0, atol=1e-5)


def _at_the_parent(agent: Agent, trajectories: Trajectories) -> Tensor:
    """P_B read one state too early."""
    rows = trajectories.rows
    log_pf = log_prob(agent.policy()(rows.states), agent.dag.action_mask(rows.states), rows.actions)
    log_pb = agent.backward.log_prob(agent.network(rows.states.roll(1, 0)), rows.backward_actions)
    edges = rows.pad(torch.where(rows.has_action, log_pf, 0.0))[:, :-1]
    return edges.sum(1) - rows.pad(torch.where(rows.has_parent, log_pb, 0.0))[:, 1:].sum(1)


MUTANTS: dict[str, Callable] = {
    "P_B at the parent": _at_the_parent,
    "sign": lambda agent, trajectories: -log_ratios(agent, trajectories),
    "no log K": lambda agent, trajectories: log_ratios(agent, trajectories) + math.log(3),
    "no P_B": lambda agent, trajectories: log_ratios(agent, trajectories) * 0.5,
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_wrong_estimates_are_told_from_the_right_one(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flow, agent = _true("subsets")
    exact = flow.enumeration.log_reward - flow.enumeration.log_z
    assert float((log_likelihood(agent, _complete(flow), 3, _generator()) - exact).abs().max()) < 1e-5
    monkeypatch.setattr(likelihood, "log_ratios", MUTANTS[mutant])
    assert float((log_likelihood(agent, _complete(flow), 3, _generator()) - exact).abs().max()) > 0.1


def test_flow_consistency_is_the_total_variation_within_sets_and_knows_no_log_z() -> None:
    log_reward, log_p = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def within(some: tuple[int, ...]) -> float:
        p, r = (torch.tensor([float(x[i].exp()) for i in some]) for x in (log_p, log_reward))
        return float((p / p.sum() - r / r.sum()).abs().sum()) / 2

    every = [within(pair) for pair in itertools.combinations(range(6), 2)]
    found = flow_consistency(log_p, log_reward, 20_000, 2, torch.Generator().manual_seed(0))
    assert float(found) == pytest.approx(sum(every) / len(every), abs=0.005)
    whole = flow_consistency(log_p, log_reward, 3, 99, torch.Generator())
    assert float(whole) == pytest.approx(within(tuple(range(6))))
    assert float(flow_consistency(log_reward + 7, log_reward, 50, 3, torch.Generator())) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("env", "kwargs"), [("gfn/Set-v0", {"items": 6, "size": 3}), ("gfn/BayesNet-v0", {"variables": 3})]
)
def test_the_run_brackets_log_z_where_the_target_can_be_drawn(env: str, kwargs: dict) -> None:
    settings = {"eval.elbo_samples": 2000, "network.width": 16}
    chosen = {"env": env, "env_kwargs": kwargs, "agent": "tb", "backward": "tlm", "network": "mlp"}
    run = train(**chosen, trajectories=640, settings=settings, progress=False)
    log_z = enumerate_dag(run.trainer.dag).log_z
    assert run.metrics["elbo"] < log_z < run.metrics["eubo"]
