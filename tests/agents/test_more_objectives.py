"""Objectives beside the balance losses: hand-worked values, plain loops, rest at the true flow, exact gradients."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_dags import Bag
from true_flows import SMALL, Flow, Table, TabularNetwork, sample

from agents.backward import Naive, Uniform
from agents.build import build_trainer
from agents.config import CHOICES, usual, with_values
from agents.model import make_dag
from agents.networks.base import Heads, Network
from agents.networks.target import Targets
from agents.objectives import losses
from agents.objectives.balance import PENALTIES, Balance
from agents.objectives.flow_matching import FlowMatching
from agents.objectives.forward_looking import ForwardLookingFlow, StopFlow
from agents.objectives.losses import advantages, log_partition_estimates, log_partition_variance, trajectory_balance
from agents.objectives.policy_gradient import EntropicPPO, PolicyGradient
from agents.objectives.sac import SoftActorCritic
from agents.objectives.trajectory import BatchPartition
from agents.optimizer import Optimizer
from agents.parts import Parts
from agents.sampling.buffer import Batch, Keeps, RolloutBuffer, Transitions
from agents.sampling.rollout import Trajectories, rollout
from gfn_envs import DAG, Enumeration, Hypergrid, enumerate_dag, make
from gfn_envs.exact import masked_log_softmax

KNOWN = ("line", "grid", "cube", "subsets")
"""Those of `SMALL` that know a part of the reward before the end."""
STOPPING = ("line", "grid", "cube")
"""Those of them that may stop everywhere."""
PATHS: dict[str, Callable[[], DAG]] = {
    "grid": lambda: Hypergrid(dim=2, side=3),
    "subsets": SMALL["subsets"],
    "skips": SMALL["skips"],
}
"""DAGs with few trajectories."""


class Told(Naive):
    """A P_B of the network that does not learn."""

    learned_by_agent = ()


class Recorder:
    """An optimizer that takes no step and keeps each gradient of one table."""

    def __init__(self, table: Tensor) -> None:
        self.table, self.gradients = table, []

    def minimise(self, loss: Tensor) -> None:
        (gradient,) = torch.autograd.grad(loss, [self.table], allow_unused=True)
        self.gradients.append(torch.zeros_like(self.table) if gradient is None else gradient)


def noise(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def agent_of(name: str, network: Network, dag: DAG, record: str = "forward", **settings: Any) -> Any:
    """Return an agent on a tabular network whose P_B it is told, and which records instead of learning."""
    chosen = dataclasses.replace(CHOICES["agent"].find(name)(), **settings)
    agent = chosen.build(Parts(dag, network, Targets(network)), Told(dag, network))
    agent.optimizer = Recorder(network.head(record).get_parameter("values"))
    return agent


def buffer_of(dag: DAG, trajectories: Trajectories) -> RolloutBuffer:
    buffer = RolloutBuffer(dag, Keeps(transitions=4000))
    buffer.add(Batch(trajectories, trajectories))
    return buffer


def tables(enumeration: Enumeration, heads: Heads, values: list[Tensor]) -> Network:
    """Return a network whose heads are tables, in the order of `heads`."""
    rest = iter(values)
    return Network(heads, nn.Identity, lambda kind: Table(enumeration, next(rest)))


def random_network(flow: Flow, seed: int = 0) -> TabularNetwork:
    """Return a network with the flow's P_B and random numbers otherwise."""
    e, dag = flow.enumeration, flow.enumeration.dag
    values = {
        "forward": noise((e.num_states, dag.num_actions), seed),
        "backward": flow.backward_logits.clone(),
        "flow": noise((e.num_states, 1), seed + 1),
    }
    return TabularNetwork(e, values)


def all_trajectories(enumeration: Enumeration) -> Trajectories:
    """Return every trajectory of a DAG once."""
    e, leaving = enumeration, {}
    for edge, parent in enumerate(e.parents.tolist()):
        leaving.setdefault(parent, []).append(edge)
    done: list[list[int]] = []
    todo: list[list[int]] = [[edge] for edge in leaving[0]]
    while todo:
        path = todo.pop()
        further = leaving.get(int(e.children[path[-1]]), [])
        todo += [[*path, edge] for edge in further]
        done += [] if further else [path]
    longest = max(map(len, done))
    mask = torch.tensor([[t < len(path) for t in range(longest)] for path in done])
    edges = torch.tensor([path + [0] * (longest - len(path)) for path in done])
    ends = torch.tensor([int(e.children[path[-1]]) for path in done])
    at = torch.where(mask, e.children[edges], ends[:, None])
    states = torch.cat([e.states[:1].expand(len(done), 1, -1), e.states[at]], 1)
    rewards = e.dag.log_rewards(e.states[ends])
    return Trajectories(states, e.actions[edges] * mask, e.backward_actions[edges] * mask, mask, *rewards)


# --- Penalties --------------------------------------------------------------------------------------------------------


def test_exponential_penalties_worked_out_by_hand() -> None:
    e = math.e
    residuals = torch.tensor([0.0, 1.0, -1.0, 2.0, -2.0], dtype=torch.float64)
    expected = {
        losses.cosh: [0, e + 1 / e - 2, e + 1 / e - 2, e**2 + e**-2 - 2, e**2 + e**-2 - 2],
        losses.linex: [0, 1 / e, e - 2, e**-2 + 1, e**2 - 3],
        losses.linex_half: [0, 4 * (e**-0.5 - 0.5), 4 * (e**0.5 - 1.5), 4 / e, 4 * (e - 2)],
    }
    for penalty, values in expected.items():
        torch.testing.assert_close(penalty(residuals), torch.tensor(values, dtype=torch.float64))


@pytest.mark.parametrize("name", PENALTIES)
def test_every_penalty_is_least_at_zero_and_finite_and_steeper_far_away(name: str) -> None:
    residuals = torch.cat([-torch.logspace(6, -2, 60), torch.zeros(1), torch.logspace(-2, 6, 60)]).requires_grad_()
    costs = PENALTIES[name](residuals)
    (slopes,) = torch.autograd.grad(costs.sum(), residuals)
    assert bool((costs >= 0).all())
    assert float(costs[60].detach()) == 0
    assert bool(slopes.isfinite().all())
    # Convex: slopes do not fall, up to rounding.
    assert bool((slopes[1:] >= slopes[:-1] - 1e-3).all())
    torch.testing.assert_close(torch.sign(slopes[::60]), torch.tensor([-1.0, 0.0, 1.0]))


def _exact_gradients(dag: str, penalty: losses.Penalty) -> dict[str, Tensor]:
    """Return the gradients, by P_F's logits, of the on-policy mean loss and of both divergences."""
    flow = Flow.of(PATHS[dag]())
    e, paths = flow.enumeration, all_trajectories(flow.enumeration)
    log_flow, _, log_pb, mask = flow.along(paths)
    logits = noise((e.num_states, e.dag.num_actions)).requires_grad_()
    by_edge = masked_log_softmax(logits, e.dag.action_mask(e.states))[e.parents, e.actions]
    log_pf = by_edge[flow.edges(paths)]
    log_f, log_b = (torch.where(mask, each, 0.0).sum(1) for each in (log_pf, log_pb))
    log_b = log_b + log_flow.gather(1, paths.lengths[:, None])[:, 0] - e.log_z
    assert float(log_b.exp().sum()) == pytest.approx(1), "all trajectories are there"
    parts = {
        "loss": (log_f.exp().detach() * trajectory_balance(log_flow, log_pf, log_pb, mask, penalty)).sum(),
        "backward from forward": (log_b.exp() * (log_b - log_f)).sum(),
        "forward from backward": (log_f.exp() * (log_f - log_b)).sum(),
    }
    return {name: torch.autograd.grad(part, logits, retain_graph=True)[0] for name, part in parts.items()}


@pytest.mark.parametrize("dag", PATHS)
def test_on_policy_linex_follows_the_divergence_that_covers_and_the_square_the_one_that_seeks(dag: str) -> None:
    linex = _exact_gradients(dag, losses.linex)
    torch.testing.assert_close(linex["loss"], linex["backward from forward"])
    square = _exact_gradients(dag, torch.square)
    torch.testing.assert_close(square["loss"], 2 * square["forward from backward"])
    turned = _exact_gradients(dag, lambda residual: losses.linex(-residual))
    assert float((turned["loss"] - linex["loss"]).abs().max()) > 0.01


# --- Pure functions of padded trajectories ----------------------------------------------------------------------------


def _random_batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return arguments of losses for trajectories of 1 to 5 steps."""
    flow, pf, pb = (noise((5, n), 10 * seed + n + i) for i, n in enumerate((6, 5, 5)))
    return flow, pf, pb, torch.arange(5) < torch.tensor([[1], [2], [3], [4], [5]])


def _variance_loop(flow: Tensor, pf: Tensor, pb: Tensor, mask: Tensor, penalty: losses.Penalty) -> list[float]:
    estimates = []
    for i, n in enumerate(mask.sum(1).tolist()):
        estimates.append(float(flow[i, n]) + sum(float(pb[i, t]) - float(pf[i, t]) for t in range(n)))
    mean = sum(estimates) / len(estimates)
    return [float(penalty(torch.tensor(mean - each, dtype=torch.float64))) for each in estimates]


def _advantage_loop(flow: Tensor, pf: Tensor, pb: Tensor, mask: Tensor, lamda: float) -> Tensor:
    result = torch.zeros_like(pf)
    for i, n in enumerate(mask.sum(1).tolist()):
        for t in range(n):
            for k in range(t, n):
                result[i, t] -= lamda ** (k - t) * (flow[i, k] + pf[i, k] - flow[i, k + 1] - pb[i, k])
    return result


@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_variance_of_log_partitions_equals_the_loop(penalty: str) -> None:
    for seed in range(3):
        batch = _random_batch(seed)
        expected = _variance_loop(*batch, PENALTIES[penalty])
        torch.testing.assert_close(
            log_partition_variance(*batch, PENALTIES[penalty]), torch.tensor(expected, dtype=torch.float64)
        )


def test_the_variance_of_log_partitions_is_that_of_the_estimates() -> None:
    flow, pf, pb, mask = _random_batch()
    ends = flow.gather(1, mask.sum(1, keepdim=True))[:, 0]
    estimates = log_partition_estimates(pf, pb, ends, mask)
    variance = log_partition_variance(flow, pf, pb, mask).mean()
    torch.testing.assert_close(variance, estimates.var(correction=0))
    # It equals trajectory balance whose log Z is the mean, also in its gradient.
    constant = flow.clone()
    constant[:, 0] = estimates.mean()
    torch.testing.assert_close(trajectory_balance(constant, pf, pb, mask).mean(), variance)


def test_log_partition_estimates_worked_out_by_hand() -> None:
    pf = torch.tensor([[-1.0, -2.0, 99.0], [-0.5, -0.5, -1.0]])
    pb = torch.tensor([[0.0, -0.5, -99.0], [0.0, -1.0, -1.0]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    expected = torch.tensor([1.0 + 2.5, 2.0 + 0.0])
    torch.testing.assert_close(log_partition_estimates(pf, pb, torch.tensor([1.0, 2.0]), mask), expected)


def test_advantages_worked_out_by_hand() -> None:
    # Residuals (1, -2) and (0.5, 0.5, 1), lambda = 1/2.
    flow = torch.tensor([[3.0, 1.0, 2.0, 99.0], [0.0, 1.0, -1.0, 0.0]])
    pf = torch.tensor([[-1.5, -1.0, 99.0], [-0.5, -2.0, 0.0]])
    pb = torch.tensor([[-0.5, 0.0, 99.0], [-2.0, -0.5, -2.0]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    expected = -torch.tensor([[1 - 1.0, -2.0, 0.0], [0.5 + 0.25 + 0.25, 0.5 + 0.5, 1.0]])
    torch.testing.assert_close(advantages(flow, pf, pb, mask, 0.5), expected)


@pytest.mark.parametrize("lamda", [0.0, 0.3, 0.7, 1.0])
def test_advantages_equal_the_double_loop(lamda: float) -> None:
    for seed in range(3):
        batch = _random_batch(seed)
        torch.testing.assert_close(advantages(*batch, lamda), _advantage_loop(*batch, lamda))


def test_padding_changes_neither_estimates_nor_advantages_nor_their_gradients() -> None:
    flow, pf, pb, mask = _random_batch()
    states = torch.nn.functional.pad(mask, (1, 0), value=True)
    for function in (log_partition_variance, lambda *x: advantages(*x, 0.7).square().sum(1)):
        results = []
        for fill in (0.0, 1e4, -1e30):
            inputs = [
                x.masked_fill(~keep, fill).requires_grad_() for x, keep in ((flow, states), (pf, mask), (pb, mask))
            ]
            value = function(*inputs, mask)
            gradients = torch.autograd.grad(value.sum(), inputs)
            results.append(torch.cat([value.detach(), *(g.flatten() for g in gradients)]))
            assert all(bool((g[~keep] == 0).all()) for g, keep in zip(gradients, (states, mask, mask), strict=True))
        for other in results[1:]:
            torch.testing.assert_close(other, results[0])


# --- Rest at the true flow --------------------------------------------------------------------------------------------


def _at_rest(name: str, flow: Flow) -> Network:
    """Return the network that says the true flow in the words of an agent."""
    e = flow.enumeration
    forward = flow.log_flow[:, None] + flow.forward_logits
    if name == "sac":
        heads: Heads = {"forward": "forward", "q1": "forward", "q2": "forward", "backward": "backward"}
        return tables(e, heads, [flow.forward_logits, forward, forward.clone(), flow.backward_logits])
    network = flow.network()
    with torch.no_grad():
        if name == "fm":
            network.table("forward").copy_(forward)
        if name.startswith("fl-"):
            assert hasattr(e.dag, "log_potential")
            network.table("flow").sub_(e.dag.log_potential(e.states)[:, None])
    return network


AGENTS_ON = [
    *((name, dag) for name in ("vargrad", "fm", "pg", "ent-ppo", "sac") for dag in SMALL),
    *((name, dag) for name in ("fl-db", "fl-subtb") for dag in KNOWN),
    *(("mdb", dag) for dag in STOPPING),
]


@pytest.mark.parametrize(("name", "dag"), AGENTS_ON)
def test_agents_are_at_rest_at_the_true_flow_and_nowhere_near_it(name: str, dag: str) -> None:
    flow = Flow.of(SMALL[dag]())
    e = flow.enumeration
    network = _at_rest(name, flow)
    agent = agent_of(name, network, e.dag)
    torch.testing.assert_close(e.edge_log_probs(agent.policy()), flow.log_pf)
    buffer = buffer_of(e.dag, sample(e.dag, 64))
    told = agent.update(buffer)
    assert float(told["loss"]) == pytest.approx(0, abs=1e-9)
    assert float(told.get("value_loss", torch.zeros(()))) < 1e-9
    assert max(float(g.abs().max()) for g in agent.optimizer.gradients) < 1e-6
    assert float(agent.log_z()) == pytest.approx(e.log_z, abs=1e-5)
    agent.optimizer.gradients.clear()
    with torch.no_grad():
        network.head("forward").get_parameter("values").add_(noise((e.num_states, e.dag.num_actions)))
    agent.update(buffer)
    assert max(float(g.abs().max()) for g in agent.optimizer.gradients) > 1e-3


# --- Log-partition variance -------------------------------------------------------------------------------------------


def test_log_z_of_vargrad_is_a_running_mean_of_the_batch_means() -> None:
    flow = Flow.of(SMALL["cube"]())
    dag = flow.enumeration.dag
    agent = agent_of("vargrad", random_network(flow), dag)
    assert isinstance(agent, BatchPartition)
    expected = 0.0
    for i in range(4):
        batch = sample(dag, 20, seed=i)
        agent.update(buffer_of(dag, batch))
        _, log_pf, log_pb, mask = agent.terms(batch)
        mean = float(log_partition_estimates(log_pf, log_pb, batch.log_reward, mask).mean().detach())
        expected = mean if i == 0 else 0.9 * expected + 0.1 * mean
        assert float(agent.log_z()) == pytest.approx(expected, rel=1e-5)
    again = agent_of("vargrad", random_network(flow), dag)
    again.own.load_state_dict(agent.own.state_dict())
    for each in (agent, again):
        each.update(buffer_of(dag, sample(dag, 20, seed=9)))
    assert float(again.log_z()) == float(agent.log_z())


@pytest.mark.parametrize("penalty", ["squared", "huber"])
def test_tb_at_the_log_z_of_the_batch_is_tb_at_that_number(penalty: str) -> None:
    """Its gradient is that of TB whose log Z is held at the batch's mean; for squares it is VarGrad's too."""
    flow = Flow.of(SMALL["cube"]())
    dag, network = flow.enumeration.dag, random_network(flow)
    batch = sample(dag, 20, seed=3)
    agent = agent_of("tb", network, dag, log_z_from="batch", penalty=penalty)
    log_flow, log_pf, log_pb, mask = agent.terms(batch)
    mean = log_partition_estimates(log_pf, log_pb, batch.log_reward, mask).mean().detach()
    held = torch.cat([mean.expand(len(mask), 1), log_flow[:, 1:].detach()], 1)
    expected = trajectory_balance(held, log_pf, log_pb, mask, PENALTIES[penalty]).mean()
    assert float(agent.update(buffer_of(dag, batch))["loss"]) == pytest.approx(float(expected.detach()), rel=1e-6)
    found = [g.clone() for g in agent.optimizer.gradients]
    (gradient,) = torch.autograd.grad(expected, [network.head("forward").get_parameter("values")])
    torch.testing.assert_close(found[0], gradient)
    other = agent_of("vargrad", network, dag, penalty=penalty)
    other.update(buffer_of(dag, batch))
    assert torch.allclose(other.optimizer.gradients[0], gradient, atol=1e-6) is (penalty == "squared")


# --- Flow matching ----------------------------------------------------------------------------------------------------


def test_inflow_and_outflow_are_the_sums_over_the_edges() -> None:
    for make_one in SMALL.values():
        flow = Flow.of(make_one())
        e, network = flow.enumeration, random_network(flow)
        agent = agent_of("fm", network, e.dag)
        assert isinstance(agent, FlowMatching)
        inflow, outflow = [0.0] * e.num_states, [0.0] * e.num_states
        table = network.table("forward").tolist()
        for s, a, t in zip(e.parents.tolist(), e.actions.tolist(), e.children.tolist(), strict=True):
            inflow[t] += math.exp(table[s][a])
            outflow[s] += math.exp(table[s][a])
        with torch.no_grad():
            found_in, found_out = agent.log_inflow(e.states), agent.log_outflow(e.states)
        inner = [s for s in range(e.num_states) if s not in set(e.terminal.tolist())]
        assert found_in[1:].exp().tolist() == pytest.approx(inflow[1:])
        assert found_out[inner].exp().tolist() == pytest.approx([outflow[s] for s in inner])
        assert float(agent.log_z()) == pytest.approx(math.log(outflow[0]))


class EdgeFlows(nn.Module):
    """log F(s, a) of the true flow for the uniform P_B, by a look at the ends of all edges, in any order of slots."""

    def __init__(self, enumeration: Enumeration, log_flow: Tensor) -> None:
        super().__init__()
        self.enumeration, self.log_flow = enumeration, log_flow

    def forward(self, states: Tensor) -> Tensor:
        dag, mask = self.enumeration.dag, self.enumeration.dag.action_mask(states)
        rows, actions = mask.nonzero(as_tuple=True)
        ends, _ = dag.step(states[rows], actions)
        parents = dag.backward_action_mask(ends).sum(1).double()
        flows = torch.zeros(mask.shape, dtype=torch.float64)
        flows[rows, actions] = self.log_flow[self.enumeration.index(ends)] - parents.log()
        return flows


@pytest.mark.parametrize("dag", ["bag", "qm9"])
def test_flow_matching_holds_by_slot_where_slots_are_renamed(dag: str) -> None:
    graph = Bag(n=3, k=3) if dag == "bag" else make("gfn/QM9-v0", max_atoms=3)
    e = enumerate_dag(graph)
    log_flow = e.log_flows(e.edge_log_probs(Uniform(graph).logits, backward=True))
    network = Network({"forward": "forward"}, nn.Identity, lambda kind: EdgeFlows(e, log_flow))
    agent = FlowMatching(graph, network, Uniform(graph), Optimizer(network, []))
    torch.testing.assert_close(agent.log_inflow(e.states)[1:], log_flow[1:])
    walks = rollout(graph, agent.policy(), graph.reset(50), torch.Generator().manual_seed(0))
    assert float(agent.residuals(buffer_of(graph, walks)).abs().max()) < 1e-5
    assert float(agent.log_z()) == pytest.approx(e.log_z)


def test_flow_matching_sees_every_deviation_at_both_ends_of_an_edge_and_averages_over_states() -> None:
    flow = Flow.of(SMALL["cube"]())
    e, network = flow.enumeration, _at_rest("fm", flow)
    agent = agent_of("fm", network, e.dag)
    batch = sample(e.dag, 40)
    rows, table = batch.rows, network.head("forward").get_parameter("values")
    for edge in range(0, len(e.parents), 11):
        s, t = int(e.parents[edge]), int(e.children[edge])
        table.data[s, e.actions[edge]] += 0.5
        residuals = agent.residuals(buffer_of(e.dag, batch)).detach()
        loss = float(agent.update(buffer_of(e.dag, batch))["loss"])
        table.data[s, e.actions[edge]] -= 0.5
        at = e.index(rows.states)
        assert torch.equal(residuals.abs() > 1e-6, ((at == s) | (at == t)) & (at != 0))
        assert bool((residuals[at == t] > 0).all()), "more flows in"
        assert loss == pytest.approx(float(residuals[at != 0].square().mean()))


# --- Flows that know a part of the reward -----------------------------------------------------------------------------


@pytest.mark.parametrize("dag", KNOWN)
def test_a_forward_looking_flow_adds_what_is_decided(dag: str) -> None:
    flow = Flow.of(SMALL[dag]())
    graph = flow.enumeration.dag
    network = random_network(flow)
    found = ForwardLookingFlow(graph)(network(flow.enumeration.states)).detach()
    assert hasattr(graph, "log_potential")
    expected = graph.log_potential(flow.enumeration.states) + network.table("flow")[:, 0].detach()
    torch.testing.assert_close(found, expected)
    assert float((found - network.table("flow")[:, 0]).detach().abs().max()) > 0.1 or dag == "line"


@pytest.mark.parametrize("dag", STOPPING)
def test_the_flow_of_modified_db_is_the_reward_of_stopping_by_its_probability(dag: str) -> None:
    flow = Flow.of(SMALL[dag]())
    e, graph = flow.enumeration, flow.enumeration.dag
    inner = (e.terminal_rank < 0).nonzero()[:, 0]
    stop = torch.full((len(inner),), graph.stop_action or 0)
    stopped, _ = graph.step(e.states[inner], stop)
    true = StopFlow(graph)(flow.network()(e.states[inner])).detach()
    torch.testing.assert_close(true, flow.log_flow[inner], rtol=0, atol=1e-5)
    network = random_network(flow)
    log_pf = masked_log_softmax(network.table("forward").detach(), graph.action_mask(e.states))
    expected = graph.log_reward(stopped) - log_pf[inner, stop]
    torch.testing.assert_close(StopFlow(graph)(network(e.states[inner])).detach(), expected, rtol=0, atol=1e-5)


def test_modified_db_has_nothing_to_learn_on_edges_that_stop() -> None:
    flow = Flow.of(SMALL["cube"]())
    agent = agent_of("mdb", random_network(flow), flow.enumeration.dag)
    assert isinstance(agent, Balance)
    log_flow, log_pf, log_pb, mask = (x.detach() for x in agent.terms(sample(flow.enumeration.dag, 64)))
    residuals = (log_flow[:, :-1] + log_pf - log_flow[:, 1:] - log_pb) * mask
    last = torch.nn.functional.one_hot(mask.sum(1) - 1, mask.shape[1]).bool()
    assert float(residuals[last].abs().max()) < 1e-5
    assert float(residuals[mask & ~last].abs().min()) > 1e-5


# --- Policy gradients -------------------------------------------------------------------------------------------------


def _divergence(flow: Flow, network: TabularNetwork) -> Tensor:
    """Return the gradient of KL(P_F || R/Z P_B) over all trajectories by P_F's table."""
    e, paths = flow.enumeration, all_trajectories(flow.enumeration)
    log_flow, _, log_pb, mask = flow.along(paths)
    logits = network.table("forward")
    by_edge = masked_log_softmax(logits, e.dag.action_mask(e.states))[e.parents, e.actions][flow.edges(paths)]
    log_f, log_b = (torch.where(mask, each, 0.0).sum(1) for each in (by_edge, log_pb))
    log_b = log_b + log_flow.gather(1, paths.lengths[:, None])[:, 0]
    return torch.autograd.grad((log_f.exp() * (log_f - log_b)).sum(), logits)[0]


def _expected(flow: Flow, network: TabularNetwork, name: str, **settings: Any) -> Tensor:
    """Return the expectation of an agent's gradient over trajectories of P_F, each as a batch of its own."""
    e, paths = flow.enumeration, all_trajectories(flow.enumeration)
    agent = agent_of(name, network, e.dag, **settings)
    by_edge = e.edge_log_probs(agent.policy())[flow.edges(paths)]
    probabilities = torch.where(paths.mask, by_edge, 0.0).sum(1).exp()
    assert float(probabilities.sum()) == pytest.approx(1)
    for i in range(len(probabilities)):
        agent.update(buffer_of(e.dag, paths.every(len(probabilities), i)))
    gradients = torch.stack(agent.optimizer.gradients)
    # A loss is a mean over the edges of its batch.
    return ((probabilities * paths.lengths)[:, None, None] * gradients).sum(0)


ONE_STEP: dict[str, dict[str, Any]] = {"pg": {}, "ent-ppo": {"epochs": 1, "minibatches": 1}}


@pytest.mark.parametrize("dag", PATHS)
@pytest.mark.parametrize("name", ONE_STEP)
def test_the_expected_gradient_to_the_end_is_that_of_the_divergence_whatever_the_values(name: str, dag: str) -> None:
    flow = Flow.of(PATHS[dag]())
    network = random_network(flow)
    gradient = _expected(flow, network, name, gae_lambda=1.0, **ONE_STEP[name])
    torch.testing.assert_close(gradient, _divergence(flow, network), rtol=1e-4, atol=1e-6)
    assert float(gradient.abs().max()) > 0.01
    # At the optimum nothing is left of it, though the values are wrong and single trajectories pull.
    with torch.no_grad():
        network.table("forward").copy_(flow.forward_logits)
    gradient = _expected(flow, network, name, gae_lambda=1.0, **ONE_STEP[name])
    assert float(gradient.abs().max()) < 1e-6


@pytest.mark.parametrize("lamda", [0.0, 0.7])
def test_with_the_values_of_the_policy_any_lambda_gives_the_gradient_of_the_divergence(lamda: float) -> None:
    flow = Flow.of(PATHS["skips"]())
    e, network = flow.enumeration, random_network(flow)
    log_pf = masked_log_softmax(network.table("forward").detach(), e.dag.action_mask(e.states))[e.parents, e.actions]
    value = torch.zeros(e.num_states, dtype=torch.float64)
    value[e.terminal] = e.log_reward
    for edge in reversed(range(len(e.parents))):
        s, t = int(e.parents[edge]), int(e.children[edge])
        value[s] += float(log_pf[edge].exp() * (flow.log_pb[edge] + value[t] - log_pf[edge]))
    with torch.no_grad():
        network.table("flow").copy_(value[:, None])
    gradient = _expected(flow, network, "pg", gae_lambda=lamda)
    torch.testing.assert_close(gradient, _divergence(flow, network), rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        network.table("flow").add_(noise((e.num_states, 1), 3))
    assert float((_expected(flow, network, "pg", gae_lambda=lamda) - gradient).abs().max()) > 0.01


def test_the_values_are_drawn_to_the_advantages_above_them() -> None:
    flow = Flow.of(SMALL["cube"]())
    dag, network = flow.enumeration.dag, random_network(flow)
    agent = agent_of("pg", network, dag, record="flow", gae_lambda=0.6, value_weight=0.5)
    assert isinstance(agent, PolicyGradient)
    batch = sample(dag, 30)
    log_flow, log_pf, log_pb, mask = (x.detach() for x in agent.terms(batch))
    gained = _advantage_loop(log_flow, log_pf, log_pb, mask, 0.6)
    told = agent.update(buffer_of(dag, batch))
    edges = int(mask.sum())
    value_loss = float(gained.square().sum()) / (2 * edges)
    assert float(told["value_loss"]) == pytest.approx(value_loss)
    assert float(told["loss"]) == pytest.approx(-float((log_pf * gained)[mask].sum()) / edges + 0.5 * value_loss)
    expected = torch.zeros(flow.enumeration.num_states, dtype=torch.float64)
    at = flow.enumeration.index(batch.states[:, :-1].flatten(0, 1))
    expected.index_add_(0, at, -0.5 * (gained * mask).flatten() / edges)
    torch.testing.assert_close(agent.optimizer.gradients[0][:, 0], expected)


@pytest.mark.parametrize("name", ONE_STEP)
def test_policy_gradients_learn_from_fresh_trajectories_alone(name: str) -> None:
    flow = Flow.of(SMALL["cube"]())
    dag, gradients = flow.enumeration.dag, []
    fresh, old = sample(dag, 8), sample(dag, 9, seed=1)
    for batch in (Batch(Trajectories.cat(fresh, old), fresh), Batch(fresh, fresh), Batch(old, old)):
        agent = agent_of(name, random_network(flow), dag)
        buffer = RolloutBuffer(dag, Keeps())
        buffer.add(batch)
        agent.update(buffer)
        gradients.append(torch.stack(agent.optimizer.gradients))
    assert torch.equal(gradients[0], gradients[1])
    assert not torch.equal(gradients[0], gradients[2])


def test_the_loss_of_entropic_ppo_equals_the_loop() -> None:
    flow = Flow.of(SMALL["cube"]())
    e, dag, network = flow.enumeration, flow.enumeration.dag, random_network(flow)
    agent = agent_of("ent-ppo", network, dag, clip=0.3, value_weight=0.7, gae_lambda=0.8)
    assert isinstance(agent, EntropicPPO)
    batch = sample(dag, 20)
    before = agent._before(batch)
    old_flow, old_pf, old_pb, mask = (x.detach() for x in agent.terms(batch))
    old_all = masked_log_softmax(network.table("forward").detach(), dag.action_mask(e.states))
    gained = _advantage_loop(old_flow, old_pf, old_pb, mask, 0.8)
    with torch.no_grad():
        network.table("forward").add_(noise((e.num_states, dag.num_actions), 5))
        network.table("flow").add_(noise((e.num_states, 1), 6))
    new_all = masked_log_softmax(network.table("forward").detach(), dag.action_mask(e.states))
    new_flow, gain, moved, values, sides = network.table("flow").detach(), 0.0, 0.0, 0.0, set()
    for i, n in enumerate(batch.lengths.tolist()):
        for t in range(n):
            s, a, advantage = int(e.index(batch.states[i, t][None])), batch.actions[i, t], float(gained[i, t])
            ratio = math.exp(float(new_all[s, a] - old_all[s, a]))
            clipped = min(max(ratio, 0.7), 1.3)
            gain += min(ratio * advantage, clipped * advantage)
            sides.add((ratio > 1, clipped == ratio, advantage > 0))
            for action in dag.action_mask(e.states[s][None])[0].nonzero()[:, 0].tolist():
                moved += math.exp(float(new_all[s, action])) * float(new_all[s, action] - old_all[s, action])
            values += (float(new_flow[s, 0]) - float(old_flow[i, t]) - advantage) ** 2 / 2
    assert len(sides) == 8, "every case of the clipping was there"
    edges = int(mask.sum())
    loss, value_loss = agent._step(batch, *(x.detach() for x in before)).tolist()
    assert value_loss == pytest.approx(values / edges)
    assert loss == pytest.approx((moved - gain + 0.7 * values) / edges)


@pytest.mark.parametrize(("epochs", "minibatches", "batch"), [(4, 2, 16), (1, 3, 7), (2, 50, 5)])
def test_each_epoch_of_entropic_ppo_sees_every_trajectory_once(epochs: int, minibatches: int, batch: int) -> None:
    flow = Flow.of(SMALL["cube"]())
    dag = flow.enumeration.dag
    agent = agent_of("ent-ppo", random_network(flow), dag, epochs=epochs, minibatches=minibatches)
    whole, seen, step = sample(dag, batch), [], agent._step
    agent._step = lambda part, *old: seen.append(part) or step(part, *old)
    agent.update(buffer_of(dag, whole))
    parts = min(minibatches, batch)
    assert len(seen) == len(agent.optimizer.gradients) == epochs * parts
    for epoch in range(epochs):
        states = torch.cat([part.states for part in seen[epoch * parts : (epoch + 1) * parts]])
        assert sorted(states.tolist()) == sorted(whole.states.tolist())


# --- Soft actor-critic ------------------------------------------------------------------------------------------------


def _edges(e: Enumeration) -> Transitions:
    """Return every edge of the DAG as a transition."""
    ends, done = e.states[e.children], e.terminal_rank[e.children] >= 0
    log_reward = torch.where(done, e.dag.log_reward(ends), 99.0)
    return Transitions(e.states[e.parents], e.actions, ends, e.backward_actions, log_reward, done)


def _critics(network: Network, name: str) -> Tensor:
    return network.head(name).get_parameter("values")


@pytest.mark.parametrize("dag", SMALL)
def test_sac_sees_deviations_of_either_critic_on_their_edge_alone_and_follows_the_lower_one(dag: str) -> None:
    flow = Flow.of(SMALL[dag]())
    e, network = flow.enumeration, _at_rest("sac", flow)
    agent = agent_of("sac", network, e.dag)
    assert isinstance(agent, SoftActorCritic)
    critic, actor = agent.losses(_edges(e))
    assert float(critic.detach().abs().max()) < 1e-9
    # At softmax Q the actor's loss is -V: the entropy and the mean Q together are log F.
    torch.testing.assert_close(actor.detach(), -flow.log_flow[e.parents])
    for name in ("q1", "q2"):
        for edge in range(0, len(e.parents), 7):
            q = _critics(network, name).data
            q[e.parents[edge], e.actions[edge]] += 0.4
            moved = agent.losses(_edges(e))[0].detach()
            q[e.parents[edge], e.actions[edge]] -= 0.4
            others = torch.arange(len(moved)) != edge
            assert float(moved[edge]) == pytest.approx(0.4**2 / 2, abs=1e-6)
            assert not bool(others.any()) or float(moved[others].max()) < 1e-9, "the slow copy has not moved"
    _critics(network, "q1").data.add_(1.0)
    torch.testing.assert_close(agent.losses(_edges(e))[1].detach(), -flow.log_flow[e.parents])
    assert float(agent.log_z()) == pytest.approx(e.log_z, abs=1e-5)


def test_the_losses_of_sac_equal_the_loop() -> None:
    flow = Flow.of(SMALL["cube"]())
    e, dag, network = flow.enumeration, flow.enumeration.dag, _at_rest("sac", flow)
    agent, shape = agent_of("sac", network, flow.enumeration.dag), (e.num_states, dag.num_actions)
    slow = {name: noise(shape, 10 + i) for i, name in enumerate(("q1", "q2"))}
    fast = {name: noise(shape, 20 + i) for i, name in enumerate(("forward", "q1", "q2"))}
    with torch.no_grad():
        for name, values in slow.items():
            _critics(agent.target, name).copy_(values)
        for name, values in fast.items():
            _critics(network, name).copy_(values)
        _critics(agent.target, "forward").copy_(noise(shape, 30))
    log_pi = masked_log_softmax(fast["forward"], dag.action_mask(e.states))
    critic, actor = (x.detach().tolist() for x in agent.losses(_edges(e)))

    def value(state: int, one: Tensor, two: Tensor) -> float:
        total = 0.0
        for a in dag.action_mask(e.states[state][None])[0].nonzero()[:, 0].tolist():
            lower = min(float(one[state, a]), float(two[state, a]))
            total += math.exp(float(log_pi[state, a])) * (lower - float(log_pi[state, a]))
        return total

    def huber(x: float) -> float:
        return x**2 / 2 if abs(x) < 1 else abs(x) - 0.5

    rank = e.terminal_rank.tolist()
    for i, (s, a, t) in enumerate(zip(e.parents.tolist(), e.actions.tolist(), e.children.tolist(), strict=True)):
        after = float(e.log_reward[rank[t]]) if rank[t] >= 0 else value(t, slow["q1"], slow["q2"])
        wanted = float(flow.log_pb[i]) + after
        expected = huber(float(fast["q1"][s, a]) - wanted) + huber(float(fast["q2"][s, a]) - wanted)
        assert critic[i] == pytest.approx(expected, abs=1e-5)
        assert actor[i] == pytest.approx(-value(s, fast["q1"], fast["q2"]), abs=1e-6)


def test_the_critics_of_sac_get_no_gradient_from_the_actor_nor_the_actor_from_the_critics() -> None:
    flow = Flow.of(SMALL["cube"]())
    network = _at_rest("sac", flow)
    agent = agent_of("sac", network, flow.enumeration.dag)
    for name in ("forward", "q1", "q2"):
        _critics(network, name).data.add_(noise(tuple(_critics(network, name).shape), len(name)))
    critic, actor = (x.sum() for x in agent.losses(_edges(flow.enumeration)))
    q1, q2, policy = (_critics(network, name) for name in ("q1", "q2", "forward"))
    assert torch.autograd.grad(actor, [q1, q2], allow_unused=True, retain_graph=True) == (None, None)
    assert torch.autograd.grad(critic, [policy], allow_unused=True, retain_graph=True) == (None,)
    assert all(bool(g.any()) for g in torch.autograd.grad(critic, [q1, q2]))


def test_sac_draws_all_edges_alike_and_learns_from_old_ones() -> None:
    flow = Flow.of(SMALL["grid"]())
    dag = flow.enumeration.dag
    agent = agent_of("sac", _at_rest("sac", flow), dag, replay_batch=20_000)
    buffer, edges = RolloutBuffer(dag, Keeps(transitions=4000)), 0
    for seed in range(3):
        batch = sample(dag, 4, seed)
        buffer.add(Batch(batch, batch))
        agent.observe(buffer)
        edges += int(batch.mask.sum())
    assert int((buffer.priorities > 0).sum()) == edges
    _, slots, _ = buffer.sample_transitions(20_000)
    counts = torch.bincount(slots, minlength=buffer.filled)[buffer.priorities[: buffer.filled] > 0].double()
    expected = 20_000 / edges
    deviation = (float(((counts - expected) ** 2 / expected).sum()) - edges + 1) / math.sqrt(2 * (edges - 1))
    assert abs(deviation) < 5


# --- Refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", ["fm", "pg", "ent-ppo"])
def test_agents_without_a_gradient_for_p_b_refuse_the_one_that_lives_on_it(agent: str) -> None:
    config = with_values(usual("gfn/Hypergrid-v0", agent, "naive"), {"device": "cpu"})
    with pytest.raises(ValueError, match=f"^--agent {agent} gives .* no gradient to learn .*such as tlm"):
        build_trainer(config, make_dag(config))


def test_flows_that_know_a_part_of_the_reward_refuse_dags_that_know_none_and_modified_db_those_without_a_stop() -> None:
    for flow in (ForwardLookingFlow, StopFlow):
        with pytest.raises(
            ValueError, match=r"needs Skips to offer log_potential\(\), which it does not: take another"
        ):
            flow(SMALL["skips"]())
    with pytest.raises(ValueError, match=r"^--agent mdb needs Subsets to have a stop action that is legal everywhere"):
        StopFlow(SMALL["subsets"]())


# --- Learning ---------------------------------------------------------------------------------------------------------

LEARNERS: dict[str, dict[str, Any]] = {
    "vargrad": {},
    "fm": {},
    "fl-db": {},
    "fl-subtb": {},
    "mdb": {},
    "pg": {},
    "ent-ppo": {"agent.epochs": 2, "agent.minibatches": 1},
    "sac": {"agent.replay_batch": 64, "agent.replay_capacity": 5_000},
}


def test_every_agent_of_this_file_has_to_learn() -> None:
    tested = {"db", "tb", "subtb", "softdqn", "mdqn"}
    assert set(LEARNERS) == set(CHOICES["agent"].names()) - tested


SLOWLY = [pytest.param("vargrad", penalty, marks=pytest.mark.slow) for penalty in ("cosh", "linex-half")]


@pytest.mark.parametrize(
    ("agent", "penalty"), [*((agent, "squared") for agent in LEARNERS), ("vargrad", "linex"), *SLOWLY]
)
def test_an_agent_learns_a_small_grid(agent: str, penalty: str) -> None:
    changes = {
        "env_kwargs": '{"dim": 2, "side": 3}',
        "network.width": 32,
        "trajectories": 16 * 250,
        "agent.lr": 1e-2,
        "agent.lr_decay": 0.99,
        "epsilon": 0.1,
        "device": "cpu",
        **LEARNERS[agent],
        **({} if penalty == "squared" else {"agent.penalty": penalty}),
    }
    config = with_values(usual("gfn/Hypergrid-v0", agent, "tlm"), changes)
    trainer = build_trainer(config, make_dag(config))
    assert trainer.evaluator.enumeration is not None
    trainer.train(lambda metrics: None, lambda: False, progress=False)
    # Equal weight on all cells is off by 0.55; to miss one of the four corners costs 0.25.
    assert trainer.history[-1]["total_variation_exact"] < 0.1
    assert abs(trainer.history[-1]["log_z_error"]) < 0.1
