"""The algorithms of `--algo`: the source of each, and its default keyword arguments.

Stable-Baselines3 (Raffin et al. 2021, JMLR 22(268)) and sb3-contrib are imported when one of their algorithms is built.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from agents.sampling.rollout import Policy
from baselines.base import Baseline
from baselines.config import BaselineConfig
from baselines.samplers import MetropolisHastings, RandomPolicy
from gfn_envs.dag import DAG
from gfn_envs.errors import choose
from gfn_envs.reward_modes import REWARD_MODES


@dataclass(frozen=True)
class Sampler:
    """A sampler that learns nothing and needs no other library."""

    sampler: type[RandomPolicy | MetropolisHastings]
    defaults: dict[str, Any] = field(default_factory=dict)
    paid: bool = False

    def check(self, config: BaselineConfig) -> None:
        """Raise `ValueError` for an unknown keyword argument."""
        parameters = inspect.signature(self.sampler).parameters
        accepted = {name: None for name in parameters if name not in ("dag", "num_envs", "seed")}
        for name in config.parsed_algo_kwargs():
            choose(f"keyword argument of {config.algo} in --algo-kwargs", name, accepted)

    def build(self, config: BaselineConfig, dag: DAG) -> Baseline:
        """Return the sampler."""
        arguments = {"num_envs": config.num_envs, "seed": config.seed, **self.defaults, **config.parsed_algo_kwargs()}
        return self.sampler(dag, **arguments)


def actor_logits(model: Any, dag: DAG) -> Policy:
    """Return a function that gives the logits of an actor's action distribution."""
    return lambda states: model.policy.get_distribution(states).distribution.logits


def greedy_logits(model: Any, dag: DAG) -> Policy:
    """Return, as logits, the deterministic policy that takes the legal action with the highest Q-value."""

    def logits(states: Tensor) -> Tensor:
        values = model.policy.quantile_net(states).mean(1) if hasattr(model, "quantile_net") else model.q_net(states)
        best = values.masked_fill(~dag.action_mask(states), -torch.inf).argmax(1, keepdim=True)
        return torch.full_like(values, -1e9).scatter(1, best, 0.0)

    return logits


@dataclass(frozen=True)
class SB3Algorithm:
    """An algorithm of Stable-Baselines3 or sb3-contrib."""

    algorithm: str
    """The class of the algorithm, as `"module:Class"`."""
    defaults: dict[str, Any]
    """Default keyword arguments of the class."""
    policy: str = "MlpPolicy"
    """SB3's name for the kind of policy network."""
    masked: bool = False
    """Whether the algorithm knows action masks."""
    exact: bool = True
    """Whether the policy depends only on the state."""
    stochastic: bool = True
    """Whether the policy is a distribution over actions."""
    logits: Callable[[Any, DAG], Policy] = actor_logits
    """Function that returns the model's policy as logits."""
    extractor: str = "stable_baselines3.common.torch_layers:FlattenExtractor"
    """The class that turns an observation into a vector, as `"module:Class"`."""
    paid: bool = True

    def check(self, config: BaselineConfig) -> None:
        """Raise `ValueError` for an unknown reward mode, `ModuleNotFoundError` if the library is missing."""
        choose("reward mode", config.reward_mode, REWARD_MODES)
        for module, package in (("stable_baselines3", "stable-baselines3"), ("sb3_contrib", "sb3-contrib")):
            if importlib.util.find_spec(module) is None:
                raise ModuleNotFoundError(
                    f"--algo {config.algo} needs {package}, which is not installed: pip install 'gfn-envs[baselines]'."
                )

    def build(self, config: BaselineConfig, dag: DAG) -> Baseline:
        """Return the algorithm on the native vector environment."""
        self.check(config)
        from baselines.sb3 import SB3Baseline

        return SB3Baseline(dag, config, self)


_NET = {"policy_kwargs": {"net_arch": [256, 256]}}
# No discount: the return is the value of an object, however long it took to build.
_ACTOR = {**_NET, "gamma": 1.0, "n_steps": 64}
_PPO = {**_ACTOR, "batch_size": 512, "n_epochs": 4, "learning_rate": 1e-3, "ent_coef": 0.01}
# With a discount: an invalid action leads back to its own state, and without a discount this costs nothing.
_DQN = {
    **_NET, "gamma": 0.99, "learning_rate": 5e-4, "buffer_size": 100_000, "batch_size": 256, "learning_starts": 2_000,
    "train_freq": 1, "gradient_steps": 1, "target_update_interval": 5_000, "exploration_fraction": 0.3,
    "exploration_final_eps": 0.05,
}  # fmt: skip

MASKABLE_PPO = SB3Algorithm("sb3_contrib:MaskablePPO", _PPO, masked=True)
PPO = SB3Algorithm("stable_baselines3:PPO", _PPO)
A2C = SB3Algorithm("stable_baselines3:A2C", {**_ACTOR, "n_steps": 16, "ent_coef": 0.01})
TRPO = SB3Algorithm("sb3_contrib:TRPO", {**_ACTOR, "batch_size": 512})
RECURRENT_PPO = SB3Algorithm(
    "sb3_contrib:RecurrentPPO",
    {**_PPO, "policy_kwargs": {"net_arch": [128], "lstm_hidden_size": 128}},
    policy="MlpLstmPolicy",
    exact=False,
    stochastic=False,
    extractor="baselines.sb3:IntExtractor",
)
DQN = SB3Algorithm("stable_baselines3:DQN", _DQN, stochastic=False, logits=greedy_logits)
QRDQN = SB3Algorithm("sb3_contrib:QRDQN", _DQN, stochastic=False, logits=greedy_logits)
RANDOM = Sampler(RandomPolicy)
MCMC = Sampler(MetropolisHastings, {"mean_back": 8.0})
