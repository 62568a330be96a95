"""Each backward approach is a distribution over the parents, learns what it says, and touches nothing else."""

import copy
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from heads import HEADS
from pairs import LAWFUL
from torch import Tensor
from true_flows import SMALL, brute_force, sample

import gfn_envs
from agents import backward as approaches
from agents.backward import Backward
from agents.config import usual
from agents.networks.base import Network
from agents.networks.mlp import MLP
from agents.networks.target import Targets
from agents.optimizer import Optimizer
from agents.parts import Parts
from agents.registry import BACKWARD
from agents.sampling.buffer import Batch, Keeps, RolloutBuffer
from agents.sampling.categorical import log_prob
from agents.sampling.rollout import Trajectories, rollout
from gfn_envs import DAG, Hypergrid, enumerate_dag
from gfn_envs.abilities import CountsTrajectories
from gfn_envs.exact import masked_log_softmax

LEARNERS = ("tlm", "pessimistic", "maxent")
"""The approaches with an optimizer of their own."""


class _WithSlowCopies(MLP):
    slow: Targets


def _make(
    name: str, dag: DAG, seed: int = 0, width: int = 32, random: bool = True, **settings: Any
) -> tuple[Backward, _WithSlowCopies]:
    """Make an approach with a network that has all heads; its P_B is random at first, or as the settings say."""
    network = _WithSlowCopies(dag, {**HEADS, "q1": "forward", "q2": "forward"}, width, 2, seed=seed)
    targets = network.slow = Targets(network)
    if random and "zero_init" in BACKWARD.find(name).__dataclass_fields__:
        settings["zero_init"] = False
    return BACKWARD.find(name)(**settings).build(Parts(dag, network, targets)), network


def _learned(name: str, **settings: Any) -> dict[str, Any]:
    """Return settings with which an approach learns where it can: maxent also where there is a closed form."""
    return {**settings, "exact": False} if name == "maxent" else settings


def _loss(backward: Backward, buffer: RolloutBuffer) -> float:
    """Take a step and return its loss."""
    return float(backward.update(buffer)["backward_loss"])


def _update(backward: Backward, buffer: RolloutBuffer) -> float:
    """Take one step of an iteration, that of the slow copies included, and return the loss."""
    loss = _loss(backward, buffer)
    backward.network.slow.update()  # type: ignore[attr-defined]
    return loss


def _buffer(dag: DAG, n: int = 64, past: int = 1, batches: int = 1) -> RolloutBuffer:
    buffer = RolloutBuffer(dag, Keeps(batches=past))
    for seed in range(batches):
        buffer.add(Batch.of(sample(dag, n, seed)))
    return buffer


def _table(backward: Backward, states: Tensor) -> Tensor:
    """Return log P_B of every backward action `[S, A]`, as exact evaluation would compute it."""
    return masked_log_softmax(backward.logits(states), backward.dag.backward_action_mask(states))


VARIANTS = [*((name, {}) for name in BACKWARD.names()), ("maxent", {"exact": False})]


@pytest.mark.parametrize("dag", SMALL)
@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_log_prob_is_a_distribution_over_the_parents_and_equals_the_logits(
    name: str, settings: dict[str, Any], dag: str
) -> None:
    backward, network = _make(name, SMALL[dag](), **settings)
    states = enumerate_dag(backward.dag).states
    legal = backward.dag.backward_action_mask(states)
    here = network(states)
    columns = [backward.log_prob(here, torch.full((len(states),), b)) for b in range(legal.shape[1])]
    log_probs = torch.stack(columns, 1).detach()
    assert bool(log_probs[0].isfinite().all()), "finite at s0"
    assert bool((log_probs[legal] <= 1e-6).all())
    total = torch.where(legal, log_probs, -math.inf).logsumexp(1)[1:]
    torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-5)
    torch.testing.assert_close(log_probs[legal], _table(backward, states)[legal], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dag", SMALL)
@pytest.mark.parametrize("name", ["uniform", "naive", "tlm", "pessimistic"])
def test_the_start_is_one_over_the_number_of_parents(name: str, dag: str) -> None:
    backward, _ = _make(name, SMALL[dag](), random=False)
    enumeration = enumerate_dag(backward.dag)
    log_pb = enumeration.edge_log_probs(backward.logits, backward=True)
    torch.testing.assert_close(log_pb, enumeration.uniform_backward())


def _path_counts(dag: DAG) -> dict[tuple, int]:
    """Count the trajectories from s0 to each state, by plain recursion over the edges."""
    longest, edges = brute_force(dag)
    counts = {state: int(n == 0) for state, n in longest.items()}
    for parent, _, child, _ in sorted(edges, key=lambda edge: longest[edge[0]]):
        counts[child] += counts[parent]
    return counts


def _maxent_log_probs(dag: DAG) -> Tensor:
    """Return log n(s)/n(s') of every edge, from plain counts."""
    enumeration, counts = enumerate_dag(dag), _path_counts(dag)
    log_n = torch.tensor([math.log(counts[tuple(state)]) for state in enumeration.states.tolist()]).double()
    return log_n[enumeration.parents] - log_n[enumeration.children]


@pytest.mark.parametrize("dag", [name for name in SMALL if isinstance(SMALL[name](), CountsTrajectories)])
def test_exact_maxent_is_the_share_of_paths(dag: str) -> None:
    backward, network = _make("maxent", SMALL[dag]())
    e = enumerate_dag(backward.dag)
    torch.testing.assert_close(
        e.edge_log_probs(backward.logits, backward=True), _maxent_log_probs(e.dag), rtol=0, atol=1e-5
    )
    log_pb = backward.log_prob(network(e.states[e.children]), e.backward_actions)
    torch.testing.assert_close(log_pb.double(), _maxent_log_probs(e.dag), rtol=0, atol=1e-5)


@pytest.mark.parametrize("id", gfn_envs.registered())
def test_exact_maxent_tells_the_same_for_one_action_and_for_all_in_every_environment(id: str) -> None:
    dag = gfn_envs.make(id)
    if not isinstance(dag, CountsTrajectories):
        pytest.skip("nothing to count with")
    backward, network = _make("maxent", dag)
    states = sample(dag, 2).states.flatten(0, 1).unique(dim=0)[:60]
    legal = dag.backward_action_mask(states)
    states, legal = states[legal.any(1)], legal[legal.any(1)]
    table = _table(backward, states)
    torch.testing.assert_close(table.exp().sum(1), torch.ones(len(table)), rtol=0, atol=1e-4)
    for seed in range(3):
        actions = torch.multinomial(legal.float(), 1, generator=torch.Generator().manual_seed(seed))
        told = backward.log_prob(network(states), actions[:, 0])
        torch.testing.assert_close(told, table.gather(1, actions)[:, 0], rtol=1e-4, atol=1e-4)


def test_the_exact_form_is_used_only_if_offered_and_asked_for() -> None:
    kinds = {
        (dag, exact): type(_make("maxent", SMALL[dag](), exact=exact)[0])
        for dag in ("grid", "skips")
        for exact in (True, False)
    }
    assert kinds.pop(("grid", True)) is approaches.ExactMaxent
    assert set(kinds.values()) == {approaches.LearnedMaxent}


@pytest.mark.parametrize("dag", ["skips", "subsets"])
def test_learned_maxent_converges_to_the_share_of_paths(dag: str) -> None:
    backward, network = _make("maxent", SMALL[dag](), random=False, exact=False, lr=3e-3)
    exact, e = _maxent_log_probs(backward.dag), enumerate_dag(backward.dag)
    buffer = _buffer(backward.dag, n=256)
    start = (e.edge_log_probs(backward.logits, backward=True) - exact).abs().max()
    losses = [_loss(backward, buffer) for _ in range(400)]
    end = (e.edge_log_probs(backward.logits, backward=True) - exact).abs().max()
    assert losses[-1] < 1e-3 < losses[0]
    assert float(end) < 0.1
    assert dag == "subsets" or float(start) > 0.4, "uniform is maxent already"
    counts = _path_counts(backward.dag)
    log_n = torch.tensor([math.log(counts[tuple(state)]) for state in e.states.tolist()])
    assert float((network(e.states).scalar("count").detach() - log_n)[1:].abs().max()) < 0.2


def _posterior(dag: DAG, policy: Callable[[Tensor], Tensor]) -> Tensor:
    """Return log mu(s) P_F(s'|s) / mu(s') of every edge: the reverse of the walk that P_F makes."""
    e = enumerate_dag(dag)
    log_pf = e.edge_log_probs(policy)
    log_mu = e.state_probabilities(log_pf).log()
    return log_mu[e.parents] + log_pf - log_mu[e.children]


@pytest.mark.parametrize("name", ["tlm", "pessimistic"])
@pytest.mark.parametrize("dag", ["grid", "skips"])
def test_likelihood_makes_pb_the_reverse_of_a_fixed_pf(dag: str, name: str) -> None:
    settings = {"lr": 5e-3, **({"lr_decay": 0.995} if name == "tlm" else {})}
    backward, _ = _make(name, SMALL[dag](), random=False, **settings)
    e = enumerate_dag(backward.dag)
    taste = torch.linspace(1.0, -1.0, backward.dag.num_actions)

    def policy(states: Tensor) -> Tensor:
        return taste.expand(len(states), -1)

    exact = _posterior(e.dag, policy)
    assert float((exact - e.uniform_backward()).abs().max()) > 0.3, "uniform is not the answer"
    buffer, generator = RolloutBuffer(e.dag, Keeps(batches=20)), torch.Generator().manual_seed(0)
    weight = e.state_probabilities(e.edge_log_probs(policy))[e.children] * exact.exp()
    for _ in range(400):
        buffer.add(Batch.of(rollout(e.dag, policy, e.dag.reset(128), generator)))
        _update(backward, buffer)
    log_pb = e.edge_log_probs(backward.logits, backward=True)
    divergence = float((weight * (exact - log_pb)).sum())
    start = float((weight * (exact - e.uniform_backward())).sum())
    assert divergence < 0.02 < 0.05 < start, "expected KL a trajectory to the true reverse"


@pytest.mark.parametrize("name", ["tlm", "pessimistic"])
def test_an_update_makes_the_batch_more_likely(name: str) -> None:
    backward, _ = _make(name, Hypergrid(2, 6), lr=1e-3)
    buffer = _buffer(backward.dag, n=32)
    losses = [_loss(backward, buffer) for _ in range(20)]
    assert losses == sorted(losses, reverse=True)


def _likelihood_loss(network: Network, dag: DAG, batch: Trajectories) -> float:
    """Return - sum log P_B(s_t-1|s_t) averaged over trajectories, one step at a time: P_B read at the child."""
    total = 0.0
    for b, t in batch.mask.nonzero().tolist():
        child = batch.states[b, t + 1][None]
        logits = network(child).backward_logits[0].tolist()
        legal = dag.backward_action_mask(child)[0].tolist()
        norm = math.log(sum(math.exp(x) for x, ok in zip(logits, legal, strict=True) if ok))
        total -= logits[int(batch.backward_actions[b, t])] - norm
    return total / len(batch.mask)


@pytest.mark.parametrize("dag", ["cube", "skips"])
@pytest.mark.parametrize("name", ["tlm", "pessimistic"])
def test_the_likelihood_is_read_at_the_child(name: str, dag: str) -> None:
    backward, network = _make(name, SMALL[dag]())
    buffer = _buffer(backward.dag, n=16)
    expected = _likelihood_loss(network, backward.dag, buffer.newest)
    assert _loss(backward, buffer) == pytest.approx(expected, rel=1e-5)


def test_tlm_learns_from_the_newest_batch_and_pessimistic_from_all_the_last_ones() -> None:
    for name, past in (("tlm", 1), ("tlm", 4), ("pessimistic", 4), ("pessimistic", 1)):
        backward, network = _make(name, Hypergrid(2, 5), lr=0.0)
        buffer = _buffer(backward.dag, n=8, past=past, batches=7)
        seen = Counter(round(_loss(backward, buffer), 4) for _ in range(80))
        batches = [batch.all for batch in buffer.batches] if name == "pessimistic" else [buffer.newest]
        assert set(seen) == {round(_likelihood_loss(network, backward.dag, batch), 4) for batch in batches}
        assert len(seen) == len(batches)


@pytest.mark.parametrize("name", LEARNERS)
def test_an_update_moves_its_own_heads_only(name: str) -> None:
    backward, network = _make(name, Hypergrid(2, 5), **_learned(name))
    heads = {head: _head(network, head) for head in HEADS}
    backward.update(_buffer(backward.dag))
    moved = {head for head, before in heads.items() if not torch.equal(before, _head(network, head))}
    assert moved == {"tlm": {"backward"}, "pessimistic": {"backward"}, "maxent": {"backward", "count"}}[name]


def _head(network: Network, name: str) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.head(name).parameters()]).clone()


@pytest.mark.parametrize("name", ["uniform", "naive"])
def test_what_has_no_optimizer_does_not_learn_by_itself(name: str) -> None:
    backward, network = _make(name, Hypergrid(2, 5))
    before = torch.cat([p.detach().flatten() for p in network.parameters()]).clone()
    assert backward.update(_buffer(backward.dag)) == {}
    assert torch.equal(before, torch.cat([p.detach().flatten() for p in network.parameters()]))


@pytest.mark.parametrize(("agent", "name"), LAWFUL)
def test_the_forward_step_moves_pb_only_for_naive(agent: str, name: str) -> None:
    dag = Hypergrid(2, 5)
    backward, network = _make(name, dag, **_learned(name))
    settings = usual("gfn/Hypergrid-v0", agent).agent_settings
    learner = settings.build(Parts(dag, network, Targets(network)), backward)
    buffer = RolloutBuffer(dag, Keeps(transitions=2000))
    buffer.add(Batch.of(sample(dag, 64)))
    before, pf = _head(network, "backward"), _head(network, "forward")
    learner.update(buffer)
    assert torch.equal(before, _head(network, "backward")) is (name != "naive")
    assert not torch.equal(pf, _head(network, "forward"))


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_only_naive_hands_a_gradient_to_the_forward_loss(name: str, settings: dict[str, Any]) -> None:
    backward, network = _make(name, Hypergrid(2, 5), **settings)
    rows = sample(backward.dag, 8).rows
    assert backward.log_prob(network(rows.states), rows.backward_actions).requires_grad is (name == "naive")


def _weights_after_update(name: str, stale: float) -> Tensor:
    backward, network = _make(name, Hypergrid(2, 5), **_learned(name))
    for p in network.parameters():
        p.grad = torch.full_like(p, stale)
    backward.update(_buffer(backward.dag))
    return torch.cat([p.detach().flatten() for p in network.parameters()])


@pytest.mark.parametrize("name", LEARNERS)
def test_gradients_left_in_the_shared_torso_do_not_leak(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = _weights_after_update(name, 0.0)
    assert torch.equal(clean, _weights_after_update(name, 1.0))
    # The test sees the mistake that it guards against.
    monkeypatch.setattr(Optimizer, "minimise", lambda self, loss: (loss.backward(), self.adam.step()))
    assert not torch.equal(clean, _weights_after_update(name, 1.0))


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0])
def test_the_forward_loss_of_tlm_sees_a_copy_that_follows_at_its_rate(rate: float) -> None:
    dag = Hypergrid(2, 5)
    backward, network = _make("tlm", dag, target_rate=rate, lr=1e-2)
    states, buffer = enumerate_dag(dag).states, _buffer(dag)
    rows = buffer.newest.rows
    assert torch.equal(backward.logits(states), network(states).backward_logits)
    slow = {name: p.detach().clone() for name, p in network.named_parameters()}
    probe, _ = _make("tlm", dag)
    for _ in range(3):
        _update(backward, buffer)
        slow = {n: (1 - rate) * slow[n] + rate * p.detach() for n, p in network.named_parameters()}
        probe.network.load_state_dict(slow)  # type: ignore[attr-defined]
        expected = probe.network(states).backward_logits  # type: ignore[attr-defined]
        torch.testing.assert_close(backward.logits(states), expected)
        log_pb = backward.log_prob(network(rows.states), rows.backward_actions)
        seen = log_prob(backward.logits(rows.states), dag.backward_action_mask(rows.states), rows.backward_actions)
        torch.testing.assert_close(log_pb, seen)
        follows = torch.allclose(backward.logits(states), network(states).backward_logits, atol=1e-5)
        assert follows is (rate == 1.0)


def test_the_forward_loss_of_pessimistic_sees_the_network_itself() -> None:
    dag = Hypergrid(2, 5)
    backward, network = _make("pessimistic", dag, lr=1e-2)
    states = enumerate_dag(dag).states
    backward.update(_buffer(dag))
    assert torch.equal(backward.logits(states), network(states).backward_logits)


@pytest.mark.parametrize("name", LEARNERS)
def test_only_the_rate_of_tlm_decays(name: str) -> None:
    decays = {"lr_decay": 0.9} if "lr_decay" in BACKWARD.find(name).__dataclass_fields__ else {}
    backward, _ = _make(name, Hypergrid(2, 4), **_learned(name, lr=0.01, **decays))
    optimizer: Optimizer = backward.optimizer  # type: ignore[attr-defined]
    buffer, rates = _buffer(backward.dag), []
    for _ in range(4):
        rates.append(optimizer.adam.param_groups[0]["lr"])
        backward.update(buffer)
    decay = 0.9 if name == "tlm" else 1.0
    assert rates == pytest.approx([0.01 * decay**i for i in range(4)])


@pytest.mark.parametrize("name", LEARNERS)
def test_a_loaded_approach_goes_on_as_if_never_saved(name: str) -> None:
    dag = Hypergrid(2, 5)
    one, network = _make(name, dag, **_learned(name))
    two, other = _make(name, dag, seed=5, **_learned(name))
    buffer = _buffer(dag)
    for _ in range(3):
        _update(one, buffer)
    other.load_state_dict(network.state_dict())
    other.slow.load_state_dict(copy.deepcopy(network.slow.state_dict()))
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    states = enumerate_dag(dag).states
    for _ in range(3):
        assert torch.equal(one.logits(states), two.logits(states))
        assert _update(one, buffer) == _update(two, buffer)
