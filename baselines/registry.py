"""What `--algo` can be: names, and the algorithms that they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.registry import Registry

if TYPE_CHECKING:
    from baselines.base import Algorithm

ALGORITHMS: Registry[Algorithm] = Registry("algorithm")
"""Names and algorithms, as `"module:thing"`; the thing is a `baselines.base.Algorithm`."""

ALGORITHMS.register("maskable_ppo", "baselines.algorithms:MASKABLE_PPO")
ALGORITHMS.register("ppo", "baselines.algorithms:PPO")
ALGORITHMS.register("a2c", "baselines.algorithms:A2C")
ALGORITHMS.register("trpo", "baselines.algorithms:TRPO")
ALGORITHMS.register("recurrent_ppo", "baselines.algorithms:RECURRENT_PPO")
ALGORITHMS.register("dqn", "baselines.algorithms:DQN")
ALGORITHMS.register("qrdqn", "baselines.algorithms:QRDQN")
ALGORITHMS.register("random", "baselines.algorithms:RANDOM")
ALGORITHMS.register("mcmc", "baselines.algorithms:MCMC")
