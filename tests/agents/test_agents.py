"""Agents are at rest exactly at the true flow, read every setting, run without the host, and learn."""

import dataclasses
import functools
import math
from typing import Any

import pytest
import torch
from pairs import DQNS, PAIRS, REPLAYING, built, config, every_setting, owned, trained, weights
from torch import Tensor
from true_flows import SMALL, Flow, TabularNetwork, sample

from agents.backward import Naive
from agents.build import build_trainer
from agents.config import CHOICES, Config, check_config, usual, with_values
from agents.model import resolve_device
from agents.networks.base import Network
from agents.networks.target import Targets
from agents.objectives.balance import BalanceSettings
from agents.objectives.dqn import DQN, MunchausenDQNSettings
from agents.optimizer import Optimizer
from agents.parts import Parts
from agents.registry import AGENTS, BACKWARD
from agents.sampling import rollout as module
from agents.sampling.buffer import Batch, Keeps, RolloutBuffer, Transitions
from agents.sampling.rollout import Trajectories
from agents.settings import InvalidSettingError
from agents.trainer import Trainer
from gfn_envs import make
from gfn_envs.metrics import total_variation

BALANCE = [name for name in AGENTS.names() if issubclass(AGENTS.find(name), BalanceSettings)]
RESTING = ["db", "tb", "subtb", "vargrad", *DQNS]
"""The agents whose loss is a penalty of a residual that reads P_B, on any DAG."""


# --- Rest at the true flow ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dag", SMALL)
@pytest.mark.parametrize("agent", RESTING)
def test_loss_vanishes_at_the_true_flow_and_the_policy_and_log_z_are_the_flows(agent: str, dag: str) -> None:
    flow = Flow.of(SMALL[dag]())
    settings: Any = config(agent, "naive").agent_settings
    temperature = 1 / (1 - settings.munchausen()[0]) if agent in DQNS else None
    network = flow.network(temperature).float()
    dag_of_flow = flow.enumeration.dag
    pb = Naive(dag_of_flow, network)
    learner = settings.build(Parts(dag_of_flow, network, Targets(network)), pb)
    with torch.no_grad():
        for p in learner.own.parameters():
            p.fill_(flow.enumeration.log_z)
    assert float(learner.log_z()) == pytest.approx(flow.enumeration.log_z, abs=1e-5)
    torch.testing.assert_close(flow.enumeration.edge_log_probs(learner.policy()), flow.log_pf, rtol=0, atol=1e-5)
    buffer = RolloutBuffer(flow.enumeration.dag, Keeps(transitions=4000))
    buffer.add(Batch.of(sample(flow.enumeration.dag, 64)))
    assert float(learner.update(buffer)["loss"]) < 1e-9
    with torch.no_grad():
        network.table("backward").add_(torch.randn_like(network.table("backward")))
    several_parents = bool((flow.enumeration.dag.backward_action_mask(flow.enumeration.states).sum(1) > 1).any())
    assert (float(learner.update(buffer)["loss"]) > 1e-3) is several_parents, "another P_B has another flow"


def _dqn(flow: Flow, **settings: Any) -> DQN:
    network, chosen = flow.network(1 / (1 - settings["alpha"])), MunchausenDQNSettings(**settings)
    dag = flow.enumeration.dag
    optimizer = Optimizer(network, [(network.parameters(), 0.0)])
    target = Targets(network).get(chosen.target_rate, chosen.target_every)
    return DQN(dag, network, target, Naive(dag, network), optimizer, chosen)


def _table(network: Network, head: str) -> Tensor:
    """Return the values of a tabular network's head."""
    assert isinstance(network, TabularNetwork)
    return network.table(head)


def _edges(flow: Flow) -> Transitions:
    """Return every edge of the DAG as a transition."""
    e = flow.enumeration
    next_states, done = e.states[e.children], e.terminal_rank[e.children] >= 0
    return Transitions(
        e.states[e.parents], e.actions, next_states, e.backward_actions, e.dag.log_reward(next_states), done
    )


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.15, 0.6])
@pytest.mark.parametrize("dag", SMALL)
def test_td_errors_vanish_at_q_of_the_true_flow_for_any_munchausen_weight(
    dag: str, alpha: float, dueling: bool
) -> None:
    flow = Flow.of(SMALL[dag]())
    agent, edges = _dqn(flow, alpha=alpha, dueling=dueling), _edges(flow)
    assert float(agent.td_errors(edges).detach().abs().max()) < 1e-9
    torch.testing.assert_close(flow.enumeration.edge_log_probs(agent.policy()), flow.log_pf)
    assert float(agent.log_z()) == pytest.approx(flow.enumeration.log_z)


@pytest.mark.parametrize("alpha", [0.0, 0.15])
def test_td_errors_see_every_deviation(alpha: float) -> None:
    flow = Flow.of(SMALL["cube"]())
    agent, edges = _dqn(flow, alpha=alpha), _edges(flow)
    e = flow.enumeration
    for edge in range(0, len(e.parents), 7):
        q = _table(agent.network, "forward")
        with torch.no_grad():
            q[e.parents[edge], e.actions[edge]] += 0.5
            errors = agent.td_errors(edges)
            q[e.parents[edge], e.actions[edge]] -= 0.5
        assert float(errors[edge]) == pytest.approx(0.5, abs=1e-9), "the target network has not moved"
        others = torch.arange(len(errors)) != edge
        assert float(errors[others].abs().max()) < 1e-9


def test_the_target_of_mdqn_worked_out_by_hand() -> None:
    # Target: log P_B + V(s') + alpha max(tau log pi(a|s), l0), V = tau logsumexp Q/tau, all of the slow copy.
    flow, alpha, l0 = Flow.of(SMALL["grid"]()), 0.3, -0.9
    agent, edges, tau = _dqn(flow, alpha=alpha, l0=l0), _edges(flow), 1 / 0.7
    e, generator = flow.enumeration, torch.Generator().manual_seed(0)
    slow = torch.randn(e.num_states, e.dag.num_actions, generator=generator, dtype=torch.float64)
    fast = torch.randn(slow.shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        _table(agent.network, "forward").copy_(fast)
        _table(agent.target, "forward").copy_(slow)
    errors, clipped = agent.td_errors(edges).tolist(), 0

    def value(state: int) -> float:
        legal = e.dag.action_mask(e.states[state : state + 1])[0]
        return tau * math.log(sum(math.exp(q / tau) for q in slow[state][legal].tolist()))

    for i, (s, a, t) in enumerate(zip(e.parents.tolist(), e.actions.tolist(), e.children.tolist(), strict=True)):
        bonus = float(slow[s, a]) - value(s)
        clipped += bonus < l0
        after = float(edges.log_reward[i]) if bool(edges.done[i]) else value(t)
        target = float(flow.log_pb[i]) + after + alpha * max(bonus, l0)
        assert errors[i] == pytest.approx(float(fast[s, a]) - target, abs=1e-6)
    assert 0 < clipped < len(errors)


def test_dueling_q_is_the_value_plus_the_log_policy() -> None:
    flow = Flow.of(SMALL["cube"]())
    plain, dueling = (_dqn(flow, alpha=0.15, dueling=on) for on in (False, True))
    edges = _edges(flow)
    shift = torch.randn(flow.enumeration.num_states, 1, dtype=torch.float64)
    with torch.no_grad():
        for agent in (plain, dueling):
            _table(agent.network, "forward").add_(shift)
    # A shift of all Q in a state is a change of V, of which the advantages know nothing.
    torch.testing.assert_close(dueling.td_errors(edges), torch.zeros(len(edges.done), dtype=torch.float64))
    torch.testing.assert_close(plain.td_errors(edges), shift[flow.enumeration.parents, 0])
    with torch.no_grad():
        _table(dueling.network, "flow").add_(shift)
    torch.testing.assert_close(dueling.td_errors(edges), shift[flow.enumeration.parents, 0])


@pytest.mark.parametrize("backward", BACKWARD.names())
def test_mdqn_without_munchausen_term_is_softdqn(backward: str) -> None:
    one, two = trained(config("mdqn", backward, agent__alpha=0.0)), trained(config("softdqn", backward))
    assert torch.equal(weights(one), weights(two))
    assert not torch.equal(weights(one), weights(trained(config("mdqn", backward))))


def test_the_priority_and_weights_of_replay_are_the_stated_ones() -> None:
    trainer = build_trainer(
        config("softdqn", "uniform", agent__priority_alpha=0.7, agent__priority_beta=0.4, agent__leaf_weight=3.0),
        make("gfn/Hypergrid-v0", dim=2, side=5),
    )
    trainer.collect()
    agent, buffer = trainer.agent, trainer.buffer
    assert isinstance(agent, DQN)
    agent.observe(buffer)
    edges, real = Transitions.of(buffer.newest), buffer.newest.rows.has_action[:-1]
    errors = agent.td_errors(edges).detach()
    huber = torch.where(errors.abs() < 1, errors.square() / 2, errors.abs() - 0.5)
    expected = torch.where(real, (huber + 1e-8) ** 0.7, 0.0)
    torch.testing.assert_close(buffer.priorities[: buffer.filled], expected)
    # The loss of the next update, on the same ring (observing the batch again doubles it), drawn with the same seed.
    agent.observe(buffer)
    state = buffer.generator.get_state()  # type: ignore[union-attr]
    batch, slots, probabilities = buffer.sample_transitions(32)
    huber = torch.cat([huber, huber])[slots]
    importance = (probabilities / probabilities.min()) ** -0.4
    loss = (huber * importance * torch.where(batch.done, 3.0, 1.0)).mean()
    buffer.generator.set_state(state)  # type: ignore[union-attr]
    agent.observe = lambda buffer: None
    assert float(agent.update(buffer)["loss"]) == pytest.approx(float(loss), rel=1e-5)


# --- Every pair -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("agent", "backward"), PAIRS)
def test_every_pair_trains_and_equal_seeds_give_equal_weights(agent: str, backward: str) -> None:
    settings = config(agent, backward, env_kwargs='{"dim": 2, "side": 8}')
    start = weights(built(settings))
    one, two = trained(settings), trained(settings)
    assert bool(weights(one).isfinite().all())
    assert not torch.equal(start, weights(one))
    assert torch.equal(weights(one), weights(two))
    other = dataclasses.replace(settings, seed=1)
    assert not torch.equal(start, weights(built(other)))
    assert not torch.equal(weights(one), weights(trained(other)))


def test_the_seed_decides_more_than_the_first_weights() -> None:
    settings = config("mdqn", "pessimistic")
    trainers = [built(dataclasses.replace(settings, seed=seed)) for seed in (0, 1)]
    trainers[1].network.load_state_dict(trainers[0].network.state_dict())
    for name in ("generator", "host_generator"):
        one, two = (getattr(trainer.buffer, name).get_state() for trainer in trainers)
        assert not torch.equal(one, two), name
    states = [trainer.collect().all.states for trainer in trainers]
    assert states[0].shape != states[1].shape or not torch.equal(*states)


def test_building_and_training_leave_the_global_generator_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    trained(config("mdqn", "tlm"))
    assert torch.equal(torch.rand(3), expected)


ON_POLICY: dict[str, Any] = {"agent__on_policy": True}
LEARNED: dict[str, Any] = {"backward__exact": False}
"""Maxent learns n(s) also where the DAG counts it."""


@pytest.mark.parametrize("changes", [{}, LEARNED, ON_POLICY])
@pytest.mark.parametrize(("agent", "backward"), PAIRS)
def test_no_step_of_any_pair_waits_for_the_host(agent: str, backward: str, changes: dict[str, Any]) -> None:
    if (changes is LEARNED and backward != "maxent") or (changes is ON_POLICY and agent != "mdqn"):
        return
    settings = config(agent, backward, epsilon=0.1, agent__max_grad_norm=1.0, agent__weight_decay=1e-3, **changes)
    # Tensors on `meta` have no values: reading one, and mixing in a CPU tensor, raises.
    trainer = build_trainer(settings, make("gfn/Hypergrid-v0", device="meta", dim=2, side=5))
    assert not trainer.collect().all.mask.is_cpu
    trainer.evaluator.add(trainer.buffer.newest)
    for _ in range(2):
        told = trainer.backward.update(trainer.buffer)
        assert set(told) == ({"backward_loss"} if trainer.backward.state_dict() else set())
        assert all(value.is_meta for value in told.values())
        assert trainer.agent.update(trainer.buffer)["loss"].is_meta
        trainer.agent.observe(trainer.buffer)
        trainer.step()
    assert trainer.agent.log_z().is_meta
    assert all(p.is_meta for p in trainer.network.parameters())


def _fresh(batch: Trajectories, fill: int | None = None) -> Trajectories:
    """Return the same trajectories without what was cached; with a `fill`, other numbers in the padding."""
    tensors = batch.tensors()
    if fill is not None:
        real = torch.nn.functional.pad(batch.mask, (1, 0), value=True)
        tensors["states"] = torch.where(real[:, :, None], batch.states, batch.states[:, fill : fill + 1])
        for name in ("actions", "backward_actions"):
            tensors[name] = torch.where(batch.mask, tensors[name], fill)
    return Trajectories(**tensors)


@pytest.mark.parametrize(("agent", "backward"), PAIRS)
def test_padded_rows_change_neither_losses_nor_steps(
    agent: str, backward: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(agent, backward, **(LEARNED if backward == "maxent" else {}))
    batch = built(settings).collect().all
    assert not bool(batch.mask.all())
    results = []
    for compacted, fill in ((True, None), (False, None), (False, 0), (False, 2)):
        monkeypatch.setattr(module, "host_is_free", lambda device, compacted=compacted: compacted)
        trainer = built(settings)
        trainer.buffer.add(Batch.of(_fresh(batch, fill)))
        losses = list(trainer.backward.update(trainer.buffer).values())
        if agent in REPLAYING:
            trainer.agent.observe(trainer.buffer)
            priorities = trainer.buffer.priorities
            assert int((priorities > 0).sum()) == int(batch.mask.sum())
            losses.append(priorities[priorities > 0])
        else:
            losses.append(trainer.agent.update(trainer.buffer)["loss"])
        results.append(torch.cat([*(loss.view(-1) for loss in losses), weights(trainer)]))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(("agent", "backward"), PAIRS)
def test_gradients_left_by_another_pass_do_not_leak_into_a_step(agent: str, backward: str) -> None:
    results = []
    for stale in (0.0, 1.0):
        trainer = built(config(agent, backward))
        trainer.collect()
        for p in trainer.network.parameters():
            p.grad = torch.full_like(p, stale)
        trainer.agent.update(trainer.buffer)
        results.append(weights(trainer))
    assert torch.equal(*results)


@pytest.mark.parametrize("agent", BALANCE)
def test_detailed_balance_is_averaged_over_edges_and_the_others_over_trajectories(agent: str) -> None:
    trainer = built(config(agent))
    batch = trainer.collect().all
    total = float(trainer.agent.losses(batch).detach().sum())  # type: ignore[attr-defined]
    number = int(batch.mask.sum()) if agent in ("db", "fl-db", "mdb") else len(batch.mask)
    assert float(trainer.agent.update(trainer.buffer)["loss"]) == pytest.approx(total / number)


# --- Settings -------------------------------------------------------------------------------------------------------

BITS = {"env": "gfn/BitSequence-v0", "env_kwargs": '{"n": 8, "k": 2, "modes": 3}', "trajectories": 64}
FLAGS: dict[str, tuple[str, str, dict[str, Any], Any]] = {
    "agent": ("db", "uniform", {}, "tb"),
    "backward": ("db", "tlm", {}, "pessimistic"),
    "network": ("db", "uniform", BITS, "mlp"),
    "sampler": ("db", "uniform", {}, "replay"),
    "env": ("db", "uniform", {}, "gfn/HypergridHard-v0"),
    "env_kwargs": ("db", "uniform", {}, '{"dim": 2, "side": 6}'),
    "trajectories": ("db", "uniform", {}, 16 * 13),
    "batch_size": ("db", "uniform", {}, 24),
    "seed": ("db", "uniform", {}, 1),
    "eval_every": ("db", "uniform", {}, 5),
    "eval.window": ("db", "uniform", {"eval.max_exact_edges": 1000}, 20),
    "eval.max_exact_edges": ("db", "uniform", {}, 1000),
    "eval.elbo_samples": ("db", "uniform", {}, 7),
    "eval.slack_objects": ("db", "uniform", BITS, 7),
    "eval.test_every": ("db", "uniform", BITS, 0),
    "eval.test_objects": ("db", "uniform", BITS, 9),
    "eval.test_rollouts": ("db", "uniform", BITS, 3),
    "epsilon": ("db", "uniform", {}, 0.5),
    "epsilon_end": ("db", "uniform", {"epsilon": 0.5, "epsilon_trajectories": 100}, 0.3),
    "epsilon_trajectories": ("db", "uniform", {"epsilon": 0.5}, 100),
    "learning_starts": ("db", "uniform", {}, 4),
    "agent.lr": ("db", "uniform", {}, 2e-3),
    "agent.lr_decay": ("db", "uniform", {}, 0.9),
    "agent.weight_decay": ("db", "uniform", {}, 0.1),
    "agent.max_grad_norm": ("db", "uniform", {}, 0.01),
    "agent.penalty": ("db", "uniform", {}, "huber"),
    "agent.lamda": ("subtb", "uniform", {}, 0.5),
    "agent.log_z_lr": ("tb", "uniform", {}, 0.2),
    "agent.log_z_from": ("tb", "uniform", {"agent.log_z_lr": 0.1}, "batch"),
    "agent.steps": ("mdqn", "uniform", {}, 3),
    "agent.alpha": ("mdqn", "uniform", {}, 0.3),
    "agent.l0": ("mdqn", "uniform", {}, -0.5),
    "agent.on_policy": ("mdqn", "uniform", {"agent.replay_batch": 256, "agent.replay_capacity": 100_000}, True),
    "agent.replay_capacity": ("mdqn", "uniform", {}, 50),
    "agent.replay_batch": ("mdqn", "uniform", {}, 48),
    "agent.priority_alpha": ("mdqn", "uniform", {}, 0.9),
    "agent.priority_beta": ("mdqn", "uniform", {}, 0.5),
    "agent.target_rate": ("mdqn", "uniform", {}, 0.5),
    "agent.target_every": ("mdqn", "uniform", {}, 3),
    "agent.leaf_weight": ("mdqn", "uniform", {}, 5.0),
    "agent.dueling": ("mdqn", "uniform", {}, True),
    "backward.lr": ("db", "tlm", {}, 2e-3),
    "backward.lr_decay": ("db", "tlm", {}, 0.9),
    "backward.target_rate": ("db", "tlm", {}, 0.5),
    "backward.zero_init": ("db", "tlm", {}, False),
    "backward.weight_decay": ("db", "tlm", {}, 0.1),
    "backward.max_grad_norm": ("db", "tlm", {}, 0.01),
    "backward.past_batches": ("db", "pessimistic", {}, 2),
    "backward.exact": ("db", "maxent", {}, False),
    "agent.gae_lambda": ("pg", "uniform", {}, 0.2),
    "agent.value_weight": ("pg", "uniform", {}, 0.1),
    "agent.epochs": ("ent-ppo", "uniform", {}, 3),
    "agent.minibatches": ("ent-ppo", "uniform", {}, 3),
    "agent.clip": ("ent-ppo", "uniform", {"agent.lr": 0.1}, 0.01),
    "backward.learn_from": ("db", "tlm", {"sampler": "replay"}, "all"),
    "sampler.copy_rate": ("db", "uniform", {"sampler": "on-policy"}, 0.1),
    "sampler.share": ("db", "uniform", {"sampler": "replay"}, 0.3),
    "sampler.capacity": ("db", "uniform", {"sampler": "replay"}, 3),
    "sampler.top": ("db", "uniform", {"sampler": "replay"}, 0.5),
    "sampler.rounds": ("db", "uniform", {"sampler": "local-search"}, 2),
    "sampler.depth": ("db", "uniform", {"sampler": "local-search"}, 0.2),
    "sampler.accept": ("db", "uniform", {"sampler": "local-search"}, "metropolis"),
    "sampler.chains": ("db", "uniform", {"sampler": "mcmc"}, 16),
    "sampler.alpha": ("db", "uniform", {"sampler": "teacher"}, 0.5),
    "sampler.under_weight": ("db", "uniform", {"sampler": "teacher"}, 1.0),
    "sampler.lr": ("db", "uniform", {"sampler": "teacher"}, 2e-3),
    "sampler.weight_decay": ("db", "uniform", {"sampler": "teacher"}, 0.1),
    "sampler.max_grad_norm": ("db", "uniform", {"sampler": "teacher"}, 0.01),
    "sampler.log_z_lr": ("db", "uniform", {"sampler": "teacher"}, 0.2),
    "sampler.epsilon": ("db", "uniform", {"sampler": "teacher"}, 0.5),
    "network.width": ("db", "uniform", {}, 24),
    "network.layers": ("db", "uniform", {}, 3),
    "network.shared_torso": ("db", "uniform", {}, False),
    "network.attention_heads": ("db", "uniform", BITS, 4),
}
"""For each setting: a pair that reads it, what else it needs, and another value."""

OUTSIDE = {"device", "cuda_graphs", "threads", "preset", "metrics", "eval.samples"}
"""Settings that must not change the numbers; `preset` names defaults, which are settings of their own, and `metrics`
measures more."""


@functools.cache
def _behaviour(settings: Config) -> tuple[list[float], list[dict[str, float]]]:
    trainer = trained(settings)
    history = [{k: v for k, v in row.items() if "second" not in k} for row in trainer.history]
    return weights(trainer).tolist(), history


def test_every_setting_is_covered() -> None:
    assert set(FLAGS) | OUTSIDE == every_setting()


@pytest.mark.parametrize("name", FLAGS)
def test_every_setting_changes_something(name: str) -> None:
    agent, backward, needs, value = FLAGS[name]
    settings = config(agent, backward, **needs)
    if name in CHOICES:
        changed = config(**{"agent": agent, "backward": backward, **needs, name: value})
    else:
        changed = with_values(settings, {name: value})
    assert settings.flat()[name] != value
    assert _behaviour(changed) != _behaviour(settings)


@pytest.mark.parametrize(("agent", "backward"), PAIRS)
def test_every_pair_reads_each_setting_that_its_choices_own(agent: str, backward: str) -> None:
    for name in sorted(owned("agent", agent) | owned("backward", backward)):
        needs = LEARNED if backward == "maxent" else {}
        settings = config(agent, backward, **{"trajectories": 16 * 8, **needs, **FLAGS[name][2]})
        value = True if name == "backward.exact" else FLAGS[name][3]
        assert _behaviour(with_values(settings, {name: value})) != _behaviour(settings), name


@pytest.mark.parametrize(("agent", "backward"), PAIRS)
def test_a_setting_that_a_pair_does_not_own_is_an_error(agent: str, backward: str) -> None:
    settings = config(agent, backward)
    check_config(settings)
    own = owned("agent", agent) | owned("backward", backward) | owned("network", "mlp") | owned("sampler", "on-policy")
    others = {name for name in FLAGS if name.partition(".")[0] in CHOICES and "." in name} - own
    assert len(others) > 5
    for name in others:
        with pytest.raises(InvalidSettingError, match=rf"unknown settings: {name}\. There are here: "):
            with_values(settings, {name: FLAGS[name][3]})


@pytest.mark.parametrize("name", ["replay_capacity", "replay_batch", "priority_alpha", "priority_beta"])
def test_settings_of_the_replay_are_errors_on_policy(name: str) -> None:
    on_policy = config("mdqn", **ON_POLICY)
    check_config(on_policy)
    flag, value = f"agent.{name.replace('_', '-')}", FLAGS[f"agent.{name}"][3]
    with pytest.raises(ValueError, match=f"^--{flag} {value} has no effect with --agent mdqn"):
        check_config(with_values(on_policy, {f"agent.{name}": value}))


def test_the_on_policy_update_is_the_mean_td_loss_of_the_newest_edges() -> None:
    trainer = built(config("mdqn", agent__leaf_weight=7.0, **ON_POLICY))
    agent, batch = trainer.agent, trainer.collect().all
    losses = []
    for b in range(len(batch.lengths)):
        for t in range(int(batch.lengths[b])):
            last = t + 1 == int(batch.lengths[b])
            edge = Transitions(
                batch.states[b, t][None], batch.actions[b, t][None], batch.states[b, t + 1][None],
                batch.backward_actions[b, t][None], batch.log_reward[b][None], torch.tensor([last]),
            )  # fmt: skip
            error = float(agent.td_errors(edge).detach())
            huber = error**2 / 2 if abs(error) < 1 else abs(error) - 0.5
            losses.append(huber * (7.0 if last else 1.0))
    assert float(agent.update(trainer.buffer)["loss"]) == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert trainer.buffer.filled == 0


def test_the_end_of_a_schedule_that_is_off_is_an_error() -> None:
    check_config(config(epsilon_end=0.1, epsilon_trajectories=100))
    with pytest.raises(ValueError, match=r"^--epsilon-end 0.1 has no effect"):
        check_config(config(epsilon_end=0.1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"agent": "mdqm"}, "Unknown agent 'mdqm'. Known, closest first: mdqn, "),
        ({"backward": "TLM"}, "Unknown backward policy 'TLM'. Known, closest first: tlm, "),
    ],
)
def test_unknown_names_are_errors_that_list_the_closest_first(change: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_config(dataclasses.replace(config(), **change))
    with pytest.raises(ValueError, match="Unknown device 'gpu'"):
        resolve_device("gpu")


# --- Learning -------------------------------------------------------------------------------------------------------


def _distance(trainer: Trainer) -> float:
    return trainer.history[-1]["total_variation_exact"]


@pytest.mark.parametrize(("agent", "backward"), [("tb", "tlm"), ("subtb", "naive"), ("mdqn", "tlm")])
def test_a_pair_learns_a_small_grid(agent: str, backward: str) -> None:
    own = {"agent__replay_capacity": 20_000, "agent__replay_batch": 64} if agent in REPLAYING else {}
    settings = config(
        agent,
        backward,
        env_kwargs='{"dim": 2, "side": 5}',
        network__width=64,
        trajectories=16 * 700,
        eval__max_exact_edges=1000,
        epsilon=0.1,
        agent__lr=2e-3,
        **own,
    )
    trainer = built(settings)
    enumeration = trainer.evaluator.enumeration
    assert enumeration is not None
    untrained = total_variation(enumeration.terminal_distribution(trainer.agent.policy()), enumeration.target)
    flat = torch.full_like(enumeration.target, 1 / len(enumeration.target))
    trainer.train(lambda metrics: None, lambda: False, progress=False)
    # The first policy and equal weight on all cells are off by 0.4 and more; missing one of the four modes costs 0.25.
    assert min(untrained, total_variation(flat, enumeration.target)) > 0.4
    assert _distance(trainer) < 0.1
    assert abs(trainer.history[-1]["log_z_error"]) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("agent", "backward"), PAIRS)
def test_every_pair_learns_the_8_by_8_grid_with_default_settings(agent: str, backward: str) -> None:
    changes = {"env_kwargs": '{"dim": 2, "side": 8}', "trajectories": 32_000, "eval_every": 250}
    trainer = trained(with_values(usual("gfn/Hypergrid-v0", agent, backward), changes))
    # An untrained policy is off by 0.8; missing one of the four modes costs 0.25. At a constant rate some pairs hover.
    distances = [row["total_variation_exact"] for row in trainer.history]
    assert min(distances) < 0.05
    assert distances[-1] < 0.1
