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
    buffer = RolloutBuffer(dag, keeps, seed=distributed.own_seed(config.seed + 1))
    sampler = config.sampler_settings.build(model.parts, batch_size)
    evaluator = Evaluator(dag, config.eval, config.metrics, seed=config.seed + 2)
    return Trainer(config, model, sampler, buffer, evaluator)
