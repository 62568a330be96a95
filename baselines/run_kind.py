"""Runs of baselines as a kind of run, for sweeps and comparisons."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.evaluation.exact import ExactMetrics
from agents.model import make_dag
from agents.registry import bare
from agents.runs.folder import RunFolder
from agents.runs.kinds import NOTHING, Learned, RunKind, Task
from baselines.config import BaselineConfig, check_config, usual, usual_reward_mode
from baselines.registry import ALGORITHMS


class BaselineRun(RunKind):
    """A run of `baselines/run.py`; a sweep names it ALGO, with :REWARD_MODE if that is not the default."""

    settings = BaselineConfig
    main = "baselines.train:main"
    yardstick = True

    def row(self, values: Mapping[str, Any]) -> str:
        algo, mode = bare(str(values["algo"])), values["reward_mode"]
        return algo if mode == usual_reward_mode(str(values["env"])) else f"{algo} ({mode})"

    def planned(self, method: str, task: Task) -> BaselineConfig:
        algo, mode = _parted(method)
        config = task.applied(usual(task.env, algo), lambda config: 1)
        if mode:
            config = dataclasses.replace(config, reward_mode=mode)
        check_config(config)
        return config

    def learned(self, folder: Path) -> Learned:
        from baselines.build import build_trainer

        files = RunFolder(folder, BaselineConfig)
        config = files.read_config()
        trainer = build_trainer(config, make_dag(config))
        files.load(trainer)
        exact = trainer.evaluator.metrics["exact"]
        if not isinstance(exact, ExactMetrics) or exact.enumeration is None:
            return NOTHING
        gflownet = trainer.gflownet()
        return Learned(exact.enumeration, exact.learned(gflownet), "policy" if gflownet else "samples")


def _parted(method: str) -> tuple[str, str]:
    """Return the algorithm, with its module if one is given, and the reward mode, `""` for the default."""
    first, *rest = method.split(":")
    if first in ALGORITHMS.names():
        return first, ":".join(rest)
    return ":".join([first, *rest[:1]]), ":".join(rest[1:])
