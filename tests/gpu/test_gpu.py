"""On a GPU: the gradients of the CPU, and no step that waits for the device. `make gpu` runs these tests."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import pytest
import torch
from gradients import a_batch, gradients
from pairs import DQNS, LAWFUL, POTENTIAL

import gfn_envs
from agents.build import build_trainer
from agents.config import Config, usual, with_values
from agents.model import make_dag
from agents.registry import SAMPLERS
from agents.sampling.rollout import Trajectories, rollout
from agents.trainer import Trainer

DEVICE = "cuda"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device"),
]

ANYWHERE, SOMEWHERE = itertools.cycle(gfn_envs.registered()), itertools.cycle(["gfn/BayesNet-v0", "gfn/Hypergrid-v0"])
EACH_SAMPLER = itertools.cycle([*SAMPLERS.names(), "teacher+replay"])
STOPPING = ("random-stop",)
"""The samplers that need a stop action, as both of `SOMEWHERE` have."""
CASES = [
    (agent, backward, next(SOMEWHERE if agent in POTENTIAL or sampler in STOPPING else ANYWHERE), sampler)
    for (agent, backward), sampler in zip(LAWFUL, EACH_SAMPLER, strict=False)
]
"""Every pair, in turn on each environment at its default size and with each sampler."""


def settings(agent: str, backward: str, env: str, sampler: str) -> Config:
    """Return the settings of a run with the environment's defaults that enumerates and estimates nothing."""
    config = usual(env, agent, backward, sampler=sampler)
    off = {"eval.max_exact_edges": 0, "eval.elbo_samples": 0, "eval.slack_objects": 0, "learning_starts": 0}
    return with_values(config, {"batch_size": 16, **off})


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
@pytest.mark.parametrize(("agent", "backward", "env", "sampler"), CASES)
def test_gradients_are_those_of_the_cpu(agent: str, backward: str, env: str, sampler: str) -> None:
    config = settings(agent, backward, env, sampler)
    if agent in DQNS:
        config = with_values(config, {"agent.on_policy": True})
    cpu, gpu = on("cpu", config), on(DEVICE, config)
    batch = a_batch(cpu)
    there = Trajectories(**{name: field.to(DEVICE) for name, field in batch.tensors().items()})
    for one, other in zip(gradients(cpu, batch), gradients(gpu, there), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4 * max(1.0, float(one.abs().max())))


@pytest.mark.parametrize(("agent", "backward", "env", "sampler"), CASES)
def test_no_step_waits_for_the_device(agent: str, backward: str, env: str, sampler: str) -> None:
    run = on(DEVICE, settings(agent, backward, env, sampler))
    run.step()  # what is made on first use
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            run.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert bool(run.agent.log_z().isnan()) or bool(run.agent.log_z().isfinite())


def test_rewards_are_those_of_the_cpu() -> None:
    for env in gfn_envs.registered():
        one, other = gfn_envs.make(env), gfn_envs.make(env, device=DEVICE)
        logits = torch.zeros(1, one.num_actions)
        states = rollout(one, lambda states, logits=logits: logits, one.reset(64), torch.Generator().manual_seed(0))
        found = other.log_rewards(states.terminal_states.to(DEVICE))
        torch.testing.assert_close(found.log_reward.cpu(), states.log_reward, rtol=1e-4, atol=1e-4)
