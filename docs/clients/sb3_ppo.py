"""Stable-Baselines3: PPO and DQN on single environments, and PPO with the mask as a part of the observation.

    python docs/clients/sb3_ppo.py [STEPS]

SB3 itself masks no action: an illegal one moves nothing and pays nothing. Needs the extra `baselines`.
"""

import sys

import gymnasium as gym
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import gfn_envs

GRID = {"dim": 2, "side": 8, "reward_mode": "reward"}


def masked():
    """The grid with the observation `{"observation": ..., "action_mask": ...}`, for MultiInputPolicy."""
    return gfn_envs.MaskInObservation(gym.make("gfn/Hypergrid-v0", **GRID), flatten=True)


steps = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
plain = make_vec_env("gfn_envs:gfn/Hypergrid-v0", n_envs=8, env_kwargs=GRID)
one = make_vec_env("gfn_envs:gfn/Hypergrid-v0", n_envs=1, env_kwargs=GRID)
wide = make_vec_env(masked, n_envs=8)
rollout = {"n_steps": 64, "batch_size": 128, "gamma": 1.0, "ent_coef": 0.05, "device": "cpu", "seed": 0}
models = {
    "PPO": PPO("MlpPolicy", plain, **rollout),
    "PPO, mask in the observation": PPO("MultiInputPolicy", wide, **rollout),
    "DQN": DQN("MlpPolicy", one, gamma=1.0, learning_starts=500, exploration_fraction=0.5, device="cpu", seed=0),
}
for name, model in models.items():
    model.learn(steps)
    reward, _ = evaluate_policy(model, model.get_env(), n_eval_episodes=50, deterministic=name == "DQN", warn=False)
    print(f"{name}: mean reward {reward:.3f}")
