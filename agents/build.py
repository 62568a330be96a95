"""Build a trainer from settings."""

from __future__ import annotations

from agents import distributed
from agents.config import Config, check_config
from agents.evaluation.evaluator import Evaluator
from agents.model import build_model
from agents.sampling.buffer import Keeps, RolloutBuffer
from agents.trainer import Trainer
from gfn_envs.dag import DAG
from gfn_envs.memory import Need, demand_all


def build_trainer(config: Config, dag: DAG) -> Trainer:
    """Make everything that a run needs, seeded, on the DAG's device; `ValueError` for wrong settings."""
    check_config(config)
    model = build_model(config, dag)
    batch_size = distributed.share(config.batch_size, "--batch-size")
    keeps = Keeps.all_of(model.agent.keeps, model.backward.keeps)
    keeps = Keeps(keeps.batches, -(-keeps.transitions // distributed.size()))
    kept = Need("the transitions kept", keeps.transitions * (16 * dag.state_dim + 25), "--agent.replay-capacity")
    demand_all([*model.needs, kept], dag.device)
    if config.cuda_graphs:
        _check_recordable(config, dag, keeps)
    buffer = RolloutBuffer(dag, keeps, seed=distributed.own_seed(config.seed + 1))
    sampler = config.sampler_settings.build(model.parts, batch_size)
    evaluator = Evaluator(dag, config.eval, config.metrics, seed=config.seed + 2)
    return Trainer(config, model, sampler, buffer, evaluator)


def _check_recordable(config: Config, dag: DAG, keeps: Keeps) -> None:
    """Raise `ValueError` unless each iteration does the same work on the same tensors of one GPU."""
    if dag.device.type != "cuda":
        raise ValueError("--cuda-graphs needs --device cuda.")
    if distributed.size() > 1:
        raise ValueError("--cuda-graphs works in one process: leave it out under torchrun.")
    reasons = {
        f"--sampler {config.sampler}: take on-policy": config.sampler != Config.sampler,
        f"--agent {config.agent} replays transitions: take --agent.on-policy": keeps.transitions > 0,
        f"--backward {config.backward} learns from old batches: take another": keeps.batches > 1,
    }
    if found := [reason for reason, holds in reasons.items() if holds]:
        raise ValueError(
            f"--cuda-graphs is for runs that keep nothing between iterations. {found[0]}, or leave it out."
        )
