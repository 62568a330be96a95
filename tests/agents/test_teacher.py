"""The teacher learns its stated reward from the whole batch, goes where P_F is wrong, and leaves P_F to the agent."""

import math

import pytest
import torch
from torch import Tensor
from true_flows import Flow
from wanderers import Wanderer, built, distances, generator, small

from agents.model import build_model, make_dag
from agents.registry import AGENTS
from agents.sampling.buffer import Batch, Keeps, RolloutBuffer
from agents.sampling.categorical import log_prob
from agents.sampling.mixture import Mixture
from agents.sampling.rollout import Trajectories, rollout
from agents.teacher import Teacher, teacher_log_reward
from agents.trainer import Trainer
from gfn_envs.metrics import total_variation


def teacher_of(trainer: Trainer) -> Teacher:
    samplers = trainer.sampler.samplers if isinstance(trainer.sampler, Mixture) else [trainer.sampler]
    (found,) = (each for each in samplers if isinstance(each, Teacher))
    return found


def buffer_of(trajectories: Trajectories, trainer: Trainer) -> RolloutBuffer:
    buffer = RolloutBuffer(trainer.dag, Keeps())
    buffer.add(Batch.of(trajectories))
    return buffer


class Student(Wanderer):
    """A fixed policy with a log Z of its own."""

    estimate = 0.0

    def log_z(self) -> Tensor:
        return torch.tensor(self.estimate)


def test_the_reward_of_the_teacher_worked_out_by_hand() -> None:
    residual, log_reward = torch.tensor([2.0, -2.0, 0.0, 0.5]), torch.tensor([1.0, -3.0, 4.0, 0.0])
    expected = [
        math.log(1.001 + 4 * 20) + 0.5,
        math.log(1.001 + 4) - 1.5,
        math.log(1.001) + 2.0,
        math.log(1.001 + 0.25 * 20),
    ]
    torch.testing.assert_close(teacher_log_reward(residual, log_reward, 0.5, 19.0), torch.tensor(expected))


@pytest.mark.parametrize(("name", "agent"), [("teacher", "tb"), ("teacher", "mdqn"), ("teacher+replay", "db")])
def test_the_loss_is_that_of_a_plain_loop_over_the_whole_batch(name: str, agent: str) -> None:
    front = "sampler.teacher_" if "+" in name else "sampler."
    own = {front + "alpha": 0.3, front + "under_weight": 5.0, front + "log_z_lr": 1.0}
    trainer = built(small(name, agent, agent__lr=0.05, sampler__copy_rate=0.1, **own))
    for _ in range(4):
        trainer.step()
    batch = trainer.collect()
    dag, student, teacher = trainer.dag, trainer.agent, teacher_of(trainer)
    assert len(batch.all.mask) == (48 if "+" in name else 32)
    assert abs(float(teacher.flow.log_z.detach())) > 1
    losses = []
    for b in range(len(batch.all.mask)):
        log_pf = log_pt = log_pb = 0.0
        for t in range(int(batch.all.lengths[b])):
            here, there = batch.all.states[b, t][None], batch.all.states[b, t + 1][None]
            action, mask = batch.all.actions[b, t][None], dag.action_mask(here)
            log_pf += float(log_prob(student.policy()(here), mask, action).detach())
            log_pt += float(log_prob(teacher.network(here).forward_logits, mask, action).detach())
            log_pb += float(student.log_pb(there, batch.all.backward_actions[b, t][None]))
        log_reward = float(batch.all.log_reward[b])
        delta = log_reward + log_pb - log_pf - float(student.log_z())
        target = math.log(1.001 + delta**2 * (6 if delta > 0 else 1)) + 0.3 * log_reward
        losses.append((float(teacher.flow.log_z.detach()) + log_pt - target - log_pb) ** 2)
    told = trainer.sampler.update(student, trainer.buffer)
    assert told.keys() == {"teacher_loss"}
    assert float(told["teacher_loss"]) == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_the_teacher_learns_its_reward_and_goes_where_the_student_does_not() -> None:
    # One way to each object, so that the reward of a way is that of its object.
    config = small("teacher", "tb", "uniform", **{"env_kwargs": '{"dim": 1, "side": 6}', "sampler.lr": 0.01})
    trainer = built(config)
    dag, teacher, flow = trainer.dag, teacher_of(trainer), Flow.of(trainer.dag)
    e = flow.enumeration
    student = Student(dag)
    student.forward, student.backward, student.estimate = flow.forward_logits.clone(), flow.backward_logits, e.log_z
    student.forward[e.index(torch.tensor([[4, 0]])), 0] -= 6  # hardly ever to the last cell
    start = dag.reset(32)
    for i in range(250):
        walks = rollout(dag, teacher.network.sampler(), start, generator(i), epsilon=0.2)
        teacher.update(student, buffer_of(walks, trainer))
    residual = e.target.log() - e.terminal_distribution(student.policy()).log()
    assert int((residual > 1).sum()) == 1
    target = teacher_log_reward(residual, dag.log_reward(e.states[e.terminal]).double(), 0.0, 19.0).softmax(0)
    learned = e.terminal_distribution(teacher.network.sampler())
    assert total_variation(learned, target) < 0.02
    assert float(learned.max()) > 0.9, "the teacher goes to the cell that is missed"
    assert float(learned.argmax()) == float(residual.argmax())


def test_teacher_and_student_learn_apart() -> None:
    trainer = built(small("teacher", "tb", "naive"))
    for _ in range(2):
        trainer.step()
    teacher = teacher_of(trainer)

    def numbers(module: torch.nn.Module) -> Tensor:
        return torch.cat([p.detach().flatten() for p in module.parameters()])

    trainer.collect()
    modules = [trainer.network, trainer.agent.own, teacher.network, teacher.flow]
    before = [numbers(each) for each in modules]
    trainer.sampler.update(trainer.agent, trainer.buffer)
    between = [numbers(each) for each in modules]
    trainer.agent.update(trainer.buffer)
    after = [numbers(each) for each in modules]
    assert [torch.equal(*pair) for pair in zip(before, between, strict=True)] == [True, True, False, False]
    assert [torch.equal(*pair) for pair in zip(between, after, strict=True)] == [False, False, True, True]


def test_the_teacher_waits_as_the_agent_does_and_its_loss_is_told() -> None:
    trainer = built(small("teacher", learning_starts=2))
    before = teacher_of(trainer).flow.log_z.detach().clone()
    for i in range(3):
        trainer.step()
        assert torch.equal(teacher_of(trainer).flow.log_z.detach(), before) is (i < 2)
    assert trainer.evaluate()["teacher_loss"] > 0


def test_the_teacher_learns_from_the_policies_that_sampled() -> None:
    config = small("teacher", "tb", "naive", agent__lr=0.1, **{"sampler.lr": 0.1})
    stepped, by_hand = built(config), built(config)
    for trainer in (stepped, by_hand):
        trainer.step()
        trainer.evaluate()
    by_hand.collect()
    told = by_hand.sampler.update(by_hand.agent, by_hand.buffer)["teacher_loss"]
    stepped.step()
    assert stepped.evaluate()["teacher_loss"] == float(told)


def test_the_teacher_has_random_actions_of_its_own() -> None:
    for epsilon, alike in ((0.0, True), (0.9, False)):
        trainer = built(small("teacher", **{"sampler.epsilon": epsilon}))
        teacher = teacher_of(trainer)
        sure = torch.tensor([0.0, 0.0, 100.0])
        teacher.network.sampler = lambda scale=1.0: lambda states: sure.expand(len(states), 3)  # noqa: B023
        taught = trainer.sampler.collect(trainer.agent, 1.0, generator()).batch.all.every(1, 16)
        assert len(taught.mask) == 16
        assert bool((taught.lengths == 1).all()) is alike


@pytest.mark.parametrize("agent", AGENTS.names())
def test_every_agent_can_be_taught(agent: str) -> None:
    trainer = built(small("teacher", agent, "uniform", batch_size=48))
    for _ in range(2):
        trainer.step()
    assert math.isfinite(trainer.evaluate()["teacher_loss"])


@pytest.mark.parametrize("name", ["teacher", "replay+teacher"])
def test_the_memory_of_the_teacher_is_counted(name: str) -> None:
    needs = {}
    for sampler in ("on-policy", name):
        config = small(sampler)
        needs[sampler] = {need.what: need.size for need in build_model(config, make_dag(config)).needs}
    weights = "the weights and their optimizer"
    assert needs[name][weights] == 2 * needs["on-policy"][weights]
    assert len(needs[name]) == 2


@pytest.mark.parametrize("agent", ["tb", "db"])
def test_a_small_grid_is_learned_with_a_teacher(agent: str) -> None:
    given = {"env_kwargs": '{"dim": 2, "side": 3}', "network.width": 32, "epsilon": 0.0, "agent.lr": 0.01}
    trainer = built(small("teacher", agent, "uniform", **given))
    start, end = distances(trainer, 200)
    assert end < 0.05 < start / 8
