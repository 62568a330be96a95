"""From settings to a trainer."""

from __future__ import annotations

from agents.evaluation.evaluator import Evaluator
from baselines.config import BaselineConfig, check_config
from baselines.registry import ALGORITHMS
from baselines.trainer import Trainer
from gfn_envs.dag import DAG


def build_trainer(config: BaselineConfig, dag: DAG) -> Trainer:
    """Make everything that a run needs, seeded, on the DAG's device.

    Raises `ValueError` for settings that are wrong, `ModuleNotFoundError` where the algorithm's library is missing.
    """
    check_config(config)
    baseline = ALGORITHMS.find(config.algo).build(config, dag)
    return Trainer(config, baseline, Evaluator(dag, config.eval, config.metrics, seed=config.seed + 2))
