"""On a GPU: the gradients of the CPU, and no step that waits for the device. `make gpu` runs these tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from gradients import a_batch, gradients
from pairs import DQNS, EVERYWHERE, unmeasured

import gfn_envs
from agents.build import build_trainer
from agents.config import Config, with_values
from agents.model import make_dag
from agents.sampling.rollout import Trajectories, rollout
from agents.trainer import Trainer

DEVICE = "cuda"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device"),
]


def on(device: str, config: Config) -> Trainer:
    """Build a trainer on a device."""
    config = dataclasses.replace(config, device=device)
    return build_trainer(config, make_dag(config))


@pytest.fixture
def exactly() -> Iterator[None]:
    """Multiply matrices in full float32 precision."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("exactly")
@pytest.mark.parametrize(("agent", "backward", "env", "sampler"), EVERYWHERE)
def test_gradients_are_those_of_the_cpu(agent: str, backward: str, env: str, sampler: str) -> None:
    config = unmeasured(agent, backward, env, sampler)
    cpu, gpu = on("cpu", config), on(DEVICE, config)
    batch = a_batch(cpu)
    there = Trajectories(**{name: field.to(DEVICE) for name, field in batch.tensors().items()})
    for one, other in zip(gradients(cpu, batch), gradients(gpu, there), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4 * max(1.0, float(one.abs().max())))


@pytest.mark.parametrize("on_policy", [True, False])
@pytest.mark.parametrize(("agent", "backward", "env", "sampler"), EVERYWHERE)
def test_no_step_waits_for_the_device(agent: str, backward: str, env: str, sampler: str, on_policy: bool) -> None:
    if not on_policy and agent not in DQNS:
        pytest.skip("it has no replay to turn on")
    values = {} if on_policy else {"agent.on_policy": False}
    run = on(DEVICE, unmeasured(agent, backward, env, sampler, **values))
    run.step()  # what is made on first use
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            run.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert bool(run.agent.log_z().isnan()) or bool(run.agent.log_z().isfinite())


@pytest.mark.parametrize(
    ("agent", "backward", "env"), [case[:3] for case in EVERYWHERE if case[1] != "pessimistic" and case[0] != "sac"]
)
def test_a_recorded_iteration_is_the_same(agent: str, backward: str, env: str) -> None:
    still = {"agent.lr": 0.0, "backward.lr": 0.0, "epsilon": 0.5, "epsilon_end": 0.1, "epsilon_trajectories": 160}
    config = unmeasured(agent, backward, env)
    config = with_values(config, {name: value for name, value in still.items() if name in config.flat()})
    eager, recorded = on(DEVICE, config), on(DEVICE, with_values(config, {"cuda_graphs": True}))
    for _ in range(8):
        eager.step()
        recorded.step()
        found, expected = recorded.buffer.newest.tensors(), eager.buffer.newest.tensors()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(recorded.generator.get_state(), eager.generator.get_state())
    torch.testing.assert_close(recorded._means.read(), eager._means.read(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("agent", ["tb", "db", "subtb", "mdqn"])
def test_a_recorded_run_learns_and_its_rate_decays(agent: str) -> None:
    grid = {"env_kwargs": '{"dim": 2, "side": 8}', "eval.max_exact_edges": 10**5, "batch_size": 64}
    config = unmeasured(agent, "tlm", "gfn/Hypergrid-v0", **grid, **{"agent.lr_decay": 0.999})
    run = on(DEVICE, with_values(config, {"cuda_graphs": True}))
    rates = run.agent.optimizer.adam.param_groups[0]
    before, rate = run.evaluate()["total_variation_exact"], float(rates["lr"])
    for _ in range(600):
        run.step()
    assert run.evaluate()["total_variation_exact"] < 0.3 < before
    assert float(rates["lr"]) == pytest.approx(rate * 0.999**600, rel=1e-3)
    assert run.reward_calls == 600 * 64


def test_rewards_are_those_of_the_cpu() -> None:
    for env in gfn_envs.registered():
        one, other = gfn_envs.make(env), gfn_envs.make(env, device=DEVICE)
        logits = torch.zeros(1, one.num_actions)
        states = rollout(one, lambda states, logits=logits: logits, one.reset(64), torch.Generator().manual_seed(0))
        found = other.log_rewards(states.terminal_states.to(DEVICE))
        torch.testing.assert_close(found.log_reward.cpu(), states.log_reward, rtol=1e-4, atol=1e-4)
