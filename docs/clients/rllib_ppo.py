"""RLlib: PPO with RLlib's own action-masking module.

    python docs/clients/rllib_ppo.py [ITERATIONS]

Needs `pip install 'ray[rllib]'`.
"""

import sys

import gymnasium as gym
import numpy as np
import ray
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.examples.rl_modules.classes.action_masking_rlm import ActionMaskingTorchRLModule
from ray.tune.registry import register_env

import gfn_envs


def make(config: dict) -> gym.Env:
    """Return the grid with the names and types that the module asks for."""
    env = gym.make("gfn/Hypergrid-v0", reward_mode="reward", invalid_action="raise", **config)
    return gfn_envs.MaskInObservation(env, observation="observations", dtype=np.float32, flatten=True)


iterations = int(sys.argv[1]) if len(sys.argv) > 1 else 10
register_env("masked grid", make)
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
config = (
    PPOConfig()
    .environment("masked grid", env_config={"dim": 2, "side": 8})
    .env_runners(num_env_runners=0, num_envs_per_env_runner=8)
    .rl_module(rl_module_spec=RLModuleSpec(module_class=ActionMaskingTorchRLModule))
    .training(train_batch_size=1024, minibatch_size=256, num_epochs=4, gamma=1.0, lr=1e-3, entropy_coeff=0.02)
    .debugging(seed=0)
)
algorithm = config.build_algo()
means = [algorithm.train()["env_runners"]["episode_return_mean"] for _ in range(iterations)]
print(f"RLlib: mean reward {means[0]:.3f} of the first objects, {means[-1]:.3f} of the last")
algorithm.stop()
ray.shutdown()
