"""From settings to a session; the table here is the only place where the name of a baseline is looked up."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from agents.model import resolve_device
from agents.settings import check
from baselines.config import BaselineConfig, preset
from baselines.method import Method
from baselines.samplers import MetropolisHastings, RandomPolicy
from baselines.sb3 import ROWS, SB3Method
from baselines.trainer import Session
from gfn_envs import make
from gfn_envs.dag import DAG
from gfn_envs.errors import choose
from gfn_envs.reward_modes import REWARD_MODES


def _sb3(config: BaselineConfig, dag: DAG) -> Method:
    choose("reward mode", config.reward_mode, REWARD_MODES)
    return SB3Method(dag, config, ROWS[config.algo], str(dag.device))


def _sampler(method: type[RandomPolicy | MetropolisHastings], config: BaselineConfig, dag: DAG) -> Method:
    given, parameters = config.parsed_algo_kwargs(), inspect.signature(method).parameters
    accepted = {name: None for name in parameters if name not in ("dag", "num_envs", "seed")}
    for name in given:
        choose(f"keyword argument of {config.algo} in --algo-kwargs", name, accepted)
    if config.reward_mode != preset(config.env, config.algo).reward_mode:
        raise ValueError(
            f"--reward-mode {config.reward_mode} has no effect with --algo {config.algo}, which is paid nothing: "
            "leave it out."
        )
    arguments: dict[str, Any] = {"num_envs": config.num_envs, "seed": config.seed, **given}
    return method(dag, **arguments)


ALGORITHMS: dict[str, Callable[[BaselineConfig, DAG], Method]] = {
    **dict.fromkeys(ROWS, _sb3),
    "random": lambda config, dag: _sampler(RandomPolicy, config, dag),
    "mcmc": lambda config, dag: _sampler(MetropolisHastings, config, dag),
}


def describe_defaults() -> str:
    """Return the keyword arguments that each algorithm is made with, a line each."""
    rows = {name: row.defaults for name, row in ROWS.items()} | {"random": {}, "mcmc": {"mean_back": 8.0}}
    shown = {name: ", ".join(f"{key}={value}" for key, value in values.items()) for name, values in rows.items()}
    return "\n".join(f"  {name}: {text or '(none)'}" for name, text in shown.items())


def check_config(config: BaselineConfig) -> None:
    """Raise `ValueError` for an unknown name or a number out of range."""
    choose("algorithm", config.algo, ALGORITHMS)
    check(config, config)
    check(config.eval, config.eval, "eval.")
    if not config.trajectories and not config.steps:
        raise ValueError("--trajectories 0 and --steps 0 together would never end: give one of them.")


def build_session(config: BaselineConfig) -> Session:
    """Make everything that a run needs, seeded, on the run's device."""
    check_config(config)
    dag = make(config.env, device=resolve_device(config.device), **config.parsed_env_kwargs())
    return Session(config, dag, ALGORITHMS[config.algo](config, dag))
