"""The settings of a baseline's run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Self

from agents.config import RunSettings, json_object, with_values
from agents.evaluation.settings import EvaluationSettings
from agents.registry import METRICS, bare
from agents.settings import Bounds, check
from baselines.registry import ALGORITHMS
from gfn_envs.registry import find


@dataclass(frozen=True)
class BaselineConfig(RunSettings):
    """One run of a baseline."""

    kind: ClassVar[str] = "BaselineRun"
    choices: ClassVar[tuple[str, ...]] = ("algo",)
    extends: ClassVar[tuple[str, ...]] = ("trajectories", "steps")

    algo: str = "maskable_ppo"
    """Algorithm, see above; MODULE:NAME first imports the module that registers it, also from the current folder."""
    env: str = "gfn/Hypergrid-v0"
    """Id of the environment; MODULE:ID first imports the module that registers it, also from the current folder."""
    env_kwargs: str = "{}"
    """Keyword arguments of the environment as JSON, such as '{"dim": 2, "side": 8}'."""
    metrics: tuple[str, ...] = ()
    """Metrics besides the usual ones; MODULE:NAME first imports the module that registers it."""
    reward_mode: str = "log_reward"
    """Reward of SB3's algorithms: log_reward or reward when an object is complete, or soft on every edge."""
    trajectories: Annotated[int, Bounds(0, 10**12)] = 100_000
    """Stop after this many complete objects, each with one call of the reward; 0 leaves it to --steps."""
    steps: Annotated[int, Bounds(0, 10**15)] = 0
    """Stop after this many environment steps; 0 leaves it to --trajectories. If given alone, only --steps counts."""
    seed: Annotated[int, Bounds(0, 2**31)] = 0
    """Seed of everything random."""
    device: str = "auto"
    """Where to compute: auto (cuda if available), cpu or cuda."""
    threads: Annotated[int, Bounds(1, 1024)] = 1
    """CPU threads of torch; one is fastest for small networks unless the machine is otherwise idle."""
    num_envs: Annotated[int, Bounds(1, 10**6)] = 64
    """Environments stepped at once: rows of SB3's vector environment, objects per batch (random), or chains (mcmc)."""
    eval_every: Annotated[int, Bounds(1, 10**12)] = 8_000
    """Trajectories between two evaluations; a checkpoint follows each."""
    algo_kwargs: str = "{}"
    """Keyword arguments of the algorithm as JSON; they replace those listed above."""
    eval: EvaluationSettings = field(default_factory=EvaluationSettings)

    def parsed_algo_kwargs(self) -> dict[str, Any]:
        """Return `algo_kwargs` as a dictionary; `ValueError` if it is not a JSON object, or holds NaN or infinity."""
        values = json_object("--algo-kwargs", self.algo_kwargs)
        try:
            json.dumps(values, allow_nan=False)
        except ValueError:
            raise ValueError(f"--algo-kwargs must hold finite numbers, got {self.algo_kwargs[:200]!r}.") from None
        return values

    def unread(self) -> frozenset[str]:
        return frozenset() if ALGORITHMS.find(self.algo).paid else frozenset({"reward_mode"})

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> Self:
        return with_values(cls(), values)


ALGO_PRESETS: dict[str, dict[str, Any]] = {
    "random": {"num_envs": 1024},
    "mcmc": {"num_envs": 16},
}
"""Defaults above that an algorithm changes, on every environment."""
ENV_PRESETS: dict[str, dict[str, Any]] = {
    # Here R lies between 1e-4 and 4, and an algorithm paid R maximises the mean reward. Elsewhere R spans many decades.
    "gfn/Hypergrid-v0": {"reward_mode": "reward"},
    "gfn/HypergridHard-v0": {"reward_mode": "reward"},
}
"""Defaults above that an environment changes."""


def usual_reward_mode(env: str) -> str:
    """Return the default of `--reward-mode` on an environment."""
    return ENV_PRESETS.get(bare(env), {}).get("reward_mode", BaselineConfig.reward_mode)


def usual(env: str = BaselineConfig.env, algo: str = BaselineConfig.algo) -> BaselineConfig:
    """Return the default settings of an algorithm on an environment.

    Each name may be `"module:name"`, where the module registers the name. Raises `ValueError` for an unknown name.
    """
    find(env)
    ALGORITHMS.find(algo)
    row = {"algo": algo, "env": env, "reward_mode": usual_reward_mode(env)}
    return BaselineConfig.from_flat(row | ALGO_PRESETS.get(bare(algo), {}))


def check_config(config: BaselineConfig) -> None:
    """Raise `ValueError` for an unknown name, a number out of range, or a setting that the run would not read.

    Raises `ModuleNotFoundError` if the library of the algorithm is missing.
    """
    default = usual(config.env, config.algo)
    check(config, default, choice=f"--algo {config.algo}")
    check(config.eval, default.eval, "eval.")
    if not config.trajectories and not config.steps:
        raise ValueError("--trajectories 0 and --steps 0 together would never end: give one of them.")
    for name in config.metrics:
        METRICS.find(name)
    ALGORITHMS.find(config.algo).check(config)
